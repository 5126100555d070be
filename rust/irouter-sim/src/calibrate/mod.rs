//! Fits a latency profile to measurements: to a log of engine steps, or to a log of requests.

mod features;
mod least_squares;
mod nelder_mead;
mod probe;
mod replay_start;
mod requests;
mod robust;
#[cfg(test)]
mod tests;

use irouter_core::profile::{Profile, Source, StepShape, StepTime};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Result, SimError};
use features::{Features, sequences_of, tokens_of};
use robust::{dot, relative_fit};

pub use probe::{fitted_profile, probe_steps};
pub use requests::{RequestFit, RequestRecord, fit_request_log};

/// Share of the steps that no coefficient sees.
const HELD_OUT: f64 = 0.25;
/// Fewest steps, and fewest of them with prefill and with decodes.
const FEWEST_STEPS: usize = 200;
const FEWEST_OF_A_KIND: usize = 20;
/// One step of an engine, as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// What it computed.
    pub shape: StepShape,
    /// How long it took.
    pub duration_ms: f64,
}

/// Which form to fit (see [`StepTime`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitForm {
    /// Five coefficients.
    A,
    /// Curves, coefficients and mixed-step factors.
    C,
}

/// Step times fitted to a log, and how well they fit.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFit {
    /// The fitted step times.
    pub step_time: StepTime,
    /// Predicted duration of every step of the log.
    pub predicted_ms: Vec<f64>,
    /// Which steps the fit did not see.
    pub held_out: Vec<bool>,
    /// Mean absolute error on those, in percent of the measured duration.
    pub held_out_error_percent: f64,
    /// Most tokens in a step.
    pub tokens: u32,
    /// Most sequences in a step.
    pub sequences: u32,
    /// Longest mean context of the decodes or of the prefills in a step.
    pub context_tokens: u32,
}

/// Fits step times to a log by relative least squares with coefficients of at least zero.
///
/// A quarter of the steps, drawn with `seed`, is held out. Weights are one over the predicted duration, so that noise in
/// proportion to the duration does not bias the fit, and outliers count linearly. Curves have their knots where the log
/// has steps, and never fall.
///
/// # Errors
/// [`SimError::Row`] for a step that cannot be, [`SimError::Field`] for a log of too few steps, or of too few with
/// prefill or with decodes: coefficients that it does not determine would be zero.
pub fn fit_step_log(records: &[StepRecord], form: FitForm, seed: u64) -> Result<StepFit> {
    check(records)?;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let held_out: Vec<bool> = records.iter().map(|_| generator.random::<f64>() < HELD_OUT).collect();
    let training =
        || records.iter().zip(&held_out).filter(|(_, held_out)| !**held_out).map(|(record, _)| record);
    let features = Features::of(form, &training().map(|record| record.shape).collect::<Vec<_>>());
    let rows: Vec<Vec<f64>> = training().map(|record| features.row(&record.shape)).collect();
    let measured: Vec<f64> = training().map(|record| record.duration_ms).collect();
    let coefficients = relative_fit(&rows, &measured, &features.least());
    let predicted_ms: Vec<f64> =
        records.iter().map(|record| dot(&features.row(&record.shape), &coefficients)).collect();
    let errors: Vec<f64> = records
        .iter()
        .zip(&predicted_ms)
        .zip(&held_out)
        .filter(|(_, held_out)| **held_out)
        .map(|((record, predicted), _)| (predicted / record.duration_ms - 1.0).abs())
        .collect();
    let most = |quantity: fn(&StepShape) -> u32| records.iter().map(|record| quantity(&record.shape)).max();
    Ok(StepFit {
        step_time: features.step_time(&coefficients),
        held_out_error_percent: 100.0 * errors.iter().sum::<f64>() / errors.len() as f64,
        predicted_ms,
        held_out,
        tokens: most(tokens_of).unwrap_or(0),
        sequences: most(sequences_of).unwrap_or(0),
        context_tokens: most(context_of).unwrap_or(0),
    })
}

impl StepFit {
    /// `template` with these step times; `data` says where the log comes from.
    ///
    /// # Errors
    /// [`SimError::Core`] when a coefficient is beyond what a profile accepts.
    pub fn profile(&self, template: &Profile, name: &str, data: &str) -> Result<Profile> {
        let profile = Profile {
            name: name.into(),
            step_time: self.step_time.clone(),
            source: Source {
                data: data.into(),
                fitted_tokens: self.tokens,
                fitted_sequences: self.sequences,
                fitted_context_tokens: self.context_tokens,
                held_out_error_percent: Some(self.held_out_error_percent),
            },
            ..template.clone()
        };
        profile.validate()?;
        Ok(profile)
    }
}

/// Mean context of the decodes, or what a prefill token attends to at most on average, whichever is longer.
fn context_of(shape: &StepShape) -> u32 {
    let decode = shape.decode_context.checked_div(u64::from(shape.decodes)).unwrap_or(0);
    // Of one chunk, pairs / tokens is 2 x past + chunk.
    let tokens = u64::from(shape.prefill_tokens);
    let prefill = shape.prefill_pairs.checked_div(tokens).map_or(0, |twice| u64::midpoint(twice, tokens));
    u32::try_from(decode.max(prefill)).unwrap_or(u32::MAX)
}

fn check(records: &[StepRecord]) -> Result<()> {
    for (row, StepRecord { shape, duration_ms }) in records.iter().enumerate() {
        let bad = |field, value: u64, expected: &str| Err(SimError::row(row, field, value, expected));
        if !(duration_ms.is_finite() && *duration_ms > 0.0) {
            return Err(SimError::row(row, "duration_ms", duration_ms, "a positive number"));
        }
        if shape.prefill_tokens < shape.prefill_sequences
            || (shape.prefill_sequences == 0) != (shape.prefill_tokens == 0)
        {
            let expected = "a token or more for every prefill sequence, and none without one";
            return bad("prefill_tokens", shape.prefill_tokens.into(), expected);
        }
        if shape.prefill_pairs < u64::from(shape.prefill_tokens) {
            return bad("prefill_pairs", shape.prefill_pairs, "the sum of chunk x (2 past + chunk)");
        }
        if shape.decode_context < u64::from(shape.decodes)
            || (shape.decodes == 0) != (shape.decode_context == 0)
        {
            let expected = "a token or more for every decode, and none without one";
            return bad("decode_context", shape.decode_context, expected);
        }
        if tokens_of(shape) == 0 {
            return bad("decodes", 0, "prefill or decodes in every step");
        }
    }
    let count = |kind: fn(&StepRecord) -> bool| records.iter().filter(|record| kind(record)).count();
    for (field, found, fewest) in [
        ("steps", records.len(), FEWEST_STEPS),
        ("steps with prefill", count(|record| record.shape.prefill_tokens > 0), FEWEST_OF_A_KIND),
        ("steps with decodes", count(|record| record.shape.decodes > 0), FEWEST_OF_A_KIND),
    ] {
        if found < fewest {
            return Err(SimError::field(field, found, format!("at least {fewest} in a step log")));
        }
    }
    Ok(())
}
