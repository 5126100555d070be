//! Step times in integer picoseconds, and the closed form of a run of decode steps.

use crate::error::{Error, Result};
use crate::time::Picos;

use super::{Form, Profile, StepTime};

/// What a step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Sequences with a prefill chunk.
    pub prefill_sequences: u32,
    /// Tokens of those chunks.
    pub prefill_tokens: u32,
    /// Sum over the chunks of chunk x (2 x past + chunk), which is twice `S` of [`StepTime`].
    pub prefill_pairs: u64,
    /// Sequences that decode one token.
    pub decodes: u32,
    /// Sum of their contexts: the tokens each attends to, the one computed included.
    pub decode_context: u64,
}

/// Factor on step times in units of 2^-20, for noise and for what a twin learns of a real engine's speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale(i64);

impl Scale {
    /// The profile as it is.
    pub const ONE: Self = Self(1 << 20);

    /// The nearest factor; `None` unless `factor` is within 2^-10 to 2^10.
    pub fn new(factor: f64) -> Option<Self> {
        let fixed = libm::round(factor * f64::from(1 << 20));
        (f64::from(1 << 10)..=f64::from(1 << 30)).contains(&fixed).then_some({
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a float cast saturates, and the range is checked"
            )]
            Self(fixed as i64)
        })
    }

    /// Both factors together, held within the range.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        Self(((self.0 * other.0) >> 20).clamp(1 << 10, 1 << 30))
    }

    /// The factor as a number.
    pub fn factor(self) -> f64 {
        self.0 as f64 / f64::from(1 << 20)
    }

    fn apply(self, picos: i64) -> i64 {
        if self == Self::ONE {
            return picos;
        }
        // 128 bits: a step of an hour (3.6e15 ps) times 2^30 does not fit 64.
        #[expect(clippy::cast_possible_truncation, reason = "a step is bounded by the profile's validation")]
        {
            ((i128::from(picos) * i128::from(self.0)) >> 20) as i64
        }
    }
}

/// Durations of consecutive steps that only decode: step `j` takes `max(first + j x slope, floor) + overhead`, at least
/// one picosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeRun {
    first: i64,
    slope: i64,
    floor: i64,
    overhead: i64,
}

impl DecodeRun {
    /// Duration of step `index`, counted from 0.
    pub fn step(&self, index: u64) -> Picos {
        Picos((self.first + self.slope * index.cast_signed()).max(self.floor) + self.overhead)
    }

    /// Duration of the first `steps` steps together, at most 2^32 of them; held at [`Picos::MAX`].
    pub fn total(&self, steps: u64) -> Picos {
        debug_assert!(steps <= 1 << 32, "the square of the steps times a slope must fit 128 bits");
        let floored = self.floored_steps().min(steps).cast_signed();
        let steps = steps.cast_signed();
        let rising = steps - floored;
        let start = self.first + self.slope * floored;
        // 128 bits: the caller asks for more steps than fit any clock and expects to be told so.
        let rising = i128::from(rising);
        let time = i128::from(floored) * i128::from(self.floor)
            + rising * i128::from(start)
            + i128::from(self.slope) * (rising * (rising - 1) / 2)
            + i128::from(steps) * i128::from(self.overhead);
        Picos(i64::try_from(time).unwrap_or(i64::MAX))
    }

    /// The most steps whose total stays at or below `span`, at most `limit` (which is at most 2^32).
    pub fn steps_within(&self, span: Picos, limit: u64) -> u64 {
        if span.0 < 0 {
            return 0;
        }
        let floored = self.floored_steps().min(limit);
        let flat = self.floor + self.overhead;
        let within_floor = (span.0 / flat).cast_unsigned();
        if within_floor < floored {
            return within_floor;
        }
        let rest = span.0 - flat * floored.cast_signed();
        let start = self.first + self.slope * floored.cast_signed() + self.overhead;
        // Steps k with k start + slope k (k - 1) / 2 <= rest, in the form of the root that stays exact for slope 0.
        let (slope, rest) = (self.slope as f64, rest as f64);
        let linear = start as f64 - 0.5 * slope;
        let root = 2.0 * rest / (linear + (linear * linear + 2.0 * slope * rest).sqrt());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates, and the loops below correct the estimate"
        )]
        let mut steps = (floored + (root as u64).min(limit)).min(limit);
        while steps > 0 && self.total(steps) > span {
            steps -= 1;
        }
        while steps < limit && self.total(steps + 1) <= span {
            steps += 1;
        }
        steps
    }

    /// How many steps from the start take no longer than the launch floor.
    pub fn floored_steps(&self) -> u64 {
        let gap = self.floor - self.first;
        match (gap >= 0, self.slope) {
            (false, _) => 0,
            (true, 0) => u64::MAX >> 1,
            (true, slope) => (gap / slope + 1).cast_unsigned(),
        }
    }
}

