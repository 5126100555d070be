//! Experiments: policies x seeds on the same arrivals.

mod config;
mod prepare;
mod results;
mod router_profile;
mod saturation;
mod single;

use std::sync::Arc;

pub use config::{ClientPlan, CrashPlan, Experiment, Share, SloLimits, SlowPlan, WorkloadSource};
use irouter_core::OnFailure;
use irouter_core::policy::{Policy, PolicySpec};
use rayon::prelude::*;
pub use router_profile::{ProfileError, RouterProfile};
pub use saturation::saturation_rate;
pub use single::{RequestColumns, simulate};

use crate::error::{Result, SimError};
use crate::metrics::{Run, Summary, canonical_json, finite};
use crate::simulator::{Readings, RunConfig, RunOutput, Simulator};

pub(crate) use prepare::{Episode, Prepared};

use prepare::Window;
use results::{Curves, PredictorFigures, Results, RunResult, WorkloadFigures};

/// Readings of queues and KV use over the first seed of each policy.
const OCCUPANCY_SAMPLES: u32 = 240;

/// Builds policies: those of the package by name, and those that the caller brings.
pub trait PolicyFactory: Sync {
    /// The policy of `spec`, seeded.
    ///
    /// # Errors
    /// The core's, for an unknown name or option.
    fn build(&self, spec: &PolicySpec, seed: u64) -> Result<Box<dyn Policy>>;

    /// What happens when the policy of `spec` fails. A policy of this process is wrong then and stops the comparison,
    /// so that it cannot look right; one that is not may go on with its failures counted.
    fn on_failure(&self, spec: &PolicySpec) -> OnFailure {
        let _ = spec;
        OnFailure::Stop
    }
}

/// The policies of the package.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl PolicyFactory for BuiltIn {
    fn build(&self, spec: &PolicySpec, seed: u64) -> Result<Box<dyn Policy>> {
        Ok(spec.build(seed)?)
    }
}

/// Runs every policy on every seed (or on [`Experiment::only_seeds`]), on `threads` threads (0: one per core), and returns
/// canonical JSON: the same bytes for the same experiment whatever the number of threads. `progress(done, total)` is
/// called after each run, and stops the rest by returning false.
///
/// # Errors
/// The first error of the experiment's parts, or [`SimError::Interrupted`].
pub fn run(
    experiment: &Experiment,
    trace: Option<&crate::Workload>,
    policies: &dyn PolicyFactory,
    threads: usize,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<String> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| SimError::field("threads", threads, error.to_string()))?;
    // Names are checked before the first long run.
    for spec in &experiment.policies {
        policies.build(spec, 0)?;
    }
    pool.install(|| {
        let prepared = Prepared::new(experiment, trace)?;
        let windows: Vec<Window> = experiment
            .seeds_to_run()
            .into_par_iter()
            .map(|seed| prepared.window(seed, policies))
            .collect::<Result<_>>()?;
        let total = windows.len() * experiment.policies.len();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let cells: Vec<(&Window, &PolicySpec)> = windows
            .iter()
            .flat_map(|window| experiment.policies.iter().map(move |spec| (window, spec)))
            .collect();
        let runs = cells
            .into_par_iter()
            .map(|(window, spec)| {
                let result = cell(&prepared, window, spec, policies)?;
                let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                if progress(done, total) { Ok(result) } else { Err(SimError::Interrupted) }
            })
            .collect::<Result<Vec<RunResult>>>()?;
        let results = Results {
            workload: WorkloadFigures::new(&prepared, &windows)?,
            predictor: PredictorFigures::new(&prepared, &runs),
            runs,
        };
        canonical_json(&results)
    })
}

/// One policy on one seed.
fn cell(
    prepared: &Prepared,
    window: &Window,
    spec: &PolicySpec,
    policies: &dyn PolicyFactory,
) -> Result<RunResult> {
    let is_first = window.seed == prepared.experiment.first_seed;
    let mut config = RunConfig {
        readings: is_first.then_some(Readings { count: OCCUPANCY_SAMPLES, until: window.last_arrival }),
        ..prepared.window_config(window, spec.name())?
    };
    config.router.on_failure = policies.on_failure(spec);
    let policy = policies.build(spec, window.seed)?;
    let RunOutput { records, gaps, told, occupancy, policy_failures, policy_failure, figures, .. } =
        Simulator::new(config, policy, Arc::clone(&window.workload), window.predictions.clone())?.run()?;
    let run = Run {
        workload: &window.workload,
        records: &records,
        gaps: &gaps,
        unloaded: &window.unloaded,
        measured: window.measured.clone(),
        slo: prepared.slo,
        closed_loop: prepared.experiment.clients.is_some(),
        policy_failures,
    };
    let mut summary = Summary::new(&run)?;
    summary.dropped += prepared.dropped;
    let figures = figures
        .into_iter()
        .map(|(name, value)| Ok((name, finite(&format!("policies.{}.{name}", spec.label()), value)?)))
        .collect::<Result<_>>()?;
    let curves = is_first.then(|| Curves::new(&records, window.measured.clone()));
    let predictor = is_first.then(|| told.quality(&window.workload, window.measured.clone()).into());
    Ok(RunResult {
        policy: spec.label(),
        seed: window.seed,
        summary,
        predictor,
        figures,
        curves,
        occupancy,
        policy_failure: policy_failure.map(|error| error.to_string()),
    })
}
