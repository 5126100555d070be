//! `block_simulate`: runs the model of every instance ahead, and goes where the request ends first.

use serde::{Deserialize, Serialize};

use crate::engine::{Executor, Observer};
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::impact::{Lengths, OWN_TAG, own_job, run_ahead};
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use crate::policy::configurable::Configurable;
use crate::policy::estimate::{least_work_first, unloaded_decode_seconds};
use crate::policy::{ClusterView, Needs, Policy};

/// Block's predictive scheduling ("Block: Balancing Load in LLM Serving with Context, Knowledge and Predictive
/// Scheduling", arXiv 2508.03611; B26 of the peers' list): the least end-to-end latency that a simulation of the instance predicts.
///
/// ```text
/// argmin  end of the request when the instance's twin runs ahead with it        (seconds)
/// ```
///
/// * the twin runs on from the present with the requests in flight at their predicted lengths: what they have produced and
///   what is expected still to come, given that; then the request is put behind them with its own predicted length;
/// * with `length_quantile` a quantile of each length takes the place of the mean, again given what has been produced;
/// * only the `max_instances` with the least predicted work are simulated, and none further than `lookahead_seconds`, nor
///   beyond the best end so far, which changes no choice;
/// * where no simulation comes to the request's end, the least predicted work decides.
///
/// Later arrivals are not known to it, nor what the request costs the others. Block polls its instances
/// and predicts lengths by a model of its own; here both are the router's. Ties go to the least predicted work, then to the
/// lowest number.
#[derive(Clone, Debug)]
pub(crate) struct BlockSimulate {
    options: BlockSimulateOptions,
    lookahead: Picos,
}

/// Constants of [`BlockSimulate`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BlockSimulateOptions {
    /// Instances simulated for a decision: 16.
    pub max_instances: u32,
    /// How far a simulation runs, in seconds: 300.
    pub lookahead_seconds: f64,
    /// The quantile at which lengths are taken: none, their mean.
    pub length_quantile: Option<f64>,
}

impl Default for BlockSimulateOptions {
    fn default() -> Self {
        Self { max_instances: 16, lookahead_seconds: 300.0, length_quantile: None }
    }
}

/// Waits for the end of the request.
#[derive(Clone, Copy, Debug, Default)]
struct OwnEnd(Option<Picos>);

impl Observer for OwnEnd {
    fn finished(&mut self, tag: u64, at: Picos) {
        if tag == OWN_TAG {
            self.0 = Some(at);
        }
    }
}

impl BlockSimulate {
    /// When the request would end on the instance; `None` when that is not before `bound`, or never.
    fn end(
        &self,
        view: &ClusterView<'_>,
        instance: &InstanceState,
        request: &Request,
        bound: Picos,
    ) -> Result<Option<Picos>> {
        let lengths = self.options.length_quantile.map_or(Lengths::Mean, Lengths::Quantile);
        let (Some(mut engine), Some(job)) =
            (run_ahead(view.state(), instance, lengths), own_job(instance, request, lengths))
        else {
            return Ok(None);
        };
        let output_tokens = job.output_tokens;
        let start = view.reaches_engine();
        engine.submit(start, job)?;
        // It hardly ends sooner than alone. From there on the time grows by a quarter at once: an engine runs fastest when
        // it is not stopped, and runs on beyond the end for no longer than that.
        let alone = f64::from(output_tokens) * unloaded_decode_seconds(instance.config());
        let mut elapsed = Picos::from_seconds(alone).unwrap_or(Picos::MAX).max(Picos::MILLISECOND);
        let mut own = OwnEnd::default();
        loop {
            let until = start.saturating_add(elapsed).min(bound);
            engine.advance(until, &mut own)?;
            if own.0.is_some() || until == bound {
                return Ok(own.0.filter(|&end| end < bound));
            }
            elapsed = elapsed.saturating_add(Picos(elapsed.0 / 4));
        }
    }
}

impl Configurable for BlockSimulate {
    type Options = BlockSimulateOptions;

