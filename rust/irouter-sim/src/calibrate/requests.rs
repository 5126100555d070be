//! Fits step times to a log of requests, by replaying it on the engine model.

use std::sync::Arc;

use irouter_core::engine::{EngineConfig, Executor, FastForward, Job, Observer};
use irouter_core::profile::{Form, Profile, Source, StepTime};
use irouter_core::time::Picos;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Result, SimError};

use super::HELD_OUT;
use super::nelder_mead::minimise;
use super::replay_start::coefficients_of;

/// Fewest requests in a log.
const FEWEST_REQUESTS: usize = 50;
/// Replays of the log.
const REPLAYS: usize = 800;
/// Added to both times before they are compared, so that a first token after 3 ms instead of 2 does not count as 50 %.
const GRACE_S: f64 = 0.01;
/// Bounds of the logarithms of the coefficients, wide enough for every engine and inside of what a profile accepts.
const LEAST_LOG: f64 = -30.0;
const MOST_LOG: f64 = 8.0;

/// One request of one instance, as measured. All times in seconds from the start of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestRecord {
    /// When it reached the engine; records are in this order.
    pub arrival_s: f64,
    /// Tokens of its prompt.
    pub input_tokens: u32,
    /// Tokens that it produced.
    pub output_tokens: u32,
    /// When its first token was out.
    pub first_token_s: f64,
    /// When its last token was out.
    pub last_token_s: f64,
}

/// Step times fitted to a request log, and how well a replay meets it.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestFit {
    /// The profile: the template with fitted step times of form `A`.
    pub profile: Profile,
    /// First token of every request in the replay, seconds from the start of the log.
    pub predicted_first_s: Vec<f64>,
    /// Last token of every request in the replay.
    pub predicted_last_s: Vec<f64>,
    /// Which requests' times the fit did not try to meet; they are part of the load that the others met.
    pub held_out: Vec<bool>,
    /// Mean absolute error of the time from arrival to last token on those, in percent.
    pub held_out_e2e_error_percent: f64,
    /// The same of the time to the first token, with 10 ms added to both sides.
    pub held_out_ttft_error_percent: f64,
}

/// Fits the five coefficients of form `A` so that a replay on `template`'s scheduler and KV cache meets the log.
///
/// A quarter of the requests, drawn with `seed`, is held out. Least squares over the times between first and last token
/// give a start; from there Nelder and Mead's method on the logarithms of the coefficients minimises the absolute
/// logarithms of replayed over measured E2E and TTFT.
///
/// A log determines what its load exercises: one without queueing says little about large batches.
///
/// # Errors
/// [`SimError::Row`] for a request that cannot be, [`SimError::Field`] for fewer than 50, and [`SimError::Core`] for one
/// that does not fit the template's limits.
pub fn fit_request_log(
    records: &[RequestRecord],
    template: &Profile,
    name: &str,
    data: &str,
    seed: u64,
) -> Result<RequestFit> {
    check(records)?;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let held_out: Vec<bool> = records.iter().map(|_| generator.random::<f64>() < HELD_OUT).collect();
    let start = coefficients_of(records, &held_out).map(libm::log);
    // Fails for a request that this engine would refuse, before the search could take that for a bad coefficient.
    replay(records, &with_coefficients(template, &start))?;
    let rate = |point: &[f64]| {
        if point.iter().any(|value| !(LEAST_LOG..=MOST_LOG).contains(value)) {
            return f64::INFINITY;
        }
        match replay(records, &with_coefficients(template, point)) {
            Ok(times) => loss(records, &times, &held_out),
            // Steps so long that the clock overflows.
            Err(_) => f64::INFINITY,
        }
    };
    let (coefficients, _) = minimise(&start, 0.3, REPLAYS, rate);
    let mut profile = with_coefficients(template, &coefficients);
    let times = replay(records, &profile)?;
    let error = |measured: fn(&RequestRecord) -> f64, replayed: fn(&Times) -> f64, grace: f64| {
        let errors: Vec<f64> = records
            .iter()
            .zip(&times)
            .zip(&held_out)
            .filter(|(_, held_out)| **held_out)
            .map(|((record, times), _)| {
                let (from, to) = (record.arrival_s - grace, measured(record));
                ((replayed(times) - from) / (to - from) - 1.0).abs()
            })
            .collect();
        100.0 * errors.iter().sum::<f64>() / errors.len() as f64
    };
    let e2e_error = error(|record| record.last_token_s, |times| times.last_s, 0.0);
    let ttft_error = error(|record| record.first_token_s, |times| times.first_s, GRACE_S);
    let most = |quantity: fn(&RequestRecord) -> u32| records.iter().map(quantity).max().unwrap_or(0);
    profile.name = name.into();
    profile.source = Source {
        data: data.into(),
        fitted_tokens: template.scheduler.max_num_batched_tokens,
        fitted_sequences: template.scheduler.max_num_seqs,
        fitted_context_tokens: most(|record| record.input_tokens + record.output_tokens),
        held_out_error_percent: Some(e2e_error),
    };
    profile.validate()?;
    Ok(RequestFit {
        profile,
        predicted_first_s: times.iter().map(|times| times.first_s).collect(),
        predicted_last_s: times.iter().map(|times| times.last_s).collect(),
        held_out,
        held_out_e2e_error_percent: e2e_error,
        held_out_ttft_error_percent: ttft_error,
    })
}

