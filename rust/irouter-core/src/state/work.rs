//! Predicted work in seconds of an instance's time.

use crate::engine::EngineConfig;
use crate::policy::Needs;
use crate::profile::{Scale, StepShape};
use crate::request::Request;

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
    /// Seconds of that decode step.
    pub decode_step_seconds: f64,
    /// Share of the instance that one token in its KV cache is.
    pub share_per_kv_token: f64,
    /// Share of the instance that one batch slot is.
    pub share_per_slot: f64,
}

/// What a request is expected to take of an instance, by its prompt and predicted length alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effort {
    /// Seconds of an instance's time for its tokens ([`WorkRates::seconds`]).
    pub work_seconds: f64,
    /// Seconds of a whole instance that what it holds amounts to ([`WorkRates::occupancy_seconds`]); 0 unless asked for
    /// ([`crate::policy::Needs::occupancy`]).
    pub occupancy_seconds: f64,
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
            decode_step_seconds: decode.as_seconds(),
            share_per_kv_token: 1.0 / room as f64,
            share_per_slot: 1.0 / f64::from(config.scheduler.max_num_seqs),
        }
    }

    /// Seconds for `prompt_tokens` still to be computed and `output_tokens` still to come.
    pub fn seconds(&self, prompt_tokens: f64, output_tokens: f64) -> f64 {
        prompt_tokens.mul_add(self.prefill_seconds_per_token, output_tokens * self.decode_seconds_per_token)
    }

    /// Seconds of a whole instance that the request is expected to take, by what it holds rather than by its tokens.
    ///
    /// ```text
    /// prompt x prefill rate + step x E[ sum over x < L of max((prompt + x) / KV tokens, 1 / slots) ]
    /// ```
    ///
    /// A request stays `L` steps and holds, at each, its share of the KV cache or of the batch slots, whichever is larger: what
    /// others cannot have. Where the cache is small, a long request takes far more of the instance than its tokens say. The
    /// expectation is over ten quantiles of the predicted length, cut at `max_tokens`.
    pub fn occupancy_seconds(&self, request: &Request) -> f64 {
        const QUANTILES: u32 = 10;
        let prompt = f64::from(request.prompt_tokens);
        // From here on it holds more of the cache than of the slots.
        let turn = (self.share_per_slot / self.share_per_kv_token - prompt).max(0.0);
        let held = |tokens: f64| {
            let below = tokens.min(turn);
            let beyond = (tokens - turn).max(0.0) * (prompt + f64::midpoint(turn, tokens.max(turn)));
            below.mul_add(self.share_per_slot, beyond * self.share_per_kv_token)
        };
        let most = f64::from(request.max_tokens);
        let levels = (0..QUANTILES).map(|index| (f64::from(index) + 0.5) / f64::from(QUANTILES));
        let steps: f64 = levels.map(|level| held(request.predicted.quantile(level).min(most))).sum();
        prompt
            .mul_add(self.prefill_seconds_per_token, steps / f64::from(QUANTILES) * self.decode_step_seconds)
    }

    /// The measures of a request that nobody has cached.
    pub(crate) fn effort(&self, request: &Request, needs: Needs) -> Effort {
        let output_tokens = request.predicted.mean(request.max_tokens);
        Effort {
            work_seconds: self.seconds(f64::from(request.prompt_tokens), output_tokens),
            occupancy_seconds: if needs.occupancy { self.occupancy_seconds(request) } else { 0.0 },
        }
    }
}
