//! Sums over the requests of a run while it goes on.

use irouter_core::Picos;

/// What has arrived and ended so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Requests that completed.
    pub(crate) completed: u64,
    /// Weight of each row, 0 once it has ended; none without it.
    weights: Vec<f64>,
    /// Sum of the weights of the requests in the system.
    open_weight: f64,
    /// Sum of the weights of those that ended.
    ended_weight: f64,
    /// Sum over those in the system of weight x arrival, less what those that ended have cost; in seconds.
    weighted_start_s: f64,
    open: i64,
    /// Sum of the ends less the arrivals, of all that have arrived and ended.
    balance: i128,
}

impl Tally {
    /// Gives each row a weight, before the first arrives.
    pub(super) fn weigh(&mut self, weights: Vec<f64>) {
        self.weights = weights;
    }

    pub(super) fn arrived(&mut self, row: usize, at: Picos) {
        self.open += 1;
        self.balance -= i128::from(at.0);
        self.open_weight += self.weight(row);
        self.weighted_start_s += self.weight(row) * at.as_seconds();
    }

    /// A request ended `at`, its first token out at `first`, if it had one.
    pub(super) fn ended(&mut self, row: usize, first: Option<Picos>, at: Picos, completed: bool) {
        self.open -= 1;
        self.balance += i128::from(at.0);
        self.completed += u64::from(completed);
        let weight = self.weights.get_mut(row).map_or(0.0, std::mem::take);
        self.ended_weight += weight;
        // An empty system weighs nothing, whatever was rounded.
        self.open_weight = if self.open == 0 { 0.0 } else { self.open_weight - weight };
        // Unfinished in full up to its first token, on average by half from there to its end.
        let middle_s = f64::midpoint(first.unwrap_or(at).as_seconds(), at.as_seconds());
        self.weighted_start_s -= weight * middle_s;
    }

    /// Weight of a row, 0 once it has ended.
    pub(crate) fn weight(&self, row: usize) -> f64 {
        self.weights.get(row).copied().unwrap_or(0.0)
    }

    /// Sum of the weights of the requests that ended.
    pub(crate) fn ended_weight(&self) -> f64 {
        self.ended_weight
    }

    /// Sum over all requests of weight x seconds in the system up to `now`, of those that ended only half of what came after
    /// their first token.
    pub(crate) fn weighted_seconds(&self, now: Picos) -> f64 {
        self.open_weight * now.as_seconds() - self.weighted_start_s
    }

    /// Time that all requests have spent in the system up to `now`, in seconds: at the end the sum of their latencies.
    pub(crate) fn time_in_system_s(&self, now: Picos) -> f64 {
        (i128::from(now.0) * i128::from(self.open) + self.balance) as f64 * 1e-12
    }
}
