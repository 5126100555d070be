//! An instance at one decision.

use crate::ids::InstanceId;
use crate::impact::{Linear, Load};
use crate::policy::ClusterView;
use crate::state::{InstanceState, Twin};

use super::outlook::{MOST_DEVIATIONS, Outlook};
use super::sketch::{InstanceSketch, RequestSketch};

/// Share of the KV cache below which contexts and expected outputs need no forecast.
const FAR_FROM_FULL: f32 = 0.5;

/// An instance at one decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub(super) id: InstanceId,
    pub(super) outlook: Option<Outlook>,
    pub(super) capacity_tokens: f32,
    /// Contexts and expected outputs, as if all stayed until the last is done.
    pub(super) tokens: f32,
    pub(super) overflow: f32,
    pub(super) in_flight: f32,
    pub(super) slots: f32,
    pub(super) work_seconds: f32,
    /// ln(1 + prompt tokens still to be computed there by what a step takes).
    pub(super) prefill: f32,
    pub(super) prefill_seconds_per_token: f32,
    /// ln of the twin's speed factor.
    pub(super) slowness: f32,
    linear: Linear,
    load: Load,
    speed: f64,
}

/// The latency impact of a placement.
#[expect(clippy::struct_field_names, reason = "the unit")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) ttft_seconds: f32,
    pub(super) e2e_seconds: f32,
    pub(super) inflicted_seconds: f32,
    /// The part of that which is due to a prefill step of its own.
    pub(super) stall_seconds: f32,
}

impl Site {
    #[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
    pub(super) fn new(view: &ClusterView<'_>, instance: &InstanceState, sketch: &mut InstanceSketch) -> Self {
        let capacity_tokens = instance.kv_capacity_tokens() as f32;
        let tokens = instance.context_tokens() as f32 + instance.remaining_output_tokens() as f32;
        // Nothing to forecast where they would not fill half of it if all stayed until the last is done.
        let full = tokens > FAR_FROM_FULL * capacity_tokens;
        let outlook = full.then(|| sketch.outlook(view, instance));
        let budget = instance.config().scheduler.max_num_batched_tokens as f32;
        let speed = instance.twin().map_or(1.0, Twin::speed);
        Self {
            id: instance.id(),
            outlook,
            capacity_tokens,
            tokens,
            overflow: outlook.map_or(-MOST_DEVIATIONS, |outlook| outlook.peak_deviations(capacity_tokens)),
            in_flight: instance.in_flight() as f32,
            slots: instance.config().scheduler.max_num_seqs as f32,
            work_seconds: instance.work_seconds() as f32,
            prefill: libm::log1pf(instance.prefill_backlog_tokens() as f32 / budget),
            prefill_seconds_per_token: instance.rates().prefill_seconds_per_token as f32,
            slowness: libm::log(speed) as f32,
            linear: sketch.linear(instance),
            load: Load::of(instance),
            speed,
        }
    }

    /// What a request costs there of which so many tokens are cached.
    #[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
    pub(super) fn cost(&self, prompt_tokens: u32, cached_tokens: u32, sketch: &RequestSketch) -> Cost {
        let seconds =
            self.linear.seconds(&self.load, prompt_tokens, cached_tokens, sketch.output_tokens.into());
        let at_speed = |seconds: f64| (self.speed * seconds) as f32;
        Cost {
            ttft_seconds: at_speed(seconds.ttft),
            e2e_seconds: at_speed(seconds.e2e),
            inflicted_seconds: at_speed(seconds.inflicted_each) * self.in_flight,
            stall_seconds: at_speed(seconds.step_each) * self.in_flight,
        }
    }

    /// Deviations by which the request would overflow its KV cache.
    pub(super) fn overflow_with(&self, sketch: &RequestSketch) -> f32 {
        match self.outlook {
            Some(outlook) => outlook.with(&sketch.outlook).peak_deviations(self.capacity_tokens),
            None if self.tokens + sketch.tokens <= FAR_FROM_FULL * self.capacity_tokens => -MOST_DEVIATIONS,
            // What is there is less than half; alone the request may still be too much.
            None => sketch.outlook.peak_deviations(self.capacity_tokens - self.tokens),
        }
    }
}
