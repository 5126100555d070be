//! Latency profiles: what an engine is, and how long its steps take.

mod capacity;
mod step;

use serde::{Deserialize, Serialize};

pub use capacity::{ModelShape, kv_capacity_blocks};
pub use step::{DecodeRun, Scale, StepModel, StepShape};

use crate::error::{Error, Result};

/// A profile as it is written in JSON: one model on one kind of accelerator behind one engine configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name such as `llama-3.1-8b@h100`.
    pub name: String,
    /// Model name.
    pub model: String,
    /// Accelerator name with its memory in GB, such as `h100-80`.
    pub accelerator: String,
    /// Accelerators per instance.
    pub tensor_parallel: u32,
    /// Most tokens of prompt and output together.
    pub max_model_len: u32,
    /// How the engine batches.
    pub scheduler: Scheduler,
    /// How much KV cache it has.
    pub kv: KvCache,
    /// How long a step takes.
    pub step_time: StepTime,
    /// Where the step times come from.
    pub source: Source,
}

/// Batching rules of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// Which scheduler.
    pub mode: SchedulerMode,
    /// Most requests running at a time.
    pub max_num_seqs: u32,
    /// Most tokens in a step; for `sarathi` the chunk size.
    pub max_num_batched_tokens: u32,
    /// Admit a request only when the blocks of its whole input are free, though a chunk would do.
    #[serde(default)]
    pub reserve_full_input: bool,
    /// Share of the KV blocks kept free when a request is admitted.
    #[serde(default)]
    pub watermark: f64,
}

/// The schedulers that the engine model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerMode {
    /// Token budget shared by running requests first, then chunks of waiting prompts.
    VllmV1,
    /// Whole prompts first, in steps of their own; no chunks.
    VllmV0,
    /// Every decode, then prompt chunks up to a fixed number of tokens.
    Sarathi,
}

/// KV cache of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvCache {
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Blocks of the instance.
    pub blocks: u32,
    /// Whether full prompt blocks with hashes are kept for later requests.
    #[serde(default)]
    pub prefix_cache: bool,
}

/// Step time in milliseconds, in one of two forms (`reference` figures: Vidur, aiconfigurator fits).
///
/// With `P` prefill tokens in `q` prefill sequences, `S` the sum of chunk x (past + chunk / 2), `D` decodes and `K` the
/// sum of their contexts:
///
/// * form `A`: `constant + prefill_token P + prefill_attention S + decode_sequence D + decode_context K`;
/// * form `C`: `dense[P + D] + per_sequence[q + D] + prefill_sequence q + prefill_token P + prefill_attention S
///   + decode [D > 0] + decode_sequence D + decode_context K`, the curves linear between their knots.
///
/// In a step with both prefill and decodes, `decode_sequence` and `decode_context` are multiplied by `mixed_*`.
/// The step takes `max(that, launch_floor) + overhead`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTime {
    /// Constant part of form `A`, or the curves of form `C`.
    pub form: Form,
    /// Per prefill token.
    pub prefill_token_ms: f64,
    /// Per pair of tokens that attention visits in prefill.
    pub prefill_attention_ms: f64,
    /// Per decoding sequence.
    pub decode_sequence_ms: f64,
    /// Per token of context of the decoding sequences.
    pub decode_context_token_ms: f64,
    /// Factor on `decode_sequence_ms` in mixed steps.
    #[serde(default = "one")]
    pub mixed_decode_sequence: f64,
    /// Factor on `decode_context_token_ms` in mixed steps.
    #[serde(default = "one")]
    pub mixed_decode_context: f64,
    /// Added to every step.
    #[serde(default)]
    pub overhead_ms: f64,
    /// The shortest time in which the host can launch a step.
    #[serde(default)]
    pub launch_floor_ms: f64,
}

fn one() -> f64 {
    1.0
}

/// The two forms of [`StepTime`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum Form {
    /// Five coefficients.
    A {
        /// Time of an empty step.
        constant_ms: f64,
    },
    /// Curves and six coefficients.
    C {
        /// Knots (tokens in the step, ms), tokens ascending.
        dense_ms: Vec<(u32, f64)>,
        /// Knots (sequences in the step, ms), sequences ascending.
        per_sequence_ms: Vec<(u32, f64)>,
        /// Per prefill sequence.
        prefill_sequence_ms: f64,
        /// Added when any sequence decodes.
        decode_ms: f64,
    },
}

