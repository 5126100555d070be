//! Estimates that several policies share.

use crate::engine::EngineConfig;
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::profile::Scale;
use crate::request::Request;
use crate::state::InstanceState;

use super::ClusterView;

/// Context at which the step of a request on its own is taken, in tokens: near the mean of the public conversation
/// traces.
const REFERENCE_CONTEXT_TOKENS: u32 = 1024;

/// Prompt tokens of the request that the instance is expected to compute.
pub(super) fn uncached_tokens(instance: &InstanceState, request: &Request) -> u32 {
    let cached = instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref());
    request.prompt_tokens.saturating_sub(cached)
}

/// Predicted seconds of the instance's time until it has done what it holds and this request, which is expected to
/// produce `output_tokens`.
pub(super) fn work_with(instance: &InstanceState, request: &Request, output_tokens: f64) -> f64 {
    let own = instance.rates().seconds(f64::from(uncached_tokens(instance, request)), output_tokens);
    instance.work_seconds() + own
}

/// The instances that may be chosen, at most `limit`, the least predicted work with the request first.
pub(super) fn least_work_first<'a>(
    view: &ClusterView<'a>,
    request: &Request,
    limit: u32,
) -> Vec<&'a InstanceState> {
    let output = expected_output_tokens(request);
    let mut instances: Vec<(f64, &InstanceState)> =
        view.ready().map(|instance| (work_with(instance, request, output), instance)).collect();
    // Stable, so that equal work keeps the order of the numbers.
    instances.sort_by(|left, right| left.0.total_cmp(&right.0));
    instances.truncate(limit as usize);
    instances.into_iter().map(|(_, instance)| instance).collect()
}

/// Expected output tokens of the request.
pub(super) fn expected_output_tokens(request: &Request) -> f64 {
    request.predicted.mean(request.max_tokens)
}

/// The true output length, for an oracle.
///
/// # Errors
/// [`Error::Field`] when it is absent: only a simulator knows it.
pub(super) fn true_output_tokens(request: &Request) -> Result<u32> {
    request.true_output_tokens.ok_or_else(|| {
        let field = format!("request {}: true_output_tokens", request.id);
        Error::field(field, "absent", "the true length, which only a simulator can give an oracle")
    })
}

/// Seconds per output token of a request that has an engine to itself.
pub(super) fn unloaded_decode_seconds(config: &EngineConfig) -> f64 {
    let context = REFERENCE_CONTEXT_TOKENS.min(config.max_model_len);
    config.steps.decode_run(1, u64::from(context), Scale::ONE).step(0).as_seconds()
}

/// What a policy keeps for each instance itself.
#[derive(Clone, Debug, Default)]
pub(super) struct PerInstance<T>(Vec<T>);

impl<T: Default> PerInstance<T> {
    /// The value, when one was ever set.
    pub(super) fn get(&self, instance: InstanceId) -> Option<&T> {
        self.0.get(instance.index())
    }

    /// The value, set to its default first if there is none.
    pub(super) fn entry(&mut self, instance: InstanceId) -> &mut T {
        if self.0.len() <= instance.index() {
            self.0.resize_with(instance.index() + 1, T::default);
        }
        &mut self.0[instance.index()]
    }

    /// Every value, by the number of its instance.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

/// Sum over the requests in flight of a number of tokens that follows from the request alone: added when it is
/// dispatched, taken back when it is released, so that the sum of an empty instance is zero.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenTally(PerInstance<u64>);

impl TokenTally {
    pub(super) fn add(&mut self, instance: InstanceId, tokens: u32) {
        *self.0.entry(instance) += u64::from(tokens);
    }

    pub(super) fn take(&mut self, instance: InstanceId, tokens: u32) {
        let sum = self.0.entry(instance);
        *sum = sum.saturating_sub(u64::from(tokens));
    }

    pub(super) fn tokens(&self, instance: InstanceId) -> u64 {
        self.0.get(instance).copied().unwrap_or(0)
    }
}
