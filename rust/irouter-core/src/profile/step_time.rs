//! Step times in milliseconds, as a profile states them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Step time in milliseconds, in one of two forms.
///
/// With `P` prefill tokens in `q` prefill sequences, `S` the sum of chunk x (past + chunk / 2) over them, `D` decodes
/// and `K` the sum of their contexts:
///
/// * form `A`: `constant + prefill_token P + prefill_attention S + decode_sequence D + decode_context K`;
/// * form `C`: `dense[P + D] + per_sequence[q + D] + prefill_sequence q + prefill_token P + prefill_attention S`
///   plus `decode [D > 0] + decode_sequence D + decode_context K`, the curves linear between their knots.
///
/// In a step with both prefill and decodes, `decode_sequence` and `decode_context` are multiplied by `mixed_*`:
/// one attention kernel over both kinds is slower than the two apart.
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

/// Most milliseconds of a part of a step that occurs once or once per sequence.
const MOST_PER_STEP: f64 = 1e6;
const MOST_PER_SEQUENCE: f64 = 1e3;
/// Upper ends of the coefficients that are multiplied by large counts. With 2^17 prompt tokens, 2^34 pairs and 2^24
/// tokens of context a step stays within 64 bits of picoseconds; real engines lie three orders of magnitude below.
const MOST_PER_PREFILL_TOKEN: f64 = 100.0;
const MOST_PER_PAIR: f64 = 1e-3;
const MOST_PER_CONTEXT_TOKEN: f64 = 0.1;
const MOST_MIXED_FACTOR: f64 = 1e3;

impl StepTime {
    /// The same with every step taking `factor` times as long.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let curve = |knots: &[(u32, f64)]| knots.iter().map(|&(at, time)| (at, time * factor)).collect();
        Self {
            form: match &self.form {
                Form::A { constant_ms } => Form::A { constant_ms: constant_ms * factor },
                Form::C { dense_ms, per_sequence_ms, prefill_sequence_ms, decode_ms } => Form::C {
                    dense_ms: curve(dense_ms),
                    per_sequence_ms: curve(per_sequence_ms),
                    prefill_sequence_ms: prefill_sequence_ms * factor,
                    decode_ms: decode_ms * factor,
                },
            },
            prefill_token_ms: self.prefill_token_ms * factor,
            prefill_attention_ms: self.prefill_attention_ms * factor,
            decode_sequence_ms: self.decode_sequence_ms * factor,
            decode_context_token_ms: self.decode_context_token_ms * factor,
            overhead_ms: self.overhead_ms * factor,
            launch_floor_ms: self.launch_floor_ms * factor,
            ..*self
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        within("prefill_token_ms", self.prefill_token_ms, MOST_PER_PREFILL_TOKEN)?;
        within("prefill_attention_ms", self.prefill_attention_ms, MOST_PER_PAIR)?;
        within("decode_sequence_ms", self.decode_sequence_ms, MOST_PER_SEQUENCE)?;
        within("decode_context_token_ms", self.decode_context_token_ms, MOST_PER_CONTEXT_TOKEN)?;
        within("mixed_decode_sequence", self.mixed_decode_sequence, MOST_MIXED_FACTOR)?;
        within("mixed_decode_context", self.mixed_decode_context, MOST_MIXED_FACTOR)?;
        within("overhead_ms", self.overhead_ms, MOST_PER_STEP)?;
        within("launch_floor_ms", self.launch_floor_ms, MOST_PER_STEP)?;
        match &self.form {
            Form::A { constant_ms } => within("form.constant_ms", *constant_ms, MOST_PER_STEP),
            Form::C { dense_ms, per_sequence_ms, prefill_sequence_ms, decode_ms } => {
                within("form.prefill_sequence_ms", *prefill_sequence_ms, MOST_PER_SEQUENCE)?;
                within("form.decode_ms", *decode_ms, MOST_PER_STEP)?;
                ascending("form.dense_ms", dense_ms)?;
                ascending("form.per_sequence_ms", per_sequence_ms)
            }
        }
    }
}

/// An error that names `step_time.{field}` unless `value` lies in 0 to `most`.
fn within(field: &str, value: f64, most: f64) -> Result<()> {
    if (0.0..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::field(format!("step_time.{field}"), value, format!("a number from 0 to {most}")))
}

fn ascending(field: &str, knots: &[(u32, f64)]) -> Result<()> {
    if knots.is_empty() {
        return Err(Error::field(format!("step_time.{field}"), "empty", "at least one knot"));
    }
    for (index, pair) in knots.windows(2).enumerate() {
        if pair[0].0 >= pair[1].0 {
            return Err(Error::field(
                format!("step_time.{field}[{}]", index + 1),
                pair[1].0,
                format!("a knot above {}, the one before it", pair[0].0),
            ));
        }
    }
    knots
        .iter()
        .enumerate()
        .try_for_each(|(index, &(_, time))| within(&format!("{field}[{index}]"), time, MOST_PER_STEP))
}