/// Where step times come from and how far they may be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Data and licence in one line.
    pub data: String,
    /// Most tokens in a step that were fitted; beyond, the last slope goes on.
    pub fitted_tokens: u32,
    /// Most sequences in a step that were fitted.
    pub fitted_sequences: u32,
    /// Longest context that was fitted, in tokens.
    pub fitted_context_tokens: u32,
    /// Mean absolute error on held-out steps, in percent.
    pub held_out_error_percent: Option<f64>,
}

impl Profile {
    /// Reads and validates a profile.
    ///
    /// # Errors
    /// [`Error::Schema`] for JSON that is not a profile, [`Error::Field`] for a value out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        let profile: Self = serde_json::from_str(text)
            .map_err(|error| Error::Schema { what: "profile".into(), message: error.to_string() })?;
        profile.validate()?;
        Ok(profile)
    }

    /// The profile as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`Error::Field`] naming the first bad field.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = |field: &str, value: u32| {
            if value == 0 { Err(Error::field(field, value, "at least 1")) } else { Ok(()) }
        };
        at_least_one("tensor_parallel", self.tensor_parallel)?;
        at_least_one("max_model_len", self.max_model_len)?;
        at_least_one("scheduler.max_num_seqs", self.scheduler.max_num_seqs)?;
        at_least_one("scheduler.max_num_batched_tokens", self.scheduler.max_num_batched_tokens)?;
        at_least_one("kv.block_tokens", self.kv.block_tokens)?;
        at_least_one("kv.blocks", self.kv.blocks)?;
        if self.scheduler.mode == SchedulerMode::VllmV1
            && self.scheduler.max_num_batched_tokens < self.scheduler.max_num_seqs
        {
            return Err(Error::field(
                "scheduler.max_num_batched_tokens",
                self.scheduler.max_num_batched_tokens,
                format!("at least max_num_seqs = {}", self.scheduler.max_num_seqs),
            ));
        }
        if !(0.0..1.0).contains(&self.scheduler.watermark) {
            return Err(Error::field("scheduler.watermark", self.scheduler.watermark, "a share in [0, 1)"));
        }
        self.step_time.validate()
    }
}

impl StepTime {
    fn validate(&self) -> Result<()> {
        let mut named = vec![
            ("prefill_token_ms", self.prefill_token_ms),
            ("prefill_attention_ms", self.prefill_attention_ms),
            ("decode_sequence_ms", self.decode_sequence_ms),
            ("decode_context_token_ms", self.decode_context_token_ms),
            ("mixed_decode_sequence", self.mixed_decode_sequence),
            ("mixed_decode_context", self.mixed_decode_context),
            ("overhead_ms", self.overhead_ms),
            ("launch_floor_ms", self.launch_floor_ms),
        ];
        match &self.form {
            Form::A { constant_ms } => named.push(("constant_ms", *constant_ms)),
            Form::C { dense_ms, per_sequence_ms, prefill_sequence_ms, decode_ms } => {
                named.extend([("prefill_sequence_ms", *prefill_sequence_ms), ("decode_ms", *decode_ms)]);
                for (field, knots) in [("dense_ms", dense_ms), ("per_sequence_ms", per_sequence_ms)] {
                    if knots.is_empty() || knots.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
                        let expected = "at least one knot, ascending";
                        return Err(Error::field(
                            format!("step_time.{field}"),
                            format!("{knots:?}"),
                            expected,
                        ));
                    }
                    named.extend(knots.iter().map(|&(_, value)| (field, value)));
                }
            }
        }
        for (field, value) in named {
            // A second per token is beyond any engine, and keeps sums within 64 bits.
            if !(0.0..=1e6).contains(&value) {
                return Err(Error::field(
                    format!("step_time.{field}"),
                    value,
                    "a finite number from 0 to 1e6",
                ));
            }
        }
        Ok(())
    }
}