/// First and last token of a request in a replay, seconds from the start of the log.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    first_s: f64,
    last_s: f64,
}

#[derive(Default)]
struct Stopwatch(Vec<Times>);

impl Observer for Stopwatch {
    fn first_token(&mut self, tag: u64, at: Picos) {
        if let Some(times) = usize::try_from(tag).ok().and_then(|tag| self.0.get_mut(tag)) {
            times.first_s = at.as_seconds();
        }
    }

    fn finished(&mut self, tag: u64, at: Picos) {
        if let Some(times) = usize::try_from(tag).ok().and_then(|tag| self.0.get_mut(tag)) {
            times.last_s = at.as_seconds();
        }
    }
}

fn replay(records: &[RequestRecord], profile: &Profile) -> Result<Vec<Times>> {
    let mut engine = FastForward::new(Arc::new(EngineConfig::new(profile)?), None);
    for (tag, record) in (0..).zip(records) {
        let at = Picos::from_seconds(record.arrival_s)
            .ok_or_else(|| SimError::field("arrival_s", record.arrival_s, "at most 106 days"))?;
        let job = Job {
            tag,
            prompt_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
            prompt_blocks: None,
        };
        engine.submit(at, job)?;
    }
    let mut stopwatch = Stopwatch(vec![Times::default(); records.len()]);
    while let Some(at) = engine.next_event() {
        engine.advance(at, &mut stopwatch)?;
    }
    Ok(stopwatch.0)
}

/// Sum of absolute logarithms of replayed over measured times, E2E and TTFT, of the requests that are not held out.
fn loss(records: &[RequestRecord], times: &[Times], held_out: &[bool]) -> f64 {
    let miss = |replayed: f64, measured: f64| libm::log((replayed + GRACE_S) / (measured + GRACE_S)).abs();
    records
        .iter()
        .zip(times)
        .zip(held_out)
        .filter(|(_, held_out)| !**held_out)
        .map(|((record, times), _)| {
            let from = record.arrival_s;
            miss(times.last_s - from, record.last_token_s - from)
                + miss(times.first_s - from, record.first_token_s - from)
        })
        .sum()
}

fn with_coefficients(template: &Profile, logarithms: &[f64]) -> Profile {
    let coefficient = |index: usize| libm::exp(logarithms[index]);
    Profile {
        step_time: StepTime {
            form: Form::A { constant_ms: coefficient(0) },
            prefill_token_ms: coefficient(1),
            prefill_attention_ms: coefficient(2),
            decode_sequence_ms: coefficient(3),
            decode_context_token_ms: coefficient(4),
            mixed_decode_sequence: 1.0,
            mixed_decode_context: 1.0,
            overhead_ms: 0.0,
            launch_floor_ms: 0.0,
        },
        ..template.clone()
    }
}

