//! The result of an experiment, as it is written to JSON.

use std::collections::BTreeMap;
use std::ops::Range;

use irouter_core::Picos;
use serde::Serialize;

use super::prepare::{Prepared, Window};
use super::router_profile::RouterProfile;
use crate::error::Result;
use crate::metrics::{Outcome, RequestRecords, Summary, quantiles};
use crate::prediction::{PredictorSpec, Quality};
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
    /// How good the predictions were that this policy was given, on the first seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) predictor: Option<Delivered>,
    /// What the policy says of itself, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) figures: BTreeMap<&'static str, f64>,
    /// On the first seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) curves: Option<Curves>,
    /// On the first seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) occupancy: Option<Occupancy>,
    /// How the policy failed last, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy_failure: Option<String>,
}

/// The workload in figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WorkloadFigures {
    /// Measured requests of each seed, and the arrivals left out before them.
    requests: Vec<usize>,
    warm_up: Vec<usize>,
    /// Arrivals per second; absent where clients wait for their answers.
    rate: Option<f64>,
    /// Completions per second of the cluster when it never runs dry.
    saturation_rate: f64,
    /// The one over the other.
    load: Option<f64>,
    /// At or above saturation there is no steady state: fixed arrivals, run until drained.
    overload: bool,
    /// Requests left out because they fit no context.
    dropped: u64,
    /// Tokens of the measured requests, in all and each.
    input_tokens: u64,
    output_tokens: u64,
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
    pub(super) fn new(prepared: &Prepared, windows: &[Window]) -> Result<Self> {
        let replay = prepared.replay_report()?;
        let total: usize = windows.iter().map(|window| window.measured.len()).sum();
        let tokens = |column: fn(&Window) -> &[u32]| {
            let tokens = windows.iter().flat_map(|window| &column(window)[window.measured.clone()]);
            tokens.map(|&tokens| u64::from(tokens)).sum::<u64>()
        };
        let input_tokens = tokens(|window| window.workload.prompt_tokens());
        let output_tokens = tokens(|window| window.workload.output_tokens());
        Ok(Self {
            requests: windows.iter().map(|window| window.measured.len()).collect(),
            warm_up: windows.iter().map(|window| window.measured.start).collect(),
            rate: prepared.rate,
            saturation_rate: prepared.saturation_rate,
            load: prepared.load(),
            overload: prepared.overload(),
            dropped: prepared.dropped,
            input_tokens,
            output_tokens,
            input_tokens_mean: input_tokens as f64 / total as f64,
            output_tokens_mean: output_tokens as f64 / total as f64,
            copies: replay.map(|replay| replay.copies),
            disjoint: replay.map(|replay| replay.disjoint),
            row_reuse: replay.map(|replay| replay.row_reuse),
            cv_before: replay.and_then(|replay| replay.cv_before),
            cv_after: windows.first().filter(|window| window.sequels.is_none()).and_then(|window| {
                replay.map_or_else(|| window.workload.arrival_cv(), |replay| replay.cv_after)
            }),
            router_profile: prepared.router_profile.name.clone(),
            router_profile_error_percent: match prepared.experiment.router_profile {
                RouterProfile::Fitted => prepared.router_profile.source.held_out_error_percent,
                RouterProfile::Exact | RouterProfile::Other(_) => None,
            },
        })
    }
}

/// The predictor: how good its name says that it is, and how good it was.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PredictorFigures {
    name: String,
    /// The rank correlation that its name asks for, if it names one.
    asked_tau_b: Option<f64>,
    /// The coverage of a calibrated predictor, which is what all of them mean to be.
    asked_coverage_80: f64,
    /// What the first policy was given.
    #[serde(flatten)]
    delivered: Delivered,
}

/// How good predictions were, as the router got them: at the arrival of each measured request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Delivered {
    /// Kendall's tau-b of expected and true lengths; absent when all of either are equal.
    tau_b: Option<f64>,
    /// Share of true lengths within the central 80 % of their predictions.
    coverage_80: Option<f64>,
}

impl From<Quality> for Delivered {
    fn from(quality: Quality) -> Self {
        Self { tau_b: quality.tau_b, coverage_80: Some(quality.coverage_80) }
    }
}

impl PredictorFigures {
    /// Of `runs`, of which those on the first seed tell what was delivered.
    pub(super) fn new(prepared: &Prepared, runs: &[RunResult]) -> Self {
        let (asked_tau_b, asked_coverage_80) = match prepared.predictor.spec() {
            PredictorSpec::Noisy { tau } => (Some(*tau), 0.8),
            PredictorSpec::Oracle => (Some(1.0), 1.0),
            PredictorSpec::None
            | PredictorSpec::LogNormal { .. }
            | PredictorSpec::Buckets { .. }
            | PredictorSpec::Confusion { .. }
            | PredictorSpec::Model { .. }
            | PredictorSpec::History => (None, 0.8),
        };
        Self {
            name: prepared.experiment.predictor.clone(),
            asked_tau_b,
            asked_coverage_80,
            delivered: runs.iter().find_map(|run| run.predictor).unwrap_or_default(),
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
