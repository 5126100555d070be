//! One run with its requests as columns.

use std::sync::Arc;

use irouter_core::Picos;
use irouter_core::impact::Form;

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
    /// `first_token_s`, `finished_s`; with a form of the impact also what was expected at the dispatch: `expected_ttft_s`,
    /// `expected_e2e_s` and `expected_inflicted_s`, durations.
    pub seconds: Vec<(&'static str, Vec<f64>)>,
    /// `input_tokens`, `output_tokens`, `instance` (the largest number where there was none), `preemptions`.
    pub counts: Vec<(&'static str, Vec<u32>)>,
    /// `completed`, `failed` or `aborted`.
    pub outcome: Vec<&'static str>,
}

/// Runs the first policy of `experiment` on its first seed; `impact` is how the latency impact of each dispatch is estimated.
///
/// # Errors
/// As [`super::run`].
pub fn simulate(
    experiment: &Experiment,
    trace: Option<&Workload>,
    policies: &dyn PolicyFactory,
    impact: Option<Form>,
) -> Result<RequestColumns> {
    let prepared = Prepared::new(experiment, trace)?;
    let window = prepared.window(experiment.first_seed, policies)?;
    let spec =
        experiment.policies.first().ok_or_else(|| SimError::field("policies", "empty", "one policy"))?;
    // Warm-up is for comparing figures; whoever asks for the requests wants them all.
    let mut config =
        RunConfig { measured: 0..window.measured.end, ..prepared.window_config(&window, spec.name())? };
    config.router.impact = impact;
    let policy = policies.build(spec, window.seed)?;
    let RunOutput { records, impacts, .. } =
        Simulator::new(config, policy, Arc::clone(&window.workload), window.predictions.clone())?.run()?;
    // Rows of a closed loop are not in the order in which they arrived.
    let mut rows: Vec<usize> = (0..window.measured.end).collect();
    rows.sort_by_key(|&row| records.arrival[row]);
    let seconds = |times: &[Picos]| {
        let second = |time: Picos| if time == RequestRecords::NEVER { f64::NAN } else { time.as_seconds() };
        rows.iter().map(|&row| second(times[row])).collect()
    };
    let mut seconds = vec![
        ("arrival_s", seconds(&records.arrival)),
        ("dispatched_s", seconds(&records.dispatched)),
        ("admitted_s", seconds(&records.admitted)),
        ("first_token_s", seconds(&records.first_token)),
        ("finished_s", seconds(&records.finished)),
    ];
    if impact.is_some() {
        let mut expected = vec![[f64::NAN; 3]; window.workload.len()];
        for (row, impact) in impacts {
            expected[row] = [impact.ttft_seconds, impact.e2e_seconds, impact.inflicted_seconds];
        }
        let names = ["expected_ttft_s", "expected_e2e_s", "expected_inflicted_s"];
        seconds.extend(
            names
                .into_iter()
                .enumerate()
                .map(|(which, name)| (name, rows.iter().map(|&row| expected[row][which]).collect())),
        );
    }
    let counts = |column: &[u32]| rows.iter().map(|&row| column[row]).collect();
    Ok(RequestColumns {
        seconds,
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
