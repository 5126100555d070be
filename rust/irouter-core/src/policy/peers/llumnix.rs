//! `llumnix`: Llumnix's dispatch by KV blocks.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;

use super::load::Source;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// The `load` dispatch of Llumnix, as of August 2025 (B24 of the peers' list), without migration.
///
/// ```text
/// remaining_steps:  argmax  (total - used - waiting) / (w + r)        (blocks per request)
/// kv_blocks_ratio:  argmin  (used + waiting) / total                  (a share, above 1 when requests wait)
/// ```
///
/// * `used`, `total`: KV blocks of the instance;
/// * `waiting`: blocks of the prompts that wait in the engine, here of its prompt tokens still to be computed;
/// * `w`, `r`: requests waiting and running; without any the steps are endless.
///
/// All by the engine's last report, every 50 ms; nothing is added for what was sent since. With `own_events`, `used` and
/// `waiting` together are the prompts and known outputs of the requests in flight, which `w` and `r` count.
///
/// One of the `top_k` best is drawn, equals in the order of their numbers. Llumnix moves running requests between
/// instances to repair a bad choice; that needs engines that can, and is left out. Output lengths and cached prefixes are
/// not known to it.
#[derive(Clone, Debug)]
pub(crate) struct Llumnix {
    options: LlumnixOptions,
    source: Source,
    draws: Draws,
}

/// Constants of [`Llumnix`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LlumnixOptions {
    /// What is compared: `remaining_steps`.
    pub metric: LoadMetric,
    /// How many of the best are drawn from: 1.
    pub top_k: u32,
    /// Seconds between reports: 0.05.
    pub report_seconds: f64,
    /// Whether the router's own counts take the place of reports: false.
    pub own_events: bool,
}

/// A load metric of Llumnix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LoadMetric {
    /// Blocks available per request: how many steps it could grow by a block.
    #[default]
    RemainingSteps,
    /// Share of the blocks that is used or waited for.
    KvBlocksRatio,
}

impl Default for LlumnixOptions {
    fn default() -> Self {
        Self { metric: LoadMetric::default(), top_k: 1, report_seconds: 0.05, own_events: false }
    }
}

impl Llumnix {
    /// The metric, lower better.
    fn cost(&self, instance: &InstanceState) -> f64 {
        let load = self.source.load(instance);
        let block = f64::from(instance.config().kv.block_tokens);
        let total = f64::from(instance.config().kv.blocks);
        let wanted = match self.source {
            Source::Reports(_) => load.kv_usage * total + load.queued_prefill_tokens as f64 / block,
            Source::OwnEvents => instance.context_tokens() as f64 / block,
        };
        match self.options.metric {
            LoadMetric::KvBlocksRatio => wanted / total,
            LoadMetric::RemainingSteps => {
                let requests = f64::from(load.waiting) + f64::from(load.running);
                if requests == 0.0 { f64::NEG_INFINITY } else { (wanted - total) / requests }
            }
        }
    }
}

impl Configurable for Llumnix {
    type Options = LlumnixOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;
    const TUNABLE: &'static [Tunable] =
        &[Tunable { option: "top_k", low: 1.0, high: 4.0, scale: Scale::Count }];

    fn new(options: LlumnixOptions, seed: u64) -> Result<Self> {
        if options.top_k == 0 {
            return Err(Error::field("top_k", 0, "at least 1"));
        }
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { options, source, draws: Draws::new(seed) })
    }
}

impl Policy for Llumnix {
    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        if self.options.top_k == 1 {
            return view.lowest(|instance| self.cost(instance));
        }
        let mut ranked: Vec<_> = view.ready().map(|instance| (self.cost(instance), instance.id())).collect();
        ranked.sort_by(|left, right| left.0.total_cmp(&right.0));
        let best = u32::try_from(ranked.len()).unwrap_or(u32::MAX).min(self.options.top_k);
        if best == 0 {
            return Err(view.no_instance());
        }
        Ok(ranked[self.draws.below(best) as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{BLOCKS, Cluster, assert_close, at, request};

    fn policy(options: LlumnixOptions) -> Llumnix {
        Llumnix::new(options, 1).unwrap()
    }

    fn report(waiting: u32, running: u32, kv_usage: f64, queued_prefill_tokens: u64) -> EngineReport {
        EngineReport { at: at(0.05), waiting, running, kv_usage, queued_prefill_tokens }
    }

    #[test]
    fn both_metrics_are_as_written() {
        let mut steps = policy(LlumnixOptions::default());
        let mut ratio = policy(LlumnixOptions { metric: LoadMetric::KvBlocksRatio, ..Default::default() });
        let mut cluster = Cluster::new(steps.needs(), 2);
        // 512 used and 64 waiting of 1,024 blocks, 2 requests; 256 used, 4 requests.
        cluster.report(0, report(1, 1, 0.5, 1024));
        cluster.report(1, report(0, 4, 0.25, 0));
        let costs = |policy: &Llumnix| [0, 1].map(|instance| policy.cost(cluster.instance(instance)));
        assert_close(costs(&steps), [-448.0 / 2.0, -768.0 / 4.0]);
        assert_close(costs(&ratio), [576.0 / 1024.0, 0.25]);
        assert_eq!(cluster.place(&mut steps, &request(1, 1)), 0);
        assert_eq!(cluster.place(&mut ratio, &request(1, 1)), 1);
        cluster.report(1, EngineReport { at: at(0.1), ..EngineReport::default() });
        assert_eq!(cluster.place(&mut steps, &request(1, 1)), 1, "no request, endless steps");
    }

    #[test]
    fn own_events_count_waiting_prompts_once() {
        let mut policy = policy(LlumnixOptions {
            metric: LoadMetric::KvBlocksRatio,
            own_events: true,
            ..Default::default()
        });
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.dispatch(&mut policy, request(160, 10), 0);
        let ratio = policy.cost(cluster.instance(0));
        assert!((ratio - 10.0 / f64::from(BLOCKS)).abs() < 1e-12, "{ratio}");
    }

    #[test]
    fn one_of_the_best_is_drawn_evenly() {
        let mut policy = policy(LlumnixOptions { top_k: 2, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 3);
        for (instance, kv_usage) in [(0, 0.2), (1, 0.9), (2, 0.1)] {
            cluster.report(instance, report(0, 1, kv_usage, 0));
        }
        let mut counts = [0_u32; 3];
        for _ in 0..2000 {
            counts[cluster.place(&mut policy, &request(1, 1)) as usize] += 1;
        }
        let chi = 2.0 * (f64::from(counts[0]) - 1000.0).powi(2) / 1000.0;
        assert!(counts[1] == 0 && chi < 6.63, "{counts:?}");
    }

    #[test]
    fn bad_constants_are_named() {
        let default = LlumnixOptions::default();
        for (options, field) in [
            (LlumnixOptions { top_k: 0, ..default }, "top_k"),
            (LlumnixOptions { report_seconds: 0.0, ..default }, "report_seconds"),
        ] {
            let error = Llumnix::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
