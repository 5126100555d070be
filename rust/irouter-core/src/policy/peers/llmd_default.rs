//! `llmd_default`: the scorers that llm-d's router ships by default.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::{InstanceState, PrefixIndex};
use crate::time::Picos;

use super::affinity::cached_share;
use super::load::Source;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::estimate::PerInstance;
use crate::policy::{ClusterView, Needs, Policy};

/// The default profile of `llm-d-router`, as of August 2026 (B16 of the peers' list).
///
/// ```text
/// argmax  queue_weight x (max w - w) / (max w - min w)  +  kv_weight x (1 - k)  +  prefix_weight x matched / blocks
/// ```
///
/// * `w`: requests waiting in the engine; the first term is `queue_weight` for all when all are equal;
/// * `k`: share of the KV cache in use. Both by the engine's last report, every 50 ms; nothing is added for what was sent
///   since;
/// * `matched / blocks`: share of the prompt's leading blocks that went to the instance before, by an index of the
///   router's own: blocks of `kv_blocks_per_index_block` KV blocks (64 tokens), at most `max_prompt_blocks` of a prompt,
///   the least recently used forgotten beyond `max_index_blocks` of an instance. No block, no match.
///
/// With `own_events` the router's own counts stand for `w` and `k`, and the share is that of the prompt's full KV blocks
/// that are expected to be cached. Output lengths are not known to it. Ties are broken at random, as by llm-d's max-score picker.
#[derive(Clone, Debug)]
pub(crate) struct LlmdDefault {
    options: LlmdDefaultOptions,
    source: Source,
    draws: Draws,
    sent: PerInstance<Option<PrefixIndex>>,
}

/// Constants of [`LlmdDefault`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LlmdDefaultOptions {
    /// Weight of the queue scorer: 2.
    pub queue_weight: f64,
    /// Weight of the KV cache utilisation scorer: 2.
    pub kv_weight: f64,
    /// Weight of the prefix cache scorer: 3.
    pub prefix_weight: f64,
    /// KV blocks that make one block of the index: 4, which is llm-d's 64 tokens with blocks of 16.
    pub kv_blocks_per_index_block: u32,
    /// Most index blocks of a prompt that are looked at: 256.
    pub max_prompt_blocks: u32,
    /// Index blocks remembered for each instance: 31,250.
    pub max_index_blocks: u32,
    /// Seconds between reports: 0.05.
    pub report_seconds: f64,
    /// Whether the router's own counts and prefix index take the place of reports and of llm-d's index: false.
    pub own_events: bool,
}

impl Default for LlmdDefaultOptions {
    fn default() -> Self {
        Self {
            queue_weight: 2.0,
            kv_weight: 2.0,
            prefix_weight: 3.0,
            kv_blocks_per_index_block: 4,
            max_prompt_blocks: 256,
            max_index_blocks: 31_250,
            report_seconds: 0.05,
            own_events: false,
        }
    }
}

impl LlmdDefaultOptions {
    /// Hashes of the request's index blocks: that of the last KV block of each stands for all before it.
    fn index_blocks_of(&self, request: &Request) -> Vec<u64> {
        let size = self.kv_blocks_per_index_block as usize;
        let blocks = request.prompt_blocks.as_deref().unwrap_or_default();
        blocks.iter().skip(size - 1).step_by(size).take(self.max_prompt_blocks as usize).copied().collect()
    }
}

impl LlmdDefault {
    /// Share of the request's prompt that the instance is expected to cache; `blocks` are its index blocks.
    fn cached_share(&self, instance: &InstanceState, request: &Request, blocks: &[u64]) -> f64 {
        match self.source {
            Source::OwnEvents => cached_share(instance, request).unwrap_or(0.0),
            Source::Reports(_) => {
                let index = self.sent.get(instance.id()).and_then(Option::as_ref);
                let matched = index.map_or(0, |index| index.matched_blocks(blocks));
                if matched == 0 { 0.0 } else { f64::from(matched) / blocks.len() as f64 }
            }
        }
    }
}

impl Configurable for LlmdDefault {
    type Options = LlmdDefaultOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;
    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "queue_weight", low: 0.0, high: 10.0, scale: Scale::Linear },
        Tunable { option: "kv_weight", low: 0.0, high: 10.0, scale: Scale::Linear },
        Tunable { option: "prefix_weight", low: 0.0, high: 10.0, scale: Scale::Linear },
    ];

    fn new(options: LlmdDefaultOptions, seed: u64) -> Result<Self> {
        for (field, weight) in [
            ("queue_weight", options.queue_weight),
            ("kv_weight", options.kv_weight),
            ("prefix_weight", options.prefix_weight),
        ] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::field(field, weight, "zero or more"));
            }
        }
        for (field, count) in [
            ("kv_blocks_per_index_block", options.kv_blocks_per_index_block),
            ("max_prompt_blocks", options.max_prompt_blocks),
            ("max_index_blocks", options.max_index_blocks),
        ] {
            if count == 0 {
                return Err(Error::field(field, 0, "at least 1"));
            }
        }
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { options, source, draws: Draws::new(seed), sent: PerInstance::default() })
    }
}

