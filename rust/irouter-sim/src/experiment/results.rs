//! The result of an experiment, as it is written to JSON.

use std::collections::BTreeMap;
use std::ops::Range;

use irouter_core::Picos;
use serde::Serialize;

use super::config::RouterProfile;
use super::prepare::{Prepared, Window};
use crate::error::Result;
use crate::metrics::{Outcome, RequestRecords, Summary, quantiles};
use crate::prediction::PredictionSource;
use crate::simulator::Occupancy;

/// Points of a distribution curve.
const CURVE_POINTS: usize = 201;

#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    pub(super) workload: WorkloadFigures,
    pub(super) predictor: PredictorFigures,
    pub(super) runs: Vec<RunResult>,
}

/// One policy on one seed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RunResult {
    pub(super) policy: String,
    pub(super) seed: u64,
    pub(super) summary: Summary,
    /// What the policy says of itself, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) figures: BTreeMap<&'static str, f64>,
    /// On the first seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) curves: Option<Curves>,
    /// On the first seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) occupancy: Option<Occupancy>,
}

/// The workload in figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WorkloadFigures {
    /// Measured requests of each seed, and the arrivals left out before them.
    requests: Vec<usize>,
    warm_up: Vec<usize>,
    /// Arrivals per second.
    rate: f64,
    /// Completions per second of the cluster when it never runs dry.
    saturation_rate: f64,
    /// The one over the other.
    load: f64,
    /// At or above saturation there is no steady state: fixed arrivals, run until drained.
    overload: bool,
    /// Requests left out because they fit no context.
    dropped: u64,
    input_tokens_mean: f64,
    output_tokens_mean: f64,
    /// Copies of the trace that were superposed.
    copies: Option<usize>,
    /// Whether no row of the trace is measured twice.
    disjoint: Option<bool>,
    /// How often a row that is measured is measured, on average.
    row_reuse: Option<f64>,
    /// Coefficient of variation of the trace's gaps between arrivals, and of the measured ones.
    cv_before: Option<f64>,
    cv_after: Option<f64>,
    router_profile: String,
    /// Held-out error of a router profile that was fitted for this experiment.
    router_profile_error_percent: Option<f64>,
}

impl WorkloadFigures {
    pub(super) fn new(prepared: &Prepared<'_>, windows: &[Window]) -> Result<Self> {
        let replay = prepared.replay_report()?;
        let total: usize = windows.iter().map(|window| window.measured.len()).sum();
        let mean = |column: fn(&Window) -> &[u32]| {
            let tokens = windows.iter().flat_map(|window| &column(window)[window.measured.clone()]);
            tokens.map(|&tokens| f64::from(tokens)).sum::<f64>() / total as f64
        };
        Ok(Self {
            requests: windows.iter().map(|window| window.measured.len()).collect(),
            warm_up: windows.iter().map(|window| window.measured.start).collect(),
            rate: prepared.rate,
            saturation_rate: prepared.saturation_rate,
            load: prepared.load(),
            overload: prepared.overload(),
            dropped: prepared.dropped,
            input_tokens_mean: mean(|window| window.workload.prompt_tokens()),
            output_tokens_mean: mean(|window| window.workload.output_tokens()),
            copies: replay.map(|replay| replay.copies),
            disjoint: replay.map(|replay| replay.disjoint),
            row_reuse: replay.map(|replay| replay.row_reuse),
            cv_before: replay.and_then(|replay| replay.cv_before),
            cv_after: match replay {
                Some(replay) => replay.cv_after,
                None => windows.first().and_then(|window| window.workload.arrival_cv()),
            },
            router_profile: prepared.router_profile.name.clone(),
            router_profile_error_percent: match prepared.experiment.router_profile {
                RouterProfile::Fitted => prepared.router_profile.source.held_out_error_percent,
                RouterProfile::Exact | RouterProfile::Other(_) => None,
            },
        })
    }
}

/// The predictor in figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PredictorFigures {
    name: String,
    /// Kendall's tau-b of expected and true lengths in the first window; absent for one that learns during the run.
    tau_b: Option<f64>,
    /// Share of true lengths within the central 80 % of their predictions; likewise.
    coverage_80: Option<f64>,
}

impl PredictorFigures {
    pub(super) fn new(prepared: &Prepared<'_>, windows: &[Window]) -> Self {
        let quality = windows.first().and_then(|window| match &window.predictions {
            PredictionSource::Table(predictions) => Some(predictions.quality(&window.workload)),
            PredictionSource::History(_) => None,
        });
        Self {
            name: prepared.experiment.predictor.clone(),
            tau_b: quality.and_then(|quality| quality.tau_b),
            coverage_80: quality.map(|quality| quality.coverage_80),
        }
    }
}

/// Distributions over the completed requests of a run: quantiles at even levels from 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Curves {
    e2e_s: Vec<f64>,
    ttft_s: Vec<f64>,
}

impl Curves {
    pub(super) fn new(records: &RequestRecords, measured: Range<usize>) -> Self {
        let curve = |times: &[Picos]| {
            let completed = measured.clone().filter(|&row| records.outcome[row] == Outcome::Completed);
            let mut values: Vec<f64> =
                completed.map(|row| (times[row] - records.arrival[row]).as_seconds()).collect();
            let levels: [f64; CURVE_POINTS] =
                std::array::from_fn(|index| index as f64 / (CURVE_POINTS - 1) as f64);
            quantiles(&mut values, levels).map(Vec::from).unwrap_or_default()
        };
        Self { e2e_s: curve(&records.finished), ttft_s: curve(&records.first_token) }
    }
}
