//! One run with its requests as columns.

use irouter_core::Picos;

use super::prepare::Prepared;
use super::{Experiment, PolicyFactory};
use crate::error::{Result, SimError};
use crate::metrics::{Outcome, RequestRecords};
use crate::simulator::{RunConfig, RunOutput, Simulator};
use crate::workload::Workload;

/// The measured requests of a run; element `i` of each column is request `i`.
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
    let rows = 0..window.measured.end;
    let config = RunConfig { measured: rows.clone(), ..prepared.run_config(&window, spec.name())? };
    let policy = policies.build(spec, window.seed)?;
    let RunOutput { records, .. } =
        Simulator::new(&config, policy, &window.workload, window.predictions.clone())?.run()?;
    let seconds = |times: &[Picos]| {
        let second = |&time: &Picos| if time == RequestRecords::NEVER { f64::NAN } else { time.as_seconds() };
        times[rows.clone()].iter().map(second).collect()
    };
    Ok(RequestColumns {
        seconds: vec![
            ("arrival_s", seconds(&records.arrival)),
            ("dispatched_s", seconds(&records.dispatched)),
            ("admitted_s", seconds(&records.admitted)),
            ("first_token_s", seconds(&records.first_token)),
            ("finished_s", seconds(&records.finished)),
        ],
        counts: vec![
            ("input_tokens", window.workload.prompt_tokens()[rows.clone()].to_vec()),
            ("output_tokens", window.workload.output_tokens()[rows.clone()].to_vec()),
            ("instance", records.instance[rows.clone()].to_vec()),
            ("preemptions", records.preemptions[rows.clone()].to_vec()),
        ],
        outcome: records.outcome[rows]
            .iter()
            .map(|outcome| match outcome {
                Outcome::Completed => "completed",
                Outcome::Aborted => "aborted",
                Outcome::Failed | Outcome::Open | Outcome::Dropped => "failed",
            })
            .collect(),
    })
}
