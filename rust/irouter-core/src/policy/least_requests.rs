//! `least_requests`: the fewest requests in flight.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::configurable::{Configurable, NoOptions};
use super::draws::Draws;
use super::{ClusterView, Needs, Policy};

/// `argmin n`, with `n` the requests dispatched to the instance and not yet finished, by the router's own count. Ties are
/// broken at random, so that idle instances share what comes. No constants.
///
/// Also known as join-shortest-queue by requests, least connections, `least-request`.
pub(crate) struct LeastRequests {
    draws: Draws,
}

impl Configurable for LeastRequests {
    type Options = NoOptions;

    fn new(_options: NoOptions, seed: u64) -> Result<Self> {
        Ok(Self { draws: Draws::new(seed) })
    }
}

impl Policy for LeastRequests {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        self.draws.lowest(view, |instance| f64::from(instance.in_flight()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    #[test]
    fn the_fewest_requests_win_whatever_their_size() {
        let mut cluster = Cluster::new(Needs { counts: true, ..Needs::default() }, 3);
        let mut policy = LeastRequests::new(NoOptions {}, 0).unwrap();
        for instance in [0, 0, 1, 2, 2] {
            cluster.dispatch(&mut policy, request(1000, 1000), instance);
        }
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1);
    }

    #[test]
    fn equals_share_what_comes() {
        let cluster = Cluster::new(Needs { counts: true, ..Needs::default() }, 2);
        let mut policy = LeastRequests::new(NoOptions {}, 3).unwrap();
        let first = (0..1000).filter(|_| cluster.place(&mut policy, &request(1, 1)) == 0).count();
        // A binomial of 1,000 fair draws lies within 2.58 standard deviations (41) at 1 %.
        assert!(first.abs_diff(500) < 41, "{first}");
    }
}
