//! llm-d's filter for cached prefixes, which several of its rules begin with.

use crate::error::{Error, Result};
use crate::policy::estimate::uncached_tokens;
use crate::request::Request;
use crate::state::InstanceState;

/// llm-d's `prefix-cache-affinity-filter` (llm-d-router of autumn 2026).
///
/// ```text
/// sticky  <=>  cached full blocks / full blocks of the prompt >= threshold
/// keep only the sticky instances, unless there is none, or
///     least TTFT of the sticky - least TTFT of the others > max_ttft_penalty_seconds
/// ```
///
/// A penalty of 0 keeps them always. Without block hashes nothing is sticky.
#[derive(Clone, Copy, Debug)]
pub(super) struct AffinityFilter {
    pub(super) threshold: f64,
    pub(super) max_ttft_penalty_seconds: f64,
}

impl AffinityFilter {
    /// Checks both constants; `threshold` is the name of the first as users know it.
    pub(super) fn validate(&self, threshold: &str) -> Result<()> {
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            return Err(Error::field(threshold, self.threshold, "a share above 0, up to 1"));
        }
        let penalty = self.max_ttft_penalty_seconds;
        if !(penalty.is_finite() && penalty >= 0.0) {
            return Err(Error::field("max_ttft_penalty_seconds", penalty, "zero or more"));
        }
        Ok(())
    }

    /// Whether an instance that caches such a share of the prompt's full blocks is sticky.
    pub(super) fn is_sticky(&self, cached_share: Option<f64>) -> bool {
        cached_share.is_some_and(|share| share >= self.threshold)
    }

    /// Whether only the sticky instances are kept, of those whose stickiness and TTFT in seconds are given.
    pub(super) fn keeps_sticky(&self, instances: impl Iterator<Item = (bool, f64)>) -> bool {
        let [mut sticky, mut others] = [None::<f64>; 2];
        for (is_sticky, ttft) in instances {
            let least = if is_sticky { &mut sticky } else { &mut others };
            *least = Some(least.map_or(ttft, |least| least.min(ttft)));
        }
        match (sticky, others) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(sticky), Some(others)) => {
                let penalty = self.max_ttft_penalty_seconds;
                penalty == 0.0 || sticky - others <= penalty
            }
        }
    }
}

/// Share of the prompt's full blocks that the instance is expected to cache; `None` for a prompt without one.
pub(super) fn cached_share(instance: &InstanceState, request: &Request) -> Option<f64> {
    let block_tokens = instance.config().kv.block_tokens;
    let full = request.prompt_tokens / block_tokens;
    let cached = (request.prompt_tokens - uncached_tokens(instance, request)) / block_tokens;
    (full > 0).then(|| f64::from(cached) / f64::from(full))
}
