//! `random`: any ready instance, with equal probability.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::configurable::{Configurable, NoOptions};
use super::draws::Draws;
use super::{ClusterView, Needs, Policy};

/// Chooses each ready instance with the same probability. It looks at nothing, so that it is the floor that any other
/// policy has to beat. No constants.
pub(crate) struct Random {
    draws: Draws,
}

impl Configurable for Random {
    type Options = NoOptions;

    fn new(_options: NoOptions, seed: u64) -> Result<Self> {
        Ok(Self { draws: Draws::new(seed) })
    }
}

impl Policy for Random {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        self.draws.lowest(view, |_| 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    #[test]
    fn each_ready_instance_is_drawn_evenly_and_no_other() {
        let mut cluster = Cluster::new(Needs::default(), 4);
        cluster.drain(1);
        let mut policy = Random::new(NoOptions {}, 7).unwrap();
        let mut counts = [0_u32; 4];
        for _ in 0..3000 {
            counts[cluster.place(&mut policy, &request(100, 100)) as usize] += 1;
        }
        // Chi-square with 2 degrees of freedom: 9.2 at 1 %.
        let chi: f64 =
            [0, 2, 3].iter().map(|&i: &usize| (f64::from(counts[i]) - 1000.0).powi(2) / 1000.0).sum();
        assert!(counts[1] == 0 && chi < 9.2, "{counts:?}");
    }
}
