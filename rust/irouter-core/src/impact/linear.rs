//! The paper's linear form of the latency impact.

use crate::engine::EngineConfig;
use crate::profile::{Scale, SchedulerMode, StepShape};
use crate::request::Request;
use crate::state::InstanceState;

use super::Impact;

/// Prompt and output of a request by which the scales of the penalties are set, in tokens: the longest prompts of the
/// paper's data, and as much output.
const REFERENCE_TOKENS: f64 = 1000.0;
/// Points of each fit.
const POINTS: u32 = 16;

/// Jain et al., "Intelligent Router for LLM Workloads" (arXiv 2408.13510), section 5.2, with gradients from a profile.
///
/// ```text
/// T_p   = grad1 u + grad2 K                                      seconds
/// r_p   = -(T_p - epsilon) where T_p > epsilon, else 0           at least -1
/// r_d   = 1 - n (grad1 u + grad2 (p + d)) / scale                held within -1 to 1
/// r_mix = alpha r_p + (1 - alpha) r_d
/// ```
///
/// * `p`, `u`: the request's prompt tokens, and those of them that are not cached; `d`: its expected output tokens;
/// * `n`, `K`: the requests there, and the tokens that they have in the KV cache;
/// * `grad1`: seconds per prompt token, the slope of the least squares line through steps that only prefill one chunk, at 16
///   sizes up to the token budget; `grad2`: seconds per token in the batch, of the line through decode steps at 16 batch
///   sizes up to `max_num_seqs`, each request with 1/16 to 16/16 of what the KV cache and `max_model_len` leave it.
///
/// The paper prints the last line, the range of the others and what they depend on, not their formulas: the ones here are
/// reconstructed from that. It prints gradients of its own GPU (3.2e-4 and 3.3e-5), of which the second does not fit its
/// figure, and not epsilon. Here epsilon is `grad1` x 1,000 tokens, the longest prompts of its data, which on its GPU is
/// 0.32 s; the scale is such that a full batch of requests with 1,000 tokens of prompt and of output puts `r_d` at -1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Seconds per prompt token.
    pub grad1: f64,
    /// Seconds of a decode step per token in the batch.
    pub grad2: f64,
    /// Seconds up to which a prompt is no penalty.
    pub epsilon_seconds: f64,
    /// Seconds at which the decode penalty has fallen by one.
    pub scale_seconds: f64,
    /// Weight of the prompt phase: 0.5.
    pub alpha: f64,
    /// Seconds of a decode step without tokens in the batch.
    decode_step_seconds: f64,
    /// Seconds of a step of its own for prompts, beyond those of their tokens; 0 where decode steps take them along.
    prefill_step_seconds: f64,
}

/// What the linear form knows of an instance: sums over its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    requests: f64,
    context_tokens: f64,
    queued_prefill_tokens: f64,
    /// Mean over the requests of what they are expected to still produce.
    remaining_tokens: f64,
    /// Whether a request is there that has no token yet.
    prompt_there: bool,
}

/// A placement in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds {
    pub(crate) ttft: f64,
    pub(crate) e2e: f64,
    /// The delay of each of the requests there.
    pub(crate) inflicted_each: f64,
    /// The part of it that is due to a step of its own.
    pub(crate) step_each: f64,
}

/// The penalties of a placement, from -1, the worst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// `r_p`, -1 to 0.
    pub prompt: f64,
    /// `r_d`, -1 to 1.
    pub decode: f64,
    /// `r_mix`, -1 to 0.5 with equal weights.
    pub mixing: f64,
}

impl Linear {
    /// With gradients fitted to an engine's step times.
    pub fn new(config: &EngineConfig) -> Self {
        let chunk = config.scheduler.max_num_batched_tokens.min(config.max_model_len);
        let (grad1, prefill_step_seconds) = line((1..=POINTS).map(|point| {
            let tokens = (chunk * point).div_ceil(POINTS);
            let shape = StepShape {
                prefill_sequences: 1,
                prefill_tokens: tokens,
                prefill_pairs: u64::from(tokens) * u64::from(tokens),
                ..StepShape::default()
            };
            (f64::from(tokens), config.steps.step(&shape, Scale::ONE).as_seconds())
        }));
        let prefills_alone = config.scheduler.mode == SchedulerMode::VllmV0;
        let slots = config.scheduler.max_num_seqs;
        let capacity = u64::from(config.kv.blocks) * u64::from(config.kv.block_tokens);
        let steps = (1..=POINTS).flat_map(|batch| {
            let decodes = (slots * batch).div_ceil(POINTS);
            let most = (capacity / u64::from(decodes)).min(u64::from(config.max_model_len));
            (1..=u64::from(POINTS))
                .map(move |part| (decodes, u64::from(decodes) * (most * part / u64::from(POINTS))))
        });
        let (grad2, decode_step_seconds) = line(steps.map(|(decodes, context)| {
            (context as f64, config.steps.decode_run(decodes, context, Scale::ONE).step(0).as_seconds())
        }));
        let reference = grad1 * REFERENCE_TOKENS + grad2 * 2.0 * REFERENCE_TOKENS;
        Self {
            grad1,
            grad2,
            epsilon_seconds: grad1 * REFERENCE_TOKENS,
            scale_seconds: 0.5 * f64::from(slots) * reference,
            alpha: 0.5,
            decode_step_seconds,
            prefill_step_seconds: if prefills_alone { prefill_step_seconds } else { 0.0 },
        }
    }

