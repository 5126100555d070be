//! What the predictor knows of a request and an instance.

use crate::policy::estimate::{expected_output_tokens, uncached_tokens};
use crate::policy::peers::affinity::cached_share;
use crate::request::Request;
use crate::state::InstanceState;

use super::options::LlmdPredictedLatencyOptions;

/// Features of TTFT; those of TPOT are the first [`TPOT_FEATURES`].
const TTFT_FEATURES: usize = 9;
const TPOT_FEATURES: usize = 7;

/// A request and an instance at the time of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Features {
    /// Share of the KV cache in use.
    pub(super) kv_usage: f64,
    /// Requests in the engine's queue.
    pub(super) waiting: u32,
    /// Requests in flight, as the router counts them.
    pub(super) in_flight: u32,
    /// Uncached prompt tokens of the requests whose first token has not come.
    pub(super) prefill_tokens_in_flight: u64,
    /// Prompt of the request.
    pub(super) prompt_tokens: u32,
    /// Tokens of it that have to be computed.
    pub(super) uncached_tokens: u32,
    /// Share of its full blocks that the instance caches.
    pub(super) cached_share: Option<f64>,
    /// Expected output of the request; 0 where lengths are no feature.
    pub(super) output_tokens: f64,
    /// Expected output still to come of the requests in flight; 0 where lengths are no feature.
    pub(super) remaining_output_tokens: f64,
}

impl Features {
    pub(super) fn new(
        instance: &InstanceState,
        request: &Request,
        options: &LlmdPredictedLatencyOptions,
    ) -> Self {
        let reported = if options.own_events { None } else { instance.report() };
        let (kv_usage, waiting) = match reported {
            Some(report) => (report.kv_usage, report.waiting),
            None if options.own_events => (
                instance.context_tokens() as f64 / instance.kv_capacity_tokens() as f64,
                instance.awaiting_first_token(),
            ),
            None => (0.0, 0),
        };
        let (output_tokens, remaining_output_tokens) = if options.predicted_lengths {
            (expected_output_tokens(request), instance.remaining_output_tokens())
        } else {
            (0.0, 0.0)
        };
        Self {
            kv_usage: kv_usage.min(1.0),
            waiting,
            in_flight: instance.in_flight(),
            prefill_tokens_in_flight: instance.queued_prefill_tokens(),
            prompt_tokens: request.prompt_tokens,
            uncached_tokens: uncached_tokens(instance, request),
            cached_share: cached_share(instance, request),
            output_tokens,
            remaining_output_tokens,
        }
    }

    /// As a row of a table for TTFT.
    #[expect(clippy::cast_possible_truncation, reason = "a split needs no more digits")]
    pub(super) fn ttft_row(&self) -> [f32; TTFT_FEATURES] {
        [
            self.kv_usage as f32,
            self.prompt_tokens as f32,
            self.waiting as f32,
            self.in_flight as f32,
            self.prefill_tokens_in_flight as f32,
            self.output_tokens as f32,
            self.remaining_output_tokens as f32,
            self.cached_share.unwrap_or(0.0) as f32,
            self.uncached_tokens as f32,
        ]
    }

    /// As a row of a table for TPOT, which has no cached prefix.
    pub(super) fn tpot_row(&self) -> [f32; TPOT_FEATURES] {
        let row = self.ttft_row();
        std::array::from_fn(|index| row[index])
    }
}
