//! Step times as a sum of coefficients times features of a step.

use irouter_core::profile::{Form, StepShape, StepTime};

use super::FitForm;

/// Where the curves may bend: engines pick other kernels at such sizes. Those that the log does not reach are left out.
const TOKEN_KNOTS: [u32; 20] =
    [8, 16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384];
const SEQUENCE_KNOTS: [u32; 9] = [4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Steps that a stretch between two knots needs.
const STEPS_PER_KNOT: usize = 10;
/// Steps with prefill and decodes that the mixed factors need.
const MIXED_STEPS: usize = 40;
/// Decode coefficients are at least this (100 ns per sequence, 100 ps per token, far below any engine's): a factor on
/// zero could not say that a mixed step costs more.
const LEAST_SEQUENCE_MS: f64 = 1e-4;
const LEAST_CONTEXT_MS: f64 = 1e-7;

/// The features of one form, laid out for one log.
pub(super) struct Features {
    /// Knots of the dense curve, empty in form A.
    tokens: Vec<u32>,
    sequences: Vec<u32>,
    mixed: bool,
    form: FitForm,
}

impl Features {
    /// Chooses knots that the steps of the log determine.
    pub(super) fn of(form: FitForm, shapes: &[StepShape]) -> Self {
        let chosen = |candidates: &[u32], position: fn(&StepShape) -> u32| match form {
            FitForm::A => Vec::new(),
            FitForm::C => knots(candidates, shapes.iter().map(position).collect()),
        };
        let mixed = shapes.iter().filter(|shape| is_mixed(shape)).count() >= MIXED_STEPS;
        Self {
            tokens: chosen(&TOKEN_KNOTS, tokens_of),
            sequences: chosen(&SEQUENCE_KNOTS, sequences_of),
            mixed: mixed && form == FitForm::C,
            form,
        }
    }

    /// Number of coefficients.
    pub(super) fn columns(&self) -> usize {
        let curves = self.tokens.len().saturating_sub(1) + self.sequences.len().saturating_sub(1);
        1 + curves + 8
    }

    /// The features of a step: 1, the ramps of both curves, then `q, P, S, [D > 0], D, K` and `D, K` of mixed steps.
    pub(super) fn row(&self, shape: &StepShape) -> Vec<f64> {
        let mut row = Vec::with_capacity(self.columns());
        row.push(1.0);
        ramps(&self.tokens, tokens_of(shape), &mut row);
        ramps(&self.sequences, sequences_of(shape), &mut row);
        let (decodes, context) = (f64::from(shape.decodes), shape.decode_context as f64);
        let curved = f64::from(u8::from(self.form == FitForm::C));
        let apart = f64::from(u8::from(self.mixed && is_mixed(shape)));
        row.extend([
            curved * f64::from(shape.prefill_sequences),
            f64::from(shape.prefill_tokens),
            shape.prefill_pairs as f64 / 2.0,
            curved * f64::from(u8::from(shape.decodes > 0)),
            decodes * (1.0 - apart),
            context * (1.0 - apart),
            decodes * apart,
            context * apart,
        ]);
        row
    }

    /// What a coefficient is at least.
    pub(super) fn least(&self) -> Vec<f64> {
        let mut least = vec![0.0; self.columns()];
        if self.mixed {
            let first = self.columns() - 4;
            least[first] = LEAST_SEQUENCE_MS;
            least[first + 1] = LEAST_CONTEXT_MS;
        }
        least
    }

    /// The step times that `coefficients`, one per feature, stand for.
    pub(super) fn step_time(&self, coefficients: &[f64]) -> StepTime {
        let (curves, rest) = coefficients.split_at(self.columns() - 8);
        let (dense, per_sequence) = curves[1..].split_at(self.tokens.len().saturating_sub(1));
        let form = match self.form {
            FitForm::A => Form::A { constant_ms: curves[0] },
            FitForm::C => Form::C {
                dense_ms: curve(&self.tokens, curves[0], dense),
                per_sequence_ms: curve(&self.sequences, 0.0, per_sequence),
                prefill_sequence_ms: rest[0],
                decode_ms: rest[3],
            },
        };
        let factor = |mixed: f64, alone: f64| if self.mixed { mixed / alone } else { 1.0 };
        StepTime {
            form,
            prefill_token_ms: rest[1],
            prefill_attention_ms: rest[2],
            decode_sequence_ms: rest[4],
            decode_context_token_ms: rest[5],
            mixed_decode_sequence: factor(rest[6], rest[4]),
            mixed_decode_context: factor(rest[7], rest[5]),
            // A log holds whole steps: overhead and floor are part of the constant and of the curve.
            overhead_ms: 0.0,
            launch_floor_ms: 0.0,
        }
    }
}

pub(super) fn tokens_of(shape: &StepShape) -> u32 {
    shape.prefill_tokens + shape.decodes
}

pub(super) fn sequences_of(shape: &StepShape) -> u32 {
    shape.prefill_sequences + shape.decodes
}

fn is_mixed(shape: &StepShape) -> bool {
    shape.prefill_tokens > 0 && shape.decodes > 0
}

/// The smallest and the largest position, and candidates between them with enough steps on either side.
fn knots(candidates: &[u32], mut positions: Vec<u32>) -> Vec<u32> {
    positions.sort_unstable();
    let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else { return Vec::new() };
    let up_to = |knot: u32| positions.partition_point(|&position| position <= knot);
    let mut kept = vec![first];
    for &knot in candidates.iter().filter(|&&knot| first < knot && knot < last) {
        let previous = kept.last().map_or(0, |&knot| up_to(knot));
        if up_to(knot) >= previous + STEPS_PER_KNOT && positions.len() >= up_to(knot) + STEPS_PER_KNOT {
            kept.push(knot);
        }
    }
    if last > first {
        kept.push(last);
    }
    kept
}

/// One feature per stretch between knots: the share of it that lies below `position`, above 1 beyond the last knot.
/// With coefficients of at least zero the curve never falls.
fn ramps(knots: &[u32], position: u32, row: &mut Vec<f64>) {
    for (index, pair) in knots.windows(2).enumerate() {
        let share = (f64::from(position) - f64::from(pair[0])) / f64::from(pair[1] - pair[0]);
        let most = if index + 2 == knots.len() { f64::INFINITY } else { 1.0 };
        row.push(share.clamp(0.0, most));
    }
}

fn curve(knots: &[u32], start: f64, rises: &[f64]) -> Vec<(u32, f64)> {
    let mut time = start;
    let mut curve = vec![(knots[0], start)];
    for (&knot, rise) in knots[1..].iter().zip(rises) {
        time += rise;
        curve.push((knot, time));
    }
    curve
}
