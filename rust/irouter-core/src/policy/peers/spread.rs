//! How the requests in flight are spread over a cluster, for the rules that gate affinity by load.

use crate::policy::ClusterView;
use crate::state::InstanceState;

/// Requests in flight over the ready instances.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    /// On the instance with the fewest.
    pub(super) least: u32,
    /// On the instance with the most.
    pub(super) most: u32,
    /// On all instances together.
    pub(super) total: f64,
    /// How many instances are ready.
    pub(super) instances: f64,
    squares: f64,
}

impl Spread {
    /// The spread at the time of a decision; all zero without a ready instance.
    pub(super) fn of(view: &ClusterView<'_>) -> Self {
        let mut spread = Self::default();
        for in_flight in view.ready().map(InstanceState::in_flight) {
            let first = spread.instances == 0.0;
            spread.least = if first { in_flight } else { spread.least.min(in_flight) };
            spread.most = spread.most.max(in_flight);
            spread.total += f64::from(in_flight);
            spread.squares += f64::from(in_flight) * f64::from(in_flight);
            spread.instances += 1.0;
        }
        spread
    }

    /// Mean of an instance.
    pub(super) fn mean(&self) -> f64 {
        self.total / self.instances.max(1.0)
    }

    /// Standard deviation over the instances, all of which are known: no estimate from a sample.
    pub(super) fn deviation(&self) -> f64 {
        let variance = self.squares / self.instances.max(1.0) - self.mean() * self.mean();
        libm::sqrt(variance.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Needs;
    use crate::policy::configurable::{Configurable, NoOptions};
    use crate::policy::round_robin::RoundRobin;
    use crate::policy::testing::{Cluster, request};

    #[test]
    fn only_ready_instances_count() {
        let mut bystander = RoundRobin::new(NoOptions {}, 0).unwrap();
        let mut cluster = Cluster::new(Needs { counts: true, ..Needs::default() }, 4);
        for instance in [0, 0, 0, 1, 2, 2] {
            cluster.dispatch(&mut bystander, request(1, 1), instance);
        }
        let spread = Spread::of(&cluster.view());
        assert_eq!((spread.least, spread.most), (0, 3));
        assert!((spread.mean() - 1.5).abs() < 1e-12);
        // Squares of 1.5, 0.5, 0.5 and 1.5.
        assert!((spread.deviation() - libm::sqrt(5.0 / 4.0)).abs() < 1e-12);
        cluster.drain(0);
        cluster.drain(3);
        let spread = Spread::of(&cluster.view());
        assert_eq!((spread.least, spread.most), (1, 2));
        assert!((spread.total - 3.0).abs() < 1e-12 && (spread.instances - 2.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_cluster_is_all_zero() {
        let spread = Spread::of(&Cluster::new(Needs::default(), 0).view());
        assert_eq!((spread.least, spread.most), (0, 0));
        assert!(spread.mean() == 0.0 && spread.deviation() == 0.0);
    }
}