impl Policy for LlmdDefault {
    fn needs(&self) -> Needs {
        Needs { prefix: self.options.own_events, ..self.source.needs() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let LlmdDefaultOptions { queue_weight, kv_weight, prefix_weight, .. } = self.options;
        let blocks = self.options.index_blocks_of(request);
        let waiting = view.ready().map(|instance| self.source.load(instance).waiting);
        let most = waiting.clone().max().unwrap_or(0);
        let range = most - waiting.min().unwrap_or(0);
        let costs: Vec<f64> = view
            .ready()
            .map(|instance| {
                let load = self.source.load(instance);
                let queue = if range == 0 { 1.0 } else { f64::from(most - load.waiting) / f64::from(range) };
                let cached = self.cached_share(instance, request, &blocks);
                -(queue_weight * queue + kv_weight * (1.0 - load.kv_usage) + prefix_weight * cached)
            })
            .collect();
        self.draws.lowest_cost(view, costs)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        if self.options.own_events {
            return;
        }
        let blocks = self.options.index_blocks_of(request);
        let capacity = self.options.max_index_blocks;
        let index = self.sent.entry(instance).get_or_insert_with(|| PrefixIndex::new(capacity));
        index.touch(&blocks);
    }

    fn left(&mut self, instance: InstanceId) {
        *self.sent.entry(instance) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, assert_close, at, request, with_blocks};

    fn policy(options: LlmdDefaultOptions) -> LlmdDefault {
        LlmdDefault::new(options, 0).unwrap()
    }

    fn report(seconds: f64, waiting: u32, kv_usage: f64) -> EngineReport {
        EngineReport { at: at(seconds), waiting, kv_usage, ..EngineReport::default() }
    }

    #[test]
    fn queue_and_cache_usage_weigh_the_same() {
        let mut policy = policy(LlmdDefaultOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 3);
        for (instance, waiting, usage) in [(0, 0, 0.9), (1, 10, 0.0), (2, 4, 0.25)] {
            cluster.report(instance, report(0.05, waiting, usage));
        }
        // 1 + 0.1, 0 + 1, 0.6 + 0.75.
        assert_eq!(cluster.place(&mut policy, &request(64, 10)), 2);
        cluster.report(2, report(0.1, 4, 0.55));
        assert_eq!(cluster.place(&mut policy, &request(64, 10)), 0, "1.1 against 1.05");
    }

    #[test]
    fn a_prefix_that_was_sent_before_attracts_by_its_share_in_blocks_of_64_tokens() {
        let mut policy = policy(LlmdDefaultOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        // 2 index blocks; the last 63 tokens are part of none.
        cluster.dispatch(&mut policy, with_blocks(191, 10, 1), 1);
        let share = |prompt| {
            let request = with_blocks(prompt, 10, 1);
            let blocks = policy.options.index_blocks_of(&request);
            policy.cached_share(cluster.instance(1), &request, &blocks)
        };
        assert_close([63, 128, 256, 320].map(share), [0.0, 1.0, 0.5, 0.4]);
        cluster.report(1, report(0.05, 9, 0.0));
        cluster.report(0, report(0.05, 0, 0.0));
        // 3 x 1 against 2 for the empty queue.
        assert_eq!(cluster.place(&mut policy, &with_blocks(170, 10, 1)), 1);
        assert_eq!(cluster.place(&mut policy, &with_blocks(256, 10, 1)), 0, "3 x 0.5 against 2");
        policy.left(InstanceId(1));
        assert_eq!(cluster.place(&mut policy, &with_blocks(170, 10, 1)), 0);
    }

    #[test]
    fn own_events_take_the_place_of_reports_and_index() {
        let mut policy = policy(LlmdDefaultOptions { own_events: true, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(32, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 1);
        cluster.finish(&mut policy, first);
        assert_eq!(cluster.place(&mut policy, &turn), 1, "one of two blocks is cached");
        cluster.dispatch(&mut policy, request(10, 10), 1);
        assert_eq!(cluster.place(&mut policy, &turn), 0, "3 x 0.5 against 2 for the empty queue");
    }

    #[test]
    fn bad_constants_are_named() {
        let default = LlmdDefaultOptions::default();
        for (options, field) in [
            (LlmdDefaultOptions { queue_weight: -1.0, ..default }, "queue_weight"),
            (LlmdDefaultOptions { kv_weight: f64::NAN, ..default }, "kv_weight"),
            (LlmdDefaultOptions { prefix_weight: f64::INFINITY, ..default }, "prefix_weight"),
            (LlmdDefaultOptions { kv_blocks_per_index_block: 0, ..default }, "kv_blocks_per_index_block"),
            (LlmdDefaultOptions { max_prompt_blocks: 0, ..default }, "max_prompt_blocks"),
            (LlmdDefaultOptions { max_index_blocks: 0, ..default }, "max_index_blocks"),
            (LlmdDefaultOptions { report_seconds: 0.0, ..default }, "report_seconds"),
        ] {
            let error = LlmdDefault::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