/// Step times of a profile, compiled to integers.
#[derive(Clone, Debug, PartialEq)]
pub struct StepModel {
    dense: Vec<i64>,
    per_sequence: Vec<i64>,
    prefill_sequence: i64,
    prefill_token: i64,
    /// Per pair of [`StepShape::prefill_pairs`], in units of 2^-10 ps: a pair costs well below a nanosecond.
    prefill_pair: i64,
    decode: i64,
    decode_sequence: i64,
    decode_context: i64,
    mixed_decode_sequence: i64,
    mixed_decode_context: i64,
    overhead: i64,
    floor: i64,
}

impl StepModel {
    /// Compiles the step times of `profile`.
    ///
    /// # Errors
    /// [`Error::Field`] when a time does not fit 64 bits of picoseconds.
    pub fn new(profile: &Profile) -> Result<Self> {
        let StepTime { form, .. } = &profile.step_time;
        let time = &profile.step_time;
        // Sarathi may add a full batch of decodes to a full chunk.
        let tokens = profile.scheduler.max_num_batched_tokens + profile.scheduler.max_num_seqs;
        let tokens = tokens.max(profile.max_model_len.min(1 << 17));
        let sequences = profile.scheduler.max_num_seqs;
        let (dense, per_sequence, prefill_sequence, decode) = match form {
            Form::A { constant_ms } => (vec![picos(*constant_ms)?], vec![0], 0, 0),
            Form::C { dense_ms, per_sequence_ms, prefill_sequence_ms, decode_ms } => (
                expand(dense_ms, tokens)?,
                expand(per_sequence_ms, sequences)?,
                picos(*prefill_sequence_ms)?,
                picos(*decode_ms)?,
            ),
        };
        let model = Self {
            dense,
            per_sequence,
            prefill_sequence,
            prefill_token: picos(time.prefill_token_ms)?,
            prefill_pair: picos(time.prefill_attention_ms * 512.0)?,
            decode,
            decode_sequence: picos(time.decode_sequence_ms)?,
            decode_context: picos(time.decode_context_token_ms)?,
            mixed_decode_sequence: picos(time.decode_sequence_ms * time.mixed_decode_sequence)?,
            mixed_decode_context: picos(time.decode_context_token_ms * time.mixed_decode_context)?,
            overhead: picos(time.overhead_ms)?,
            // A step takes time, so that what starts at its end comes after what started with it.
            floor: picos(time.launch_floor_ms)?.max(1),
        };
        model.check_range(profile)?;
        Ok(model)
    }

    /// Checks that the longest step that the profile allows fits 64 bits under the largest [`Scale`].
    fn check_range(&self, profile: &Profile) -> Result<()> {
        let sequences = profile.scheduler.max_num_seqs;
        let length = profile.max_model_len;
        let tokens = profile.scheduler.max_num_batched_tokens.max(length);
        let wide = |coefficient: i64, count: u64| i128::from(coefficient) * i128::from(count);
        let context = u64::from(sequences) * u64::from(length);
        let pairs = wide(self.prefill_pair, u64::from(tokens) * u64::from(length) * 2);
        let longest = i128::from(at(&self.dense, tokens.saturating_add(sequences)))
            + i128::from(at(&self.per_sequence, sequences))
            + wide(self.prefill_sequence, sequences.into())
            + wide(self.prefill_token, tokens.into())
            + (pairs >> 10)
            + i128::from(self.decode)
            + wide(self.decode_sequence.max(self.mixed_decode_sequence), sequences.into())
            + wide(self.decode_context.max(self.mixed_decode_context), context);
        let limit = i128::from(i64::MAX >> 11);
        let longest = longest + i128::from(self.floor) + i128::from(self.overhead);
        if longest > limit || pairs > i128::from(i64::MAX) {
            return Err(Error::field(
                "step_time",
                format!("up to {:.1e} s for a step", longest as f64 * 1e-12),
                format!("at most {:.0} s at max_num_seqs x max_model_len", limit as f64 * 1e-12),
            ));
        }
        Ok(())
    }

    /// Duration of one step.
    #[inline]
    pub fn step(&self, shape: &StepShape, scale: Scale) -> Picos {
        if shape.prefill_tokens == 0 {
            return self.decode_run(shape.decodes, shape.decode_context, scale).step(0);
        }
        let decodes = i64::from(shape.decodes);
        let mut time = at(&self.dense, shape.prefill_tokens + shape.decodes)
            + at(&self.per_sequence, shape.prefill_sequences + shape.decodes)
            + self.prefill_sequence * i64::from(shape.prefill_sequences)
            + self.prefill_token * i64::from(shape.prefill_tokens)
            + self.pairs(shape.prefill_pairs);
        if decodes > 0 {
            time += self.decode
                + self.mixed_decode_sequence * decodes
                + self.mixed_decode_context * shape.decode_context.cast_signed();
        }
        Picos(scale.apply(time).max(self.floor) + self.overhead)
    }

    /// Durations of steps that only decode `decodes` sequences, whose contexts sum to `context` in the first of them.
    #[inline]
    pub fn decode_run(&self, decodes: u32, context: u64, scale: Scale) -> DecodeRun {
        let fixed = at(&self.dense, decodes)
            + at(&self.per_sequence, decodes)
            + self.decode
            + self.decode_sequence * i64::from(decodes);
        // Scaling the coefficients, not the sum, keeps the run linear in its steps.
        let per_token = scale.apply(self.decode_context);
        DecodeRun {
            first: scale.apply(fixed) + per_token * context.cast_signed(),
            slope: per_token * i64::from(decodes),
            floor: self.floor,
            overhead: self.overhead,
        }
    }

