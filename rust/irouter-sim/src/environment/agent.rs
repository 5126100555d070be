//! The policy of a router whose decisions an agent makes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use irouter_core::policy::{ClusterView, End, Policy, QueueView, Verdict};
use irouter_core::state::Effort;
use irouter_core::{InstanceId, Picos, Request, Result};

use super::observation::Encoder;
use super::single::Shared;

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

/// What describes an environment, told by its router and asked by the environment.
#[derive(Clone)]
pub(super) struct SharedEncoder(Arc<Mutex<Box<dyn Encoder>>>);

impl SharedEncoder {
    pub(super) fn new(encoder: Box<dyn Encoder>) -> Self {
        Self(Arc::new(Mutex::new(encoder)))
    }

    /// Nobody else has it for longer than a call.
    pub(super) fn get(&self) -> MutexGuard<'_, Box<dyn Encoder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds whatever waits: the agent dispatches, from outside.
pub(super) struct Agent {
    pub(super) shared: Arc<Shared>,
    pub(super) encoder: SharedEncoder,
}

impl Policy for Agent {
    fn needs(&self) -> irouter_core::policy::Needs {
        self.shared.observation.needs()
    }

    fn order_key(&self, request: &Request, effort: Effort) -> f64 {
        self.shared.observation.order_key(request, effort)
    }

    fn overtaking_seconds(&self, effort: Effort) -> f64 {
        self.shared.observation.overtaking_seconds(effort)
    }

    /// Where a request goes that must not wait any longer: to the fewest in flight.
    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|instance| f64::from(instance.in_flight()))
    }

    fn decide(&mut self, view: &ClusterView<'_>, _queue: &QueueView<'_>) -> Result<Verdict> {
        Ok(Verdict::Hold { until: Some(self.shared.timer.end(view.now)) })
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.encoder.get().dispatched(request, instance);
    }

    fn released(&mut self, _request: &Request, instance: InstanceId, _end: End) {
        self.encoder.get().released(instance);
    }

    fn left(&mut self, instance: InstanceId) {
        self.encoder.get().released(instance);
    }
}
