//! What an agent is rewarded for.

use irouter_core::Picos;
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
    /// (a)  - dt  sum over all requests in the system of (1 - f) T
    /// (b)  + 60  for each completion
    /// ```
    ///
    /// * `dt`: seconds since the decision before; the sum is that of the state that it led to;
    /// * `f`: tokens produced over tokens expected, 0 for a request that has not started;
    /// * `T`: seconds that the request takes alone on an idle instance, its output length known.
    Paper,
    /// Minus the seconds that requests have spent in the system since the decision before (the first time: since the start),
    /// all added up. Over an episode that is minus the sum of their latencies.
    #[default]
    RequestsInSystem,
}

/// Counts what has been rewarded so far.
pub(super) struct Reward {
    kind: RewardKind,
    at: Picos,
    completed: u64,
    time_in_system_s: f64,
}

impl Reward {
    /// At the start of an episode, with the requests' times alone.
    pub(super) fn new(kind: RewardKind, simulator: &mut Simulator, unloaded: &[Unloaded]) -> Self {
        if kind == RewardKind::Paper {
            simulator.weigh(unloaded.iter().map(|alone| alone.e2e.as_seconds()).collect());
        }
        Self { kind, at: Picos::ZERO, completed: 0, time_in_system_s: 0.0 }
    }

    /// The first decision is now: time counts from here on. What the first request has waited for the first tick belongs to
    /// its latency all the same.
    pub(super) fn begin(&mut self, now: Picos) {
        self.at = now;
    }

    /// What has come since the last call: the terms (a) and (b).
    pub(super) fn since(&mut self, simulator: &mut Simulator) -> Result<[f64; 2]> {
        let now = simulator.now();
        match self.kind {
            RewardKind::Paper => {
                let elapsed_s = (now - self.at).as_seconds();
                self.at = now;
                let cost = if elapsed_s > 0.0 { elapsed_s * unfinished(simulator)? } else { 0.0 };
                let completed = simulator.tally().completed;
                let completions = completed - self.completed;
                self.completed = completed;
                Ok([-cost, COMPLETION * completions as f64])
            }
            RewardKind::RequestsInSystem => {
                let time_in_system_s = simulator.tally().time_in_system_s(now);
                let spent_s = time_in_system_s - self.time_in_system_s;
                self.time_in_system_s = time_in_system_s;
                Ok([-spent_s, 0.0])
            }
        }
    }
}

/// Sum of `(1 - f) T` over the requests in the system.
fn unfinished(simulator: &mut Simulator) -> Result<f64> {
    let Look { cluster, tally, .. } = simulator.look()?;
    let residents = cluster.instances.iter().flat_map(|instance| cluster.residents(instance.id()));
    let progress = residents.filter(|resident| resident.produced > 0).map(|resident| {
        let produced = f64::from(resident.produced);
        let row = usize::try_from(resident.request.id).unwrap_or(usize::MAX);
        tally.weight(row) * produced / (produced + resident.remaining_tokens)
    });
    Ok(tally.open_weight() - progress.sum::<f64>())
}