    /// The penalties of a request with `prompt_tokens`, `cached_tokens` of them cached, and `output_tokens`, on an instance
    /// with `requests` that have `context_tokens` in the KV cache.
    pub fn penalties(
        &self,
        requests: u32,
        context_tokens: f64,
        prompt_tokens: u32,
        cached_tokens: u32,
        output_tokens: f64,
    ) -> Penalties {
        let own = self.grad1 * f64::from(prompt_tokens - cached_tokens);
        let over = own + self.grad2 * context_tokens - self.epsilon_seconds;
        let prompt = if over > 0.0 { -over.min(1.0) } else { 0.0 };
        let growth = self.grad2 * (f64::from(prompt_tokens) + output_tokens);
        let decode = (1.0 - f64::from(requests) * (own + growth) / self.scale_seconds).clamp(-1.0, 1.0);
        Penalties { prompt, decode, mixing: self.alpha * prompt + (1.0 - self.alpha) * decode }
    }

    /// The same quantities in seconds, of a request with `prompt_tokens`, `cached_tokens` of them cached, and `output_tokens`.
    ///
    /// ```text
    /// TTFT = f + grad1 (queued prompt tokens + u) + s + grad2 K
    /// E2E = TTFT + d (s + grad2 (K + p + d / 2))
    /// inflicted = n (f + grad1 u + min(d, r) grad2 (p + d / 2))
    /// ```
    ///
    /// with `s` the decode step of an empty batch and `r` the mean output that the requests there are expected to still
    /// produce; `f`: a step without tokens where prompts have steps of their own, which inflicts nothing when a prompt is
    /// there without a token yet: the engine is at prefills, and its next one takes along all that came meanwhile. Everybody there is delayed alike.
    pub(crate) fn seconds(
        &self,
        load: &Load,
        prompt_tokens: u32,
        cached_tokens: u32,
        output_tokens: f64,
    ) -> Seconds {
        let uncached = f64::from(prompt_tokens.saturating_sub(cached_tokens));
        let own = self.grad2 * (f64::from(prompt_tokens) + 0.5 * output_tokens);
        let step = self.decode_step_seconds + self.grad2 * load.context_tokens;
        let ttft = self.prefill_step_seconds + self.grad1 * (load.queued_prefill_tokens + uncached) + step;
        let own_step = if load.prompt_there { 0.0 } else { self.prefill_step_seconds };
        Seconds {
            ttft,
            e2e: ttft + output_tokens * (step + own),
            step_each: own_step,
            inflicted_each: own_step + self.grad1 * uncached + output_tokens.min(load.remaining_tokens) * own,
        }
    }

    /// The latency impact by these seconds. The KV cache overflows with certainty or not at all.
    pub fn impact(&self, instance: &InstanceState, request: &Request) -> Impact {
        let cached_tokens = instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref());
        let output = request.predicted.mean(request.max_tokens);
        let load = Load::of(instance);
        let seconds = self.seconds(&load, request.prompt_tokens, cached_tokens, output);
        let overlap = output.min(load.remaining_tokens);
        let own = f64::from(request.prompt_tokens) + output;
        let peak = load.context_tokens + load.requests * overlap + own;
        let kv_peak_share = peak / instance.kv_capacity_tokens() as f64;
        Impact {
            ttft_seconds: seconds.ttft,
            e2e_seconds: seconds.e2e,
            inflicted_seconds: load.requests * seconds.inflicted_each,
            largest_inflicted_seconds: if load.requests > 0.0 { seconds.inflicted_each } else { 0.0 },
            kv_peak_share,
            overflow_probability: f64::from(u8::from(kv_peak_share > 1.0)),
            preemptions: None,
            cached_tokens,
            residents: instance.in_flight(),
            prompts_ahead: instance.awaiting_first_token(),
        }
    }
}

impl Load {
    /// Of an instance as it is now.
    pub(crate) fn of(instance: &InstanceState) -> Self {
        let requests = f64::from(instance.in_flight());
        Self {
            requests,
            context_tokens: instance.context_tokens() as f64,
            queued_prefill_tokens: instance.prefill_backlog_tokens() as f64,
            remaining_tokens: instance.remaining_output_tokens() / requests.max(1.0),
            prompt_there: instance.awaiting_first_token() > 0,
        }
    }
}

/// Slope and intercept of the least squares line, none of them negative.
fn line(points: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let count = points.clone().count() as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (xx, xy) = points.fold((0.0, 0.0), |(xx, xy), point| {
        (xx + (point.0 - x) * (point.0 - x), xy + (point.0 - x) * (point.1 - y))
    });
    let slope = if xx > 0.0 { (xy / xx).max(0.0) } else { 0.0 };
    (slope, (y - slope * x).max(0.0))
}
