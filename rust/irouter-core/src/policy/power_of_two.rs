//! `power_of_two`: the less busy of two random instances.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::configurable::{Configurable, NoOptions};
use super::draws::Draws;
use super::{ClusterView, Needs, Policy};

/// Draws two different ready instances and takes the one with fewer requests in flight, the first drawn when they are
/// equal (Mitzenmacher, 2001). With old information two random candidates do not herd as the global minimum does. No
/// constants.
pub(crate) struct PowerOfTwo {
    draws: Draws,
}

impl Configurable for PowerOfTwo {
    type Options = NoOptions;

    fn new(_options: NoOptions, seed: u64) -> Result<Self> {
        Ok(Self { draws: Draws::new(seed) })
    }
}

impl Policy for PowerOfTwo {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        self.draws.cheaper_of_two(view, |instance| f64::from(instance.in_flight()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    #[test]
    fn the_busiest_of_all_is_never_taken_and_the_rest_by_the_share_of_their_pairs() {
        let mut cluster = Cluster::new(Needs { counts: true, ..Needs::default() }, 3);
        let mut policy = PowerOfTwo::new(NoOptions {}, 1).unwrap();
        for instance in [1, 2, 2] {
            cluster.dispatch(&mut policy, request(10, 10), instance);
        }
        let mut counts = [0_u32; 3];
        for _ in 0..3000 {
            counts[cluster.place(&mut policy, &request(1, 1)) as usize] += 1;
        }
        // Instance 0 wins both of its pairs (2/3 of the draws), instance 1 the pair with 2.
        let chi = (f64::from(counts[0]) - 2000.0).powi(2) / 2000.0
            + (f64::from(counts[1]) - 1000.0).powi(2) / 1000.0;
        assert!(counts[2] == 0 && chi < 6.63, "{counts:?}");
    }

    #[test]
    fn one_instance_needs_no_second() {
        let cluster = Cluster::new(Needs::default(), 1);
        assert_eq!(cluster.place(&mut PowerOfTwo::new(NoOptions {}, 1).unwrap(), &request(1, 1)), 0);
    }
}
