//! A fit finds the engine that wrote the log, and says so; a log that cannot tell is refused.

use irouter_core::engine::Noise;
use irouter_core::profile::{Form, Profile, Scale, StepModel};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const H100: &str = include_str!("../../../../python/irouter/profiles/llama-3.1-8b@h100.json");
const RTX4090: &str = include_str!("../../../../python/irouter/profiles/llama-3.1-8b@rtx4090.json");
const V100: &str = include_str!("../../../../python/irouter/profiles/llama-2-7b@v100-paper.json");

fn profile(text: &str) -> Profile {
    Profile::from_json(text).unwrap()
}

fn quiet() -> Noise {
    Noise::new(0, 0, 0.0, 0.0).unwrap()
}

/// Mean absolute error in percent of one profile against another on steps that neither was fitted to.
fn disagreement(truth: &Profile, other: &Profile) -> f64 {
    let model = StepModel::new(other).unwrap();
    let steps = probe_steps(truth, &quiet(), 3000, 99).unwrap();
    let errors = steps.iter().map(|step| {
        let time = model.step(&step.shape, Scale::ONE).0 as f64 / 1e9;
        (time / step.duration_ms - 1.0).abs()
    });
    100.0 * errors.sum::<f64>() / 3000.0
}

#[test]
fn five_coefficients_are_found_again_in_a_log_without_noise() {
    let truth = profile(V100);
    let fit = fit_step_log(&probe_steps(&truth, &quiet(), 2000, 1).unwrap(), FitForm::A, 2).unwrap();
    let Form::A { constant_ms } = fit.step_time.form else { panic!("{:?}", fit.step_time.form) };
    assert!((constant_ms / 34.0 - 1.0).abs() < 1e-6);
    assert!((fit.step_time.prefill_token_ms / 0.32 - 1.0).abs() < 1e-6);
    assert!((fit.step_time.decode_context_token_ms / 5e-4 - 1.0).abs() < 1e-6);
    assert!(fit.held_out_error_percent < 1e-4, "{}", fit.held_out_error_percent);
}

#[test]
fn curves_and_mixed_factors_come_within_two_percent_without_noise() {
    for text in [H100, RTX4090] {
        let truth = profile(text);
        let fit = fit_step_log(&probe_steps(&truth, &quiet(), 6000, 1).unwrap(), FitForm::C, 2).unwrap();
        let fitted = fit.profile(&truth, "fitted", "test").unwrap();
        let error = disagreement(&truth, &fitted);
        assert!(
            error < 2.0 && fit.held_out_error_percent < 2.0,
            "{}: {error} {}",
            truth.name,
            fit.held_out_error_percent
        );
    }
}

#[test]
fn noise_of_the_headline_conditions_leaves_a_fit_within_two_percent_of_the_truth() {
    for text in [H100, RTX4090, V100] {
        let truth = profile(text);
        let noise = Noise::new(7, 3, 0.08, 0.0).unwrap();
        let error = disagreement(&truth, &fitted_profile(&truth, &noise, 5).unwrap());
        assert!(error < 2.0, "{}: {error}", truth.name);
    }
}

#[test]
fn predictions_are_what_the_fitted_profile_computes() {
    let truth = profile(RTX4090);
    let records = probe_steps(&truth, &quiet(), 1000, 1).unwrap();
    let fit = fit_step_log(&records, FitForm::C, 2).unwrap();
    let model = StepModel::new(&fit.profile(&truth, "fitted", "test").unwrap()).unwrap();
    for (record, predicted) in records.iter().zip(&fit.predicted_ms) {
        let computed = model.step(&record.shape, Scale::ONE).0 as f64 / 1e9;
        assert!((computed / predicted - 1.0).abs() < 1e-6, "{computed} {predicted} {:?}", record.shape);
    }
}

#[test]
fn a_few_steps_that_took_a_hundred_times_as_long_do_not_bend_the_fit() {
    let truth = profile(H100);
    let mut records = probe_steps(&truth, &quiet(), 6000, 1).unwrap();
    let mut generator = ChaCha8Rng::seed_from_u64(3);
    for record in &mut records {
        if generator.random::<f64>() < 0.005 {
            record.duration_ms *= 100.0;
        }
    }
    let fit = fit_step_log(&records, FitForm::C, 2).unwrap();
    let error = disagreement(&truth, &fit.profile(&truth, "fitted", "test").unwrap());
    assert!(error < 3.0, "{error}");
}

#[test]
fn fitted_times_never_fall_with_more_work() {
    let noise = Noise::new(1, 0, 0.08, 0.05).unwrap();
    let fitted = fitted_profile(&profile(H100), &noise, 4).unwrap();
    let model = StepModel::new(&fitted).unwrap();
    let time = |decodes: u32, context: u64| model.decode_run(decodes, context, Scale::ONE).step(0);
    assert!((1..256).all(|decodes| time(decodes, 5000) <= time(decodes + 1, 5000)));
    assert!((1..100).all(|thousands| time(64, thousands * 1000) <= time(64, thousands * 1000 + 1000)));
}

#[test]
fn the_same_seed_gives_the_same_fit_and_states_the_range_of_the_log() {
    let truth = profile(H100);
    let noise = Noise::new(1, 0, 0.08, 0.05).unwrap();
    let fitted = fitted_profile(&truth, &noise, 4).unwrap();
    assert_eq!(fitted, fitted_profile(&truth, &noise, 4).unwrap());
    assert_eq!(fitted.source.fitted_sequences, 256);
    assert!(fitted.source.fitted_tokens > 1900 && fitted.source.fitted_tokens <= 2048);
    assert!(fitted.source.fitted_context_tokens > 100_000);
}

type Spoil = fn(&mut StepRecord);

#[test]
fn steps_that_cannot_be_are_errors_that_name_row_and_column() {
    let good = probe_steps(&profile(H100), &quiet(), 300, 1).unwrap();
    let cases: [(Spoil, &str); 7] = [
        (|record| record.duration_ms = f64::NAN, "duration_ms"),
        (|record| record.duration_ms = 0.0, "duration_ms"),
        (|record| record.shape.prefill_sequences = 0, "prefill_tokens"),
        (|record| record.shape.prefill_sequences = record.shape.prefill_tokens + 1, "prefill_tokens"),
        (|record| record.shape.prefill_pairs = 0, "prefill_pairs"),
        (|record| record.shape.decode_context = 5, "decode_context"),
        (|record| record.shape = StepShape::default(), "decodes"),
    ];
    for (spoil, column) in cases {
        let mut records = good.clone();
        // Step 1 only prefills.
        spoil(&mut records[1]);
        let error = fit_step_log(&records, FitForm::C, 0).unwrap_err();
        assert!(
            matches!(&error, SimError::Row { row: 1, field, .. } if *field == column),
            "{column}: {error}"
        );
    }
}

#[test]
fn a_log_that_does_not_determine_the_coefficients_is_refused() {
    let records = probe_steps(&profile(H100), &quiet(), 3000, 1).unwrap();
    let of = |keep: fn(&StepRecord) -> bool| {
        records.iter().filter(|record| keep(record)).copied().collect::<Vec<_>>()
    };
    for (log, lacking) in [
        (records[..199].to_vec(), "`steps` is 199, expected at least 200"),
        (of(|record| record.shape.prefill_tokens == 0), "`steps with prefill` is 0"),
        (of(|record| record.shape.decodes == 0), "`steps with decodes` is 0"),
    ] {
        let error = fit_step_log(&log, FitForm::C, 0).unwrap_err().to_string();
        assert!(error.starts_with(lacking), "{error}");
    }
}