    fn new(options: BlockSimulateOptions, _seed: u64) -> Result<Self> {
        if options.max_instances == 0 {
            return Err(Error::field("max_instances", 0, "at least 1"));
        }
        let seconds = options.lookahead_seconds;
        let lookahead = Picos::from_seconds(seconds).filter(|lookahead| *lookahead > Picos::ZERO);
        let lookahead = lookahead
            .ok_or_else(|| Error::field("lookahead_seconds", seconds, "a positive number of seconds"))?;
        if let Some(level) = options.length_quantile.filter(|level| !(*level > 0.0 && *level < 1.0)) {
            return Err(Error::field("length_quantile", level, "a number between 0 and 1"));
        }
        Ok(Self { options, lookahead })
    }
}

impl Policy for BlockSimulate {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, twin: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let shortlist = least_work_first(view, request, self.options.max_instances);
        let mut chosen = shortlist.first().ok_or_else(|| view.no_instance())?.id();
        let mut bound = view.now.saturating_add(self.lookahead);
        // Alone there is nothing to compare.
        for instance in shortlist.iter().filter(|_| shortlist.len() > 1) {
            if let Some(end) = self.end(view, instance, request, bound)? {
                (chosen, bound) = (instance.id(), end);
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{FastForward, Job};
    use crate::length::{LEVELS, LengthDistribution};
    use crate::policy::testing::{Cluster, at, engine, request, with_blocks};

    fn policy() -> BlockSimulate {
        BlockSimulate::new(BlockSimulateOptions::default(), 0).unwrap()
    }

    fn end(policy: &BlockSimulate, cluster: &Cluster, instance: u32, request: &Request) -> Option<Picos> {
        policy.end(&cluster.view(), cluster.instance(instance), request, Picos::MAX).unwrap()
    }

    /// A prompt of 10 tokens takes 1 ms, a step 1 ms a sequence.
    fn busy(policy: &mut BlockSimulate, residents: [&[u32]; 2]) -> Cluster {
        let mut cluster = Cluster::new(policy.needs(), 2);
        for (instance, lengths) in (0..).zip(residents) {
            for &tokens in lengths {
                cluster.dispatch(policy, request(10, tokens), instance);
            }
        }
        cluster
    }

    #[test]
    fn the_request_goes_where_it_ends_first() {
        let mut policy = policy();
        let own = request(10, 100);
        let cluster = busy(&mut policy, [&[500], &[20, 20]]);
        // Two prompts, then 99 steps of two; three prompts, 19 steps of three, then 80 alone.
        assert_eq!(end(&policy, &cluster, 0, &own), Some(at(0.002 + 0.198)));
        assert_eq!(end(&policy, &cluster, 1, &own), Some(at(0.003 + 0.057 + 0.080)));
        assert_eq!(cluster.place(&mut policy, &own), 1, "although two are there");
        let cluster = busy(&mut policy, [&[500], &[20, 20, 400, 400]]);
        assert_eq!(end(&policy, &cluster, 1, &own), Some(at(0.005 + 0.095 + 0.240)));
        assert_eq!(cluster.place(&mut policy, &own), 0);
    }

    #[test]
    fn what_is_not_simulated_to_its_end_is_left_to_the_least_predicted_work() {
        // 40 ms against 100 ms, although the one has 100 tokens to produce and the other 80.
        let own = request(10, 20);
        for (options, chosen) in [
            (BlockSimulateOptions::default(), 0),
            (BlockSimulateOptions { lookahead_seconds: 0.05, ..Default::default() }, 0),
            (BlockSimulateOptions { lookahead_seconds: 0.01, ..Default::default() }, 1),
            (BlockSimulateOptions { max_instances: 1, ..Default::default() }, 1),
        ] {
            let mut policy = BlockSimulate::new(options, 0).unwrap();
            let cluster = busy(&mut policy, [&[100], &[20, 20, 20, 20]]);
            assert_eq!(cluster.place(&mut policy, &own), chosen, "{options:?}");
        }
    }

    #[test]
    fn lengths_are_taken_at_their_mean_or_at_a_quantile() {
        let even = LengthDistribution::from_quantiles(&LEVELS.map(|level| 200.0 * level)).unwrap();
        for (length_quantile, chosen) in [(None, 1), (Some(0.1), 0)] {
            let options = BlockSimulateOptions { length_quantile, ..Default::default() };
            let mut policy = BlockSimulate::new(options, 0).unwrap();
            let mut cluster = busy(&mut policy, [&[], &[100]]);
            for _ in 0..2 {
                let resident = Request { predicted: Arc::new(even.clone()), ..request(10, 1) };
                cluster.dispatch(&mut policy, resident, 0);
            }
            // 300 ms beside two of 100 tokens, or 140 ms beside two of 20, against 200 ms.
            assert_eq!(cluster.place(&mut policy, &request(10, 100)), chosen, "{length_quantile:?}");
        }
    }

    #[test]
    fn what_a_resident_has_produced_is_not_simulated_again() {
        let mut policy = policy();
        let mut cluster = Cluster::new(policy.needs(), 2);
        let old = cluster.dispatch(&mut policy, request(10, 500), 0);
        cluster.dispatch(&mut policy, request(10, 400), 1);
        cluster.set_now(0.1);
        let own = request(10, 100);
        assert_eq!(cluster.place(&mut policy, &own), 1, "both outlast it, and 1 has less work");
        cluster.progress(old, 480);
        assert_eq!(end(&policy, &cluster, 0, &own), Some(at(0.1 + 0.002 + 19.0 * 0.002 + 0.080)));
        assert_eq!(cluster.place(&mut policy, &own), 0);
    }

    /// Ends of jobs in an engine.
    #[derive(Debug, Default)]
    struct Ends(Vec<(u64, Picos)>);

    impl Observer for Ends {
        fn finished(&mut self, tag: u64, at: Picos) {
            self.0.push((tag, at));
        }
    }

    #[test]
    fn with_exact_lengths_the_predicted_end_is_the_engines() {
        let policy = &mut policy();
        let mut cluster = Cluster::new(policy.needs(), 1);
        let mut real = FastForward::new(engine(), None);
        let mut keys = Vec::new();
        let mut ends = Ends::default();
        for number in 0..60u32 {
            let now = at(0.04 * f64::from(number));
            real.advance(now, &mut ends).unwrap();
            for (tag, at) in ends.0.drain(..) {
                cluster.set_now(at.as_seconds());
                cluster.finish(policy, keys[usize::try_from(tag).unwrap()]);
            }
            cluster.set_now(now.as_seconds());
            let (prompt_tokens, output_tokens) = (1 + 517 * number % 1999, 1 + 37 * number % 89);
            let request = with_blocks(prompt_tokens, output_tokens, u64::from(number % 3));
            let job =
                |tag| Job { tag, prompt_tokens, output_tokens, prompt_blocks: request.prompt_blocks.clone() };
            let mut ahead = real.clone();
            ahead.submit(now, job(OWN_TAG)).unwrap();
            let mut own = OwnEnd::default();
            ahead.advance(at(1000.0), &mut own).unwrap();
            assert_eq!(end(policy, &cluster, 0, &request), own.0, "request {number}");
            real.submit(now, job(keys.len() as u64)).unwrap();
            keys.push(cluster.dispatch(policy, request, 0));
        }
        assert!(real.load().waiting > 0, "the engine's own queue was part of it");
    }

    #[test]
    fn bad_constants_are_named() {
        let default = BlockSimulateOptions::default();
        for (options, field) in [
            (BlockSimulateOptions { max_instances: 0, ..default }, "max_instances"),
            (BlockSimulateOptions { lookahead_seconds: 0.0, ..default }, "lookahead_seconds"),
            (BlockSimulateOptions { lookahead_seconds: f64::NAN, ..default }, "lookahead_seconds"),
            (BlockSimulateOptions { length_quantile: Some(1.0), ..default }, "length_quantile"),
        ] {
            let error = BlockSimulate::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
