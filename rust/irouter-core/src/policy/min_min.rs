//! `min_min`: the waiting request that some instance completes first.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::configurable::Configurable;
use super::estimate::TokenTally;
use super::{ClusterView, End, Needs, Policy, QueueView, Verdict};

/// The classic min-min heuristic with the paper's time estimate (Jain et al., appendix A.2.3).
///
/// ```text
/// argmin over waiting requests and ready instances of   free(instance) + T(prompt, bound)        (seconds)
/// ```
///
/// * `bound`: upper bound of the request's predicted bucket, of 0-256, 256-2048 and 2048 up to its `max_tokens` (the
///   paper's three); the bucket is the most probable one of the predicted distribution, as a classifier says it;
/// * `T`: prompt tokens and output tokens at the instance's seconds per token with full batches
///   ([`crate::state::WorkRates`]), the whole prompt: the paper knows no prefix cache;
/// * `free`: when the instance has done what it holds, by the same estimate: prompt tokens still to compute, and the
///   bounds of the requests in flight less what they have produced.
///
/// Nothing is held back: the queue has several candidates only while no instance was ready, or when requests come
/// together. With equal instances the rule is shortest job first. Ties go to the first in the queue's order and the
/// lowest instance number.
#[derive(Clone, Debug)]
pub(crate) struct MinMin {
    options: MinMinOptions,
    bounds: TokenTally,
}

/// Constants of [`MinMin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MinMinOptions {
    /// Edges between the buckets in output tokens: 256 and 2,048, the paper's.
    pub bucket_edges: [u32; 2],
    /// Most waiting requests compared in a decision: 64.
    pub candidates: usize,
}

impl Default for MinMinOptions {
    fn default() -> Self {
        Self { bucket_edges: [256, 2048], candidates: 64 }
    }
}

impl MinMin {
    /// Upper bound of the most probable bucket, in output tokens.
    fn bound(&self, request: &Request) -> u32 {
        let [low, high] = self.options.bucket_edges;
        let [above_low, above_high] = [low, high].map(|edge| request.predicted.survival(f64::from(edge)));
        let (short, middle) = (1.0 - above_low, above_low - above_high);
        // Of equally probable buckets the shortest.
        let bound = if short >= middle && short >= above_high {
            low
        } else if middle >= above_high {
            high
        } else {
            request.max_tokens
        };
        bound.min(request.max_tokens)
    }

    /// Seconds until the instance would have completed the request, whose bound is given.
    fn completion(&self, instance: &InstanceState, request: &Request, bound: u32) -> f64 {
        let prompt = instance.queued_prefill_tokens() + u64::from(request.prompt_tokens);
        let bounds = self.bounds.tokens(instance.id()).saturating_sub(instance.produced_tokens());
        instance.rates().seconds(prompt as f64, (bounds + u64::from(bound)) as f64)
    }
}

impl Configurable for MinMin {
    type Options = MinMinOptions;

    fn new(options: MinMinOptions, _seed: u64) -> Result<Self> {
        let [low, high] = options.bucket_edges;
        if low >= high {
            return Err(Error::field("bucket_edges", format!("[{low}, {high}]"), "two ascending numbers"));
        }
        if options.candidates == 0 {
            return Err(Error::field("candidates", 0, "at least 1"));
        }
        Ok(Self { options, bounds: TokenTally::default() })
    }
}

impl Policy for MinMin {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let bound = self.bound(request);
        view.lowest(|instance| self.completion(instance, request, bound))
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        let mut first: Option<(f64, Verdict)> = None;
        for candidate in queue.candidates(self.options.candidates) {
            let bound = self.bound(candidate.request);
            for instance in view.ready() {
                let seconds = self.completion(instance, candidate.request, bound);
                if first.is_none_or(|(earliest, _)| seconds < earliest) {
                    let verdict = Verdict::Dispatch { request: candidate.key, instance: instance.id() };
                    first = Some((seconds, verdict));
                }
            }
        }
        first.map(|(_, verdict)| verdict).ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.bounds.add(instance, self.bound(request));
    }

    fn released(&mut self, request: &Request, instance: InstanceId, _end: End) {
        self.bounds.take(instance, self.bound(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, at, request};

    fn policy() -> MinMin {
        MinMin::new(MinMinOptions::default(), 0).unwrap()
    }

    #[test]
    fn a_length_counts_as_the_upper_bound_of_its_bucket() {
        let bounds = [10, 255, 257, 2047, 2049].map(|tokens| policy().bound(&request(1, tokens)));
        assert_eq!(bounds, [256, 256, 2048, 2048, 8192]);
        let short = Request { max_tokens: 100, ..request(1, 10) };
        assert_eq!(policy().bound(&short), 100, "never above max_tokens");
    }

    #[test]
    fn completion_is_what_the_instance_holds_and_the_request_at_its_rates() {
        let mut policy = policy();
        let mut cluster = Cluster::new(policy.needs(), 1);
        let resident = cluster.dispatch(&mut policy, request(1000, 300), 0);
        let seconds = |cluster: &Cluster, policy: &MinMin| {
            policy.completion(cluster.instance(0), &request(500, 10), 256)
        };
        // 0.1 ms per prompt token, 1 ms per output token.
        assert!((seconds(&cluster, &policy) - (1.5e3 * 1e-4 + (2048.0 + 256.0) * 1e-3)).abs() < 1e-12);
        cluster.progress(resident, 48);
        assert!((seconds(&cluster, &policy) - (0.5e3 * 1e-4 + (2000.0 + 256.0) * 1e-3)).abs() < 1e-12);
        cluster.finish(&mut policy, resident);
        assert!((seconds(&cluster, &policy) - (0.05 + 0.256)).abs() < 1e-12);
    }

    #[test]
    fn the_earliest_completion_goes_first_wherever_it_waits() {
        let mut policy = policy();
        let mut cluster = Cluster::new(policy.needs(), 2);
        cluster.dispatch(&mut policy, request(100, 10), 0);
        cluster.wait(&mut policy, request(100, 3000));
        cluster.wait(&mut policy, request(900, 100));
        cluster.wait(&mut policy, request(800, 100));
        // The two short ones: 0.080 + 0.256 s, then 0.090 + 0.256 s, on instance 1 and then on 0, which holds less.
        let mut order = Vec::new();
        for _ in 0..3 {
            let (instance, _) = cluster.decide(&mut policy, at(0.0));
            order.push((cluster.last_prompt_tokens(), instance.unwrap()));
        }
        assert_eq!(order, [(800, 1), (900, 0), (100, 1)]);
    }

    #[test]
    fn bad_constants_are_named() {
        for (bucket_edges, candidates, field) in [([256, 256], 1, "bucket_edges"), ([1, 2], 0, "candidates")]
        {
            let error = MinMin::new(MinMinOptions { bucket_edges, candidates }, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