fn check(records: &[RequestRecord]) -> Result<()> {
    let mut before = 0.0;
    for (row, record) in records.iter().enumerate() {
        for (field, tokens) in
            [("input_tokens", record.input_tokens), ("output_tokens", record.output_tokens)]
        {
            if tokens == 0 {
                return Err(SimError::row(row, field, tokens, "at least 1"));
            }
        }
        for (field, time, least, what) in [
            ("arrival_s", record.arrival_s, before, "finite and at or after the arrival before it"),
            ("first_token_s", record.first_token_s, record.arrival_s, "finite and after the arrival"),
            (
                "last_token_s",
                record.last_token_s,
                record.first_token_s,
                "finite and not before the first token",
            ),
        ] {
            let late_enough = if field == "first_token_s" { time > least } else { time >= least };
            if !(time.is_finite() && late_enough) {
                return Err(SimError::row(row, field, time, format!("{what}, {least} s")));
            }
        }
        before = record.arrival_s;
    }
    if records.len() < FEWEST_REQUESTS {
        return Err(SimError::field(
            "requests",
            records.len(),
            format!("at least {FEWEST_REQUESTS} in a request log"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V100: &str = include_str!("../../../../python/irouter/profiles/llama-2-7b@v100-paper.json");

    /// What an instance logs under Poisson arrivals at `rate` per second.
    fn log_of(profile: &Profile, rate: f64, requests: usize) -> Vec<RequestRecord> {
        let mut generator = ChaCha8Rng::seed_from_u64(11);
        let mut clock = 0.0;
        let mut records: Vec<RequestRecord> = (0..requests)
            .map(|_| {
                clock -= libm::log(1.0 - generator.random::<f64>()) / rate;
                RequestRecord {
                    arrival_s: clock,
                    input_tokens: generator.random_range(10..800),
                    output_tokens: generator.random_range(1..300),
                    first_token_s: 0.0,
                    last_token_s: 0.0,
                }
            })
            .collect();
        let times = replay(&records, profile).unwrap();
        for (record, times) in records.iter_mut().zip(times) {
            (record.first_token_s, record.last_token_s) = (times.first_s, times.last_s);
        }
        records
    }

    fn v100() -> Profile {
        Profile::from_json(V100).unwrap()
    }

    #[test]
    fn a_log_of_the_model_itself_is_met_within_two_percent_and_gives_its_coefficients() {
        for rate in [1.0, 2.5] {
            let fit = fit_request_log(&log_of(&v100(), rate, 300), &v100(), "fitted", "test", 1).unwrap();
            // Steps take 34 ms: which of them an arrival just misses decides a tenth of its time to the first token.
            let (e2e, ttft) = (fit.held_out_e2e_error_percent, fit.held_out_ttft_error_percent);
            assert!(e2e < 2.0 && ttft < 10.0, "at {rate}/s: E2E {e2e} %, TTFT {ttft} %");
            let Form::A { constant_ms } = fit.profile.step_time.form else { panic!("not form A") };
            assert!((constant_ms / 34.0 - 1.0).abs() < 0.05, "{constant_ms}");
            assert!((fit.profile.step_time.prefill_token_ms / 0.32 - 1.0).abs() < 0.1);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_profile() {
        let log = log_of(&v100(), 1.0, 60);
        let fit = || fit_request_log(&log, &v100(), "fitted", "test", 1).unwrap();
        assert_eq!(fit(), fit());
    }

    type Spoil = fn(&mut RequestRecord);

    #[test]
    fn requests_that_cannot_be_are_errors_that_name_row_and_column() {
        let good = log_of(&v100(), 1.0, 60);
        let cases: [(Spoil, &str); 7] = [
            (|record| record.input_tokens = 0, "input_tokens"),
            (|record| record.output_tokens = 0, "output_tokens"),
            (|record| record.arrival_s = f64::NAN, "arrival_s"),
            (|record| record.arrival_s = 0.0, "arrival_s"),
            (|record| record.first_token_s = record.arrival_s, "first_token_s"),
            (|record| record.last_token_s = record.first_token_s - 1e-3, "last_token_s"),
            (|record| record.last_token_s = f64::INFINITY, "last_token_s"),
        ];
        for (spoil, column) in cases {
            let mut records = good.clone();
            spoil(&mut records[20]);
            let error = fit_request_log(&records, &v100(), "fitted", "test", 1).unwrap_err();
            assert!(
                matches!(&error, SimError::Row { row: 20, field, .. } if *field == column),
                "{column}: {error}"
            );
        }
    }

    #[test]
    fn too_few_requests_and_one_too_long_for_the_template_are_refused() {
        let mut records = log_of(&v100(), 1.0, 60);
        let error = fit_request_log(&records[..49], &v100(), "fitted", "test", 1).unwrap_err().to_string();
        assert_eq!(error, "`requests` is 49, expected at least 50 in a request log");
        records[3].input_tokens = 5000;
        let error = fit_request_log(&records, &v100(), "fitted", "test", 1).unwrap_err().to_string();
        assert!(error.contains("max_model_len"), "{error}");
    }
}
