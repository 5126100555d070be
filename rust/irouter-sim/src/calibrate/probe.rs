//! A step log of a modelled engine: what a calibration run on the real one would print.

use irouter_core::engine::Noise;
use irouter_core::profile::{Profile, SchedulerMode, StepModel, StepShape};
use irouter_core::time::Picos;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::Result;

use super::{FitForm, StepRecord, fit_step_log};

/// Steps of a calibration run: some two minutes of an engine.
const PROBE_STEPS: usize = 6000;

/// Runs `steps` steps of random shape, one after another, on the engine that `profile` describes, each as long as the
/// profile says times the noise of its moment.
///
/// A third of the steps only decodes, a third only prefills, and a third mixes where the scheduler mixes. Batch sizes
/// and contexts are log-uniform within the scheduler's limits and the KV cache.
///
/// # Errors
/// [`crate::SimError::Core`] for a bad profile.
pub fn probe_steps(profile: &Profile, noise: &Noise, steps: usize, seed: u64) -> Result<Vec<StepRecord>> {
    profile.validate()?;
    let model = StepModel::new(profile)?;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut clock = Picos(0);
    let mut records = Vec::with_capacity(steps);
    for index in 0..steps {
        let shape = random_shape(profile, index, &mut generator);
        let duration = model.step(&shape, noise.scale(clock));
        clock += duration;
        records.push(StepRecord { shape, duration_ms: duration.as_millis() });
    }
    Ok(records)
}

/// The profile that a router would have of this engine: form C fitted to a noisy log of it.
///
/// # Errors
/// [`crate::SimError::Core`] for a bad profile.
pub fn fitted_profile(profile: &Profile, noise: &Noise, seed: u64) -> Result<Profile> {
    let records = probe_steps(profile, noise, PROBE_STEPS, seed)?;
    let name = format!("{}#fitted", profile.name);
    fit_step_log(&records, FitForm::C, seed)?.profile(
        profile,
        &name,
        "a noisy step log of the modelled engine",
    )
}

fn random_shape(profile: &Profile, index: usize, generator: &mut ChaCha8Rng) -> StepShape {
    let mut shape = StepShape::default();
    let limits = &profile.scheduler;
    let mixes =
        limits.mode != SchedulerMode::VllmV0 && limits.max_num_seqs.min(limits.max_num_batched_tokens) > 1;
    let (decodes, prefills) = match index % 3 {
        0 => (true, false),
        1 => (false, true),
        _ => (mixes, true),
    };
    let budget = limits.max_num_batched_tokens;
    let cache = profile.kv.blocks.saturating_mul(profile.kv.block_tokens);
    let longest = profile.max_model_len.min(cache);
    if decodes {
        // A mixed step leaves a token and a place in the batch to a prefill.
        let most = limits.max_num_seqs.min(budget) - u32::from(prefills);
        shape.decodes = log_uniform(generator, 1, most);
        let context = log_uniform(generator, 16.min(longest), (cache / shape.decodes).clamp(1, longest));
        shape.decode_context = u64::from(context) * u64::from(shape.decodes);
    }
    if prefills {
        let room = budget.saturating_sub(shape.decodes).clamp(1, longest);
        let mut left = log_uniform(generator, 16.min(room), room);
        let several = (limits.max_num_seqs - shape.decodes).min(4);
        let most = if generator.random::<f64>() < 0.5 { 1 } else { several };
        while left > 0 && shape.prefill_sequences < most {
            let last = shape.prefill_sequences + 1 == most;
            let chunk = if last { left } else { generator.random_range(1..=left) };
            // Only the first request of a step can continue a chunked prompt.
            let continued = mixes && shape.prefill_sequences == 0 && generator.random::<f64>() < 0.5;
            let past = if continued { generator.random_range(0..=longest - chunk) } else { 0 };
            shape.prefill_sequences += 1;
            shape.prefill_tokens += chunk;
            shape.prefill_pairs += u64::from(chunk) * (2 * u64::from(past) + u64::from(chunk));
            left -= chunk;
        }
    }
    shape
}

fn log_uniform(generator: &mut ChaCha8Rng, low: u32, high: u32) -> u32 {
    let low = low.min(high);
    let span = libm::log(f64::from(high) / f64::from(low));
    let value = f64::from(low) * libm::exp(generator.random::<f64>() * span);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between two numbers of 32 bits"
    )]
    {
        (libm::round(value) as u32).clamp(low, high)
    }
}
