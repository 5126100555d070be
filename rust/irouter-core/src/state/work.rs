//! Predicted work in seconds of an instance's time.

use crate::engine::EngineConfig;
use crate::profile::{Scale, StepShape};

/// Context length at which the decode rate is taken, in tokens: near the mean of the public conversation traces.
const REFERENCE_CONTEXT_TOKENS: u32 = 1024;

/// How much of an instance's time a token takes when its batch is full.
///
/// * prefill: duration of a step that is full of prompt tokens, by its tokens;
/// * decode: duration of a decode step of the largest batch that `max_num_seqs` and the KV cache allow at 1,024 tokens
///   each, by its sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkRates {
    /// Seconds per prompt token.
    pub prefill_seconds_per_token: f64,
    /// Seconds per output token.
    pub decode_seconds_per_token: f64,
}

impl WorkRates {
    /// The rates of an engine.
    pub fn new(config: &EngineConfig) -> Self {
        let chunk = config.scheduler.max_num_batched_tokens.min(config.max_model_len);
        let prefill = StepShape {
            prefill_sequences: 1,
            prefill_tokens: chunk,
            prefill_pairs: u64::from(chunk) * u64::from(chunk),
            ..StepShape::default()
        };
        let room = u64::from(config.kv.blocks) * u64::from(config.kv.block_tokens);
        let context = u64::from(REFERENCE_CONTEXT_TOKENS.min(config.max_model_len));
        #[expect(clippy::cast_possible_truncation, reason = "at most max_num_seqs")]
        let batch = (room / context).clamp(1, u64::from(config.scheduler.max_num_seqs)) as u32;
        let decode = config.steps.decode_run(batch, u64::from(batch) * context, Scale::ONE).step(0);
        Self {
            prefill_seconds_per_token: config.steps.step(&prefill, Scale::ONE).as_seconds()
                / f64::from(chunk),
            decode_seconds_per_token: decode.as_seconds() / f64::from(batch),
        }
    }

    /// Seconds for `prompt_tokens` still to be computed and `output_tokens` still to come.
    pub fn seconds(&self, prompt_tokens: f64, output_tokens: f64) -> f64 {
        prompt_tokens.mul_add(self.prefill_seconds_per_token, output_tokens * self.decode_seconds_per_token)
    }
}
