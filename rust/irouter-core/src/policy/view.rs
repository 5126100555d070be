//! What a policy sees.

use crate::error::{Error, Result};
use crate::ids::{InstanceId, RequestKey};
use crate::impact::Forecast;
use crate::queue::Queue;
use crate::request::Request;
use crate::state::{Effort, InstanceState, Resident, State};
use crate::time::Picos;

/// Every instance at the time of a decision.
#[derive(Clone, Copy, Debug)]
pub struct ClusterView<'a> {
    /// The time of the decision.
    pub now: Picos,
    /// All instances ever known, by number; only those that are offered may be chosen.
    pub instances: &'a [InstanceState],
    /// By number, which of the ready ones are offered; all without it.
    only: Option<&'a [bool]>,
    state: &'a State,
}

impl<'a> ClusterView<'a> {
    /// Every instance that is ready.
    pub(crate) fn new(now: Picos, state: &'a State) -> Self {
        Self { now, instances: state.instances(), only: None, state }
    }

    /// The requests in flight on an instance, in no particular order.
    pub fn residents(&self, instance: InstanceId) -> impl Iterator<Item = Resident<'a>> + use<'a> {
        self.state.residents(instance)
    }

    /// What it is a view of.
    pub(crate) fn state(&self) -> &'a State {
        self.state
    }

    /// When a request dispatched now reaches its engine, as the twins assume it.
    pub fn reaches_engine(&self) -> Picos {
        self.now.saturating_add(self.state.dispatch_delay())
    }

    /// What the instance will hold, in expectation.
    pub fn forecast(&self, instance: &InstanceState) -> Forecast {
        Forecast::new(self.state, instance, self.now)
    }

    /// The same, with only those instances offered that are marked by their number.
    #[must_use]
    pub fn only<'b>(&self, marked: &'b [bool]) -> ClusterView<'b>
    where
        'a: 'b,
    {
        ClusterView { only: Some(marked), ..*self }
    }

    /// Whether the instance may be chosen.
    pub fn offers(&self, id: InstanceId) -> bool {
        let ready = self.instances.get(id.index()).is_some_and(InstanceState::is_ready);
        ready && self.only.is_none_or(|only| only.get(id.index()).copied().unwrap_or(false))
    }

    /// The instances that may be chosen, by number.
    pub fn ready(&self) -> impl Iterator<Item = &'a InstanceState> + Clone + use<'a> {
        let view = *self;
        self.instances.iter().filter(move |instance| view.offers(instance.id()))
    }

    /// The offered instance with the lowest `cost`; ties go to the lowest number.
    ///
    /// # Errors
    /// [`Error::NoInstance`] when none is ready.
    pub fn lowest(&self, mut cost: impl FnMut(&InstanceState) -> f64) -> Result<InstanceId> {
        let mut best: Option<(f64, InstanceId)> = None;
        for instance in self.ready() {
            let cost = cost(instance);
            if best.is_none_or(|(lowest, _)| cost < lowest) {
                best = Some((cost, instance.id()));
            }
        }
        best.map(|(_, id)| id).ok_or_else(|| self.no_instance())
    }

    /// The error for a cluster in which nothing is ready.
    pub fn no_instance(&self) -> Error {
        Error::NoInstance { known: self.instances.len() }
    }
}

/// A request at the router.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Names it in a [`super::Verdict`].
    pub key: RequestKey,
    /// The request.
    pub request: &'a Request,
    /// What it is expected to take, as of its arrival.
    pub effort: Effort,
}

/// The central queue at the time of a decision.
#[derive(Clone, Copy, Debug)]
pub struct QueueView<'a> {
    pub(crate) queue: &'a Queue,
    pub(crate) state: &'a State,
}

impl<'a> QueueView<'a> {
    /// The request that is next: highest priority, then the tenant with the least served work by weight, then the
    /// policy's own order. A request that was overtaken by as much as the rules allow comes before that order.
    pub fn head(&self) -> Option<Waiting<'a>> {
        self.candidates(1).next()
    }

    /// The first `limit` requests that may go next, in that order: of one priority and tenant, and only the head when
    /// it may not be overtaken any more.
    pub fn candidates(&self, limit: usize) -> impl Iterator<Item = Waiting<'a>> + use<'a> {
        self.shortlist(limit, 0)
    }

    /// The same and, after them, the `seniors` of the same priority and tenant that have waited longest, of which some may
    /// come twice; none where only the head may go.
    pub fn shortlist(&self, limit: usize, seniors: usize) -> impl Iterator<Item = Waiting<'a>> + use<'a> {
        let state = self.state;
        self.queue.shortlist(limit, seniors).filter_map(move |key| {
            state.waiting(key).map(|(request, effort)| Waiting { key, request, effort })
        })
    }

    /// A request that waits, whatever its place.
    pub fn get(&self, key: RequestKey) -> Option<Waiting<'a>> {
        self.state.waiting(key).map(|(request, effort)| Waiting { key, request, effort })
    }

    /// What those that wait count for ([`super::Policy::overtaking_seconds`]), in seconds of one instance.
    pub fn waiting_seconds(&self) -> f64 {
        self.queue.waiting_seconds()
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.len() == 0
    }
}
