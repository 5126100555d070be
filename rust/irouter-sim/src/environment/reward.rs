//! What an agent is rewarded for.

use irouter_core::state::Resident;
use serde::Deserialize;

use crate::error::Result;
use crate::metrics::Unloaded;
use crate::simulator::{Look, Simulator};

/// Reward for each completion in [`RewardKind::Paper`]: the paper's `r_w`.
const COMPLETION: f64 = 60.0;

/// The kinds of reward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// The paper's (equation 3; its body is not published, its ingredients are).
    ///
    /// ```text
    /// (a)  - integral over the time since the decision before of the sum over all requests in the system of (1 - f) T
    /// (b)  + 60  for each completion
    /// ```
    ///
    /// * `f`: tokens produced over tokens expected, 0 for a request that has not started; taken to rise evenly from its first
    ///   token on. When a request ends, its part is corrected to what is then known, so that an episode's sum is exact: minus
    ///   the sum of `T (TTFT + E2E) / 2`, whenever it was that decisions were taken;
    /// * `T`: seconds that the request takes alone on an idle instance, its output length known.
    Paper,
    /// The same with what has become of (a) in the stead of (a), which leaves out what no action changes:
    ///
    /// ```text
    /// (a)  + rise since the decision before of the sum over all requests that have arrived of f T
    /// ```
    ///
    /// with `f` 1 once a request has ended: over an episode the sum of `T`. For a future that counts `e^(-t / tau)` after `t`
    /// seconds, integration by parts makes of the integral of `Paper` minus `tau` times what is unfinished now, minus `tau`
    /// times the `T` of what arrives later, plus `tau` times this: the first two are the same whatever is done now, so
    /// that `tau` times this ranks actions as `Paper` does.
    PaperProgress,
    /// Minus the seconds that requests have spent in the system since the decision before (the first time: since the start),
    /// all added up. Over an episode that is minus the sum of their latencies.
    #[default]
    RequestsInSystem,
}

/// Counts what has been rewarded so far.
pub(super) struct Reward {
    kind: RewardKind,
    completed: u64,
    /// The cost so far, of either kind.
    cost: f64,
}

impl Reward {
    /// At the start of an episode, with the requests' times alone.
    pub(super) fn new(kind: RewardKind, simulator: &mut Simulator, unloaded: &[Unloaded]) -> Self {
        if kind != RewardKind::RequestsInSystem {
            simulator.weigh(unloaded.iter().map(|alone| alone.e2e.as_seconds()).collect());
        }
        Self { kind, completed: 0, cost: 0.0 }
    }

    /// What has come since the last call, the first time since the start: the terms (a) and (b). What the first request has
    /// waited for the first tick belongs to its latency.
    pub(super) fn since(&mut self, simulator: &mut Simulator) -> Result<[f64; 2]> {
        let (cost, completions) = match self.kind {
            RewardKind::Paper => (unfinished_seconds(simulator)?, self.completions(simulator)),
            RewardKind::PaperProgress => (-finished(simulator)?, self.completions(simulator)),
            RewardKind::RequestsInSystem => (simulator.tally().time_in_system_s(simulator.now()), 0.0),
        };
        let spent = cost - self.cost;
        self.cost = cost;
        Ok([-spent, completions])
    }

    fn completions(&mut self, simulator: &Simulator) -> f64 {
        let before = std::mem::replace(&mut self.completed, simulator.tally().completed);
        COMPLETION * (self.completed - before) as f64
    }
}

/// Sum of `f T` over the requests that have arrived.
fn finished(simulator: &mut Simulator) -> Result<f64> {
    let Look { cluster, tally, .. } = simulator.look()?;
    let residents = cluster.instances.iter().flat_map(|instance| cluster.residents(instance.id()));
    let begun = residents.map(|resident| {
        let row = usize::try_from(resident.request.id).unwrap_or(usize::MAX);
        tally.weight(row) * share(&resident)
    });
    Ok(tally.ended_weight() + begun.sum::<f64>())
}

/// `f`: tokens produced over tokens expected.
fn share(resident: &Resident<'_>) -> f64 {
    let produced = f64::from(resident.produced);
    if produced > 0.0 { produced / (produced + resident.remaining_tokens) } else { 0.0 }
}

/// Integral over the time so far of the sum of `(1 - f) T` over the requests in the system.
fn unfinished_seconds(simulator: &mut Simulator) -> Result<f64> {
    let now = simulator.now();
    let Look { cluster, tally, first_token, .. } = simulator.look()?;
    let residents = cluster.instances.iter().flat_map(|instance| cluster.residents(instance.id()));
    let finished = residents.filter(|resident| resident.produced > 0).map(|resident| {
        let row = usize::try_from(resident.request.id).unwrap_or(usize::MAX);
        let first = first_token.get(row).map_or(now, |&first| first.min(now));
        // The mean of a share that has risen evenly from 0.
        tally.weight(row) * 0.5 * share(&resident) * (now - first).as_seconds()
    });
    Ok(tally.weighted_seconds(now) - finished.sum::<f64>())
}