    /// Seconds of a step that only decodes, for expected numbers of sequences and of tokens of context: the curves are read
    /// between whole numbers.
    pub fn decode_seconds(&self, decodes: f64, context: f64, scale: Scale) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of sequences")]
        let below = decodes as u32;
        let share = decodes - f64::from(below);
        let read = |curve: &[i64]| {
            let (low, high) = (at(curve, below) as f64, at(curve, below + 1) as f64);
            // Not `mul_add`: where the processor is not known to have it, that is a call.
            low + share * (high - low)
        };
        let time = read(&self.dense)
            + read(&self.per_sequence)
            + self.decode as f64
            + self.decode_sequence as f64 * decodes
            + self.decode_context as f64 * context;
        ((time * scale.factor()).max(self.floor as f64) + self.overhead as f64) * 1e-12
    }

    fn pairs(&self, pairs: u64) -> i64 {
        // `check_range` made sure that the product fits.
        (self.prefill_pair * pairs.cast_signed()) >> 10
    }
}

/// Reads a curve; beyond its end the last slope goes on.
#[inline]
fn at(curve: &[i64], index: u32) -> i64 {
    let index = index as usize;
    if let Some(&value) = curve.get(index) {
        return value;
    }
    let last = curve.len() - 1;
    let slope = if last == 0 { 0 } else { curve[last] - curve[last - 1] };
    curve[last] + slope * (index - last).cast_signed() as i64
}

/// Linear interpolation of `knots` at 0 to `length`, constant before the first knot, last slope after the last.
fn expand(knots: &[(u32, f64)], length: u32) -> Result<Vec<i64>> {
    (0..=length)
        .map(|position| {
            let after = knots.partition_point(|&(knot, _)| knot < position);
            let after = if after == 0 { 0 } else { after.clamp(1.min(knots.len() - 1), knots.len() - 1) };
            if after == 0 {
                return picos(knots[0].1);
            }
            let ((x0, y0), (x1, y1)) = (knots[after - 1], knots[after]);
            let share = (f64::from(position) - f64::from(x0)) / (f64::from(x1) - f64::from(x0));
            picos(share.mul_add(y1 - y0, y0).max(0.0))
        })
        .collect()
}

fn picos(millis: f64) -> Result<i64> {
    Picos::from_millis(millis)
        .map(|time| time.0)
        .ok_or_else(|| Error::field("step_time", millis, "milliseconds that fit 64 bits of picoseconds"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = DecodeRun> {
        let slope = prop_oneof![Just(0), 1_i64..1_000_000_000];
        (0_i64..1_000_000_000_000, slope, 1_i64..2_000_000_000_000, 0_i64..1_000_000_000)
            .prop_map(|(first, slope, floor, overhead)| DecodeRun { first, slope, floor, overhead })
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_sum_of_the_steps(run in runs(), steps in 0_u64..3_000) {
            let sum: i64 = (0..steps).map(|step| run.step(step).0).sum();
            prop_assert_eq!(run.total(steps), Picos(sum));
        }

        #[test]
        fn steps_within_is_the_last_step_that_fits(run in runs(), steps in 0_u64..3_000, off in -1_i64..=1) {
            let span = run.total(steps) + Picos(off);
            let within = run.steps_within(span, 1 << 32);
            prop_assert_eq!(within, if off < 0 { steps.saturating_sub(1) } else { steps });
            prop_assert_eq!(run.steps_within(span, steps / 2), within.min(steps / 2));
        }
    }

    #[test]
    fn the_launch_floor_binds_until_the_contexts_have_grown() {
        let run = DecodeRun { first: 70, slope: 10, floor: 100, overhead: 5 };
        let durations: Vec<i64> = (0..6).map(|step| run.step(step).0).collect();
        assert_eq!(durations, [105, 105, 105, 105, 115, 125]);
        assert_eq!(run.floored_steps(), 4);
        assert_eq!(run.total(6), Picos(660));
    }

    #[test]
    fn a_run_beyond_any_clock_is_held_at_its_end() {
        let run = DecodeRun { first: 1 << 50, slope: 1 << 40, floor: 1, overhead: 0 };
        assert_eq!(run.total(1 << 32), Picos::MAX);
        let within = run.steps_within(Picos(i64::MAX - 1), 1 << 32);
        assert!(run.total(within) < Picos::MAX && run.total(within + 1) == Picos::MAX, "{within}");
        assert_eq!(run.steps_within(Picos(-1), 10), 0);
    }

    #[test]
    fn scales_multiply_within_their_range() {
        let scale = |factor| Scale::new(factor).unwrap();
        assert_eq!(scale(1.5).times(scale(0.5)), scale(0.75));
        assert_eq!(scale(1000.0).times(scale(1000.0)), scale(1024.0));
    }
}
