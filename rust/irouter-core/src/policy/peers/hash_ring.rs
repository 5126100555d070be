//! A ring of virtual nodes, for the rules that hash a request to an instance.

use crate::error::Result;
use crate::hash::mix;
use crate::ids::InstanceId;
use crate::policy::ClusterView;

/// Consistent hashing: a key belongs to the first virtual node at or after its own position, so that an instance that
/// comes or goes moves only its own share of the keys. The hash is not that of any router: keys are spread as evenly as
/// there, over other arcs.
#[derive(Clone, Debug)]
pub(super) struct HashRing {
    virtual_nodes: u32,
    /// Virtual nodes of every instance ever known, by position.
    nodes: Vec<(u64, InstanceId)>,
    instances: usize,
}

impl HashRing {
    /// A ring with so many virtual nodes for each instance, at least one.
    pub(super) fn new(virtual_nodes: u32) -> Self {
        Self { virtual_nodes, nodes: Vec::new(), instances: 0 }
    }

    /// The instance that the key belongs to, among those that may be chosen.
    ///
    /// # Errors
    /// [`crate::Error::NoInstance`] when none is ready.
    pub(super) fn instance(&mut self, view: &ClusterView<'_>, key: u64) -> Result<InstanceId> {
        self.extend(view);
        let position = mix(key, 0);
        let first = self.nodes.partition_point(|&(node, _)| node < position);
        let (before, after) = self.nodes.split_at(first);
        let mut clockwise = after.iter().chain(before).map(|&(_, instance)| instance);
        let found = clockwise.find(|&instance| view.offers(instance));
        found.ok_or_else(|| view.no_instance())
    }

    /// Adds the instances that were not there before.
    fn extend(&mut self, view: &ClusterView<'_>) {
        if self.instances == view.instances.len() {
            return;
        }
        for instance in &view.instances[self.instances..] {
            let id = instance.id();
            // Key positions are mixed with 0.
            let numbers = 1..=u64::from(self.virtual_nodes);
            self.nodes.extend(numbers.map(|number| (mix(u64::from(id.0), number), id)));
        }
        self.nodes.sort_unstable();
        self.instances = view.instances.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Needs;
    use crate::policy::testing::Cluster;

    const KEYS: u64 = 4000;

    fn owners(ring: &mut HashRing, cluster: &Cluster) -> Vec<u32> {
        (0..KEYS).map(|key| ring.instance(&cluster.view(), key).unwrap().0).collect()
    }

    #[test]
    fn keys_are_spread_evenly() {
        let owners = owners(&mut HashRing::new(160), &Cluster::new(Needs::default(), 4));
        for instance in 0..4 {
            let keys = owners.iter().filter(|&&owner| owner == instance).count();
            // The share of an instance has a standard deviation of about 1/sqrt(160), 8 % of its mean of 1,000.
            assert!(keys.abs_diff(1000) < 250, "instance {instance}: {keys}");
        }
    }

    #[test]
    fn only_the_keys_of_an_instance_that_comes_or_goes_move() {
        let mut cluster = Cluster::new(Needs::default(), 4);
        let mut ring = HashRing::new(160);
        let before = owners(&mut ring, &cluster);
        cluster.join();
        let more = owners(&mut ring, &cluster);
        assert!(more.contains(&4));
        assert!(before.iter().zip(&more).all(|(before, after)| before == after || *after == 4));
        cluster.drain(1);
        let fewer = owners(&mut ring, &cluster);
        assert!(more.iter().zip(&fewer).all(|(before, after)| (before == after) != (*before == 1)));
        (0..5).for_each(|instance| cluster.drain(instance));
        assert!(ring.instance(&cluster.view(), 1).is_err());
    }

    #[test]
    fn positions_are_the_same_on_every_platform() {
        let owners = owners(&mut HashRing::new(160), &Cluster::new(Needs::default(), 8));
        // Computed apart from this code.
        assert_eq!(owners[..16], [3, 5, 2, 2, 6, 3, 3, 1, 0, 5, 6, 3, 0, 6, 1, 1]);
    }
}
