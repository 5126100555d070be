//! The policy of a router whose decisions an agent makes.

use irouter_core::policy::{ClusterView, Needs, Policy, QueueView, Verdict};
use irouter_core::{InstanceId, Picos, Result};

/// When a hold runs out if nothing else ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// So long after it began.
    After(Picos),
    /// At the next multiple of this.
    Tick(Picos),
}

impl Timer {
    fn end(self, now: Picos) -> Picos {
        match self {
            Self::After(longest) => now.saturating_add(longest),
            Self::Tick(tick) => now.saturating_add(Picos(tick.0 - now.0.rem_euclid(tick.0))),
        }
    }
}

/// Holds whatever waits: the agent dispatches, from outside.
pub(super) struct Agent {
    pub(super) needs: Needs,
    pub(super) timer: Timer,
}

impl Policy for Agent {
    fn needs(&self) -> Needs {
        self.needs
    }

    /// Where a request goes that must not wait any longer: to the fewest in flight.
    fn place(&mut self, view: &ClusterView<'_>, _request: &irouter_core::Request) -> Result<InstanceId> {
        view.lowest(|instance| f64::from(instance.in_flight()))
    }

    fn decide(&mut self, view: &ClusterView<'_>, _queue: &QueueView<'_>) -> Result<Verdict> {
        Ok(Verdict::Hold { until: Some(self.timer.end(view.now)) })
    }
}
