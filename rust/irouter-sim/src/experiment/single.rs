//! One run with its requests as columns.

use std::sync::Arc;

use irouter_core::Picos;

use super::prepare::Prepared;
use super::{Experiment, PolicyFactory};
use crate::error::{Result, SimError};
use crate::metrics::{Outcome, RequestRecords};
use crate::simulator::{RunConfig, RunOutput, Simulator};
use crate::workload::Workload;

/// The measured requests of a run in order of arrival; element `i` of each column is request `i`.
#[derive(Clone, Debug)]
pub struct RequestColumns {
    /// Times in seconds from the start of the run, NaN where they never came: `arrival_s`, `dispatched_s`, `admitted_s`,
    /// `first_token_s`, `finished_s`.
    pub seconds: Vec<(&'static str, Vec<f64>)>,
    /// `input_tokens`, `output_tokens`, `instance` (the largest number where there was none), `preemptions`.
    pub counts: Vec<(&'static str, Vec<u32>)>,
    /// `completed`, `failed` or `aborted`.
    pub outcome: Vec<&'static str>,
}

/// Runs the first policy of `experiment` on its first seed.
///
/// # Errors
/// As [`super::run`].
pub fn simulate(
    experiment: &Experiment,
    trace: Option<&Workload>,
    policies: &dyn PolicyFactory,
) -> Result<RequestColumns> {
    let prepared = Prepared::new(experiment, trace)?;
    let window = prepared.window(experiment.first_seed, policies)?;
    let spec =
        experiment.policies.first().ok_or_else(|| SimError::field("policies", "empty", "one policy"))?;
    // Warm-up is for comparing figures; whoever asks for the requests wants them all.
    let config =
        RunConfig { measured: 0..window.measured.end, ..prepared.window_config(&window, spec.name())? };
    let policy = policies.build(spec, window.seed)?;
    let RunOutput { records, .. } =
        Simulator::new(config, policy, Arc::clone(&window.workload), window.predictions.clone())?.run()?;
    // Rows of a closed loop are not in the order in which they arrived.
    let mut rows: Vec<usize> = (0..window.measured.end).collect();
    rows.sort_by_key(|&row| records.arrival[row]);
    let seconds = |times: &[Picos]| {
        let second = |time: Picos| if time == RequestRecords::NEVER { f64::NAN } else { time.as_seconds() };
        rows.iter().map(|&row| second(times[row])).collect()
    };
    let counts = |column: &[u32]| rows.iter().map(|&row| column[row]).collect();
    Ok(RequestColumns {
        seconds: vec![
            ("arrival_s", seconds(&records.arrival)),
            ("dispatched_s", seconds(&records.dispatched)),
            ("admitted_s", seconds(&records.admitted)),
            ("first_token_s", seconds(&records.first_token)),
            ("finished_s", seconds(&records.finished)),
        ],
        counts: vec![
            ("input_tokens", counts(window.workload.prompt_tokens())),
            ("output_tokens", counts(window.workload.output_tokens())),
            ("instance", counts(&records.instance)),
            ("preemptions", counts(&records.preemptions)),
        ],
        outcome: rows
            .iter()
            .map(|&row| match records.outcome[row] {
                Outcome::Completed => "completed",
                Outcome::Aborted => "aborted",
                Outcome::Failed | Outcome::Open | Outcome::Dropped => "failed",
            })
            .collect(),
    })
}
