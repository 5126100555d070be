//! `round_robin`: each ready instance in turn.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::configurable::{Configurable, NoOptions};
use super::{ClusterView, Needs, Policy};

/// Goes round the ready instances by number: the next is the lowest number above that of the last dispatch, or the
/// lowest of all. Instances that come and go change nobody else's turn. It looks at nothing. No constants.
pub(crate) struct RoundRobin {
    turn: Turn,
}

/// Whose turn it is in a group of instances.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    last: Option<InstanceId>,
}

impl Turn {
    /// The next of `group`, which is in ascending order; `None` when it is empty.
    pub(super) fn next<'a>(
        self,
        group: impl Iterator<Item = &'a InstanceState> + Clone,
    ) -> Option<InstanceId> {
        let mut numbers = group.map(InstanceState::id);
        let first = numbers.clone().next();
        numbers.find(|&id| self.last.is_none_or(|last| id > last)).or(first)
    }

    /// The instance had its turn.
    pub(super) fn took(&mut self, instance: InstanceId) {
        self.last = Some(instance);
    }
}

impl Configurable for RoundRobin {
    type Options = NoOptions;

    fn new(_options: NoOptions, _seed: u64) -> Result<Self> {
        Ok(Self { turn: Turn::default() })
    }
}

impl Policy for RoundRobin {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        self.turn.next(view.ready()).ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, _request: &Request, instance: InstanceId, _now: Picos) {
        self.turn.took(instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    #[test]
    fn turns_go_round_and_skip_what_drains() {
        let mut cluster = Cluster::new(Needs::default(), 3);
        let mut policy = RoundRobin::new(NoOptions {}, 0).unwrap();
        let mut turns = |cluster: &mut Cluster, count: usize| -> Vec<u32> {
            (0..count).map(|_| cluster.route(&mut policy, request(10, 10))).collect()
        };
        assert_eq!(turns(&mut cluster, 4), [0, 1, 2, 0]);
        cluster.drain(1);
        assert_eq!(turns(&mut cluster, 3), [2, 0, 2]);
        cluster.join();
        assert_eq!(turns(&mut cluster, 3), [3, 0, 2]);
    }
}
