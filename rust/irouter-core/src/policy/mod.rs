//! Policies: which request goes where, or waits. One file each.
//!
//! A policy reads a [`ClusterView`] and a [`QueueView`] and returns a [`Verdict`]. Most policies only place the request at
//! the head of the queue: they implement [`Policy::place`] and leave [`Policy::decide`] alone. Randomness comes from a
//! generator seeded at construction; ties are broken by it, or by the lowest number, as the policy's comment says.
//!
//! The router holds a `Box<dyn Policy>`: a virtual call costs a nanosecond or two a decision, and a policy of the user's
//! own needs nothing that a built-in one does not.

mod central;
mod configurable;
mod decode_balancer;
mod dedicated_split;
mod draws;
mod estimate;
pub mod guided;
mod join_shortest_queue;
mod least_impact;
mod least_requests;
mod least_work;
mod least_work_oracle;
mod max_capacity;
mod min_min;
pub mod observation;
mod ordered_hold;
pub mod paper_agent;
mod peers;
mod power_of_two;
mod random;
mod registry;
mod room;
mod round_robin;
mod session_affinity;
mod spec;
#[cfg(test)]
mod testing;
mod ticks;
mod view;

pub use configurable::{Configurable, NoOptions, Scale, Tunable};
pub use registry::{Origin, RegistryEntry, registry};
pub use spec::PolicySpec;
pub use view::{ClusterView, QueueView, Waiting};

use crate::error::Result;
use crate::ids::{InstanceId, RequestKey};
use crate::request::Request;
use crate::state::Effort;
use crate::time::Picos;

/// What a policy asks to be kept up to date. What it does not ask for costs nothing, and may be stale or absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent sources of information")]
pub struct Needs {
    /// Counts of the requests in flight.
    pub counts: bool,
    /// Tokens produced by the requests in flight.
    pub progress: bool,
    /// Engine twins.
    pub twin: bool,
    /// The prefix index.
    pub prefix: bool,
    /// What requests are expected to hold ([`Effort::occupancy_seconds`]).
    pub occupancy: bool,
    /// True output lengths: an oracle, for comparison only.
    pub truth: bool,
    /// Engine reports at this interval.
    pub reports: Option<Picos>,
}

impl Needs {
    /// What either asks for; of two report intervals the shorter.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let shorter = [self.reports, other.reports].into_iter().flatten().min();
        Self {
            counts: self.counts || other.counts,
            progress: self.progress || other.progress,
            twin: self.twin || other.twin,
            prefix: self.prefix || other.prefix,
            occupancy: self.occupancy || other.occupancy,
            truth: self.truth || other.truth,
            reports: shorter,
        }
    }
}

/// What a policy wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send this request to that instance.
    Dispatch {
        /// Which request.
        request: RequestKey,
        /// Where to.
        instance: InstanceId,
    },
    /// Send nothing until the next event, or until the given time if that is earlier.
    Hold {
        /// A timer.
        until: Option<Picos>,
    },
}

/// How a request left its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When the router heard of it.
    pub at: Picos,
    /// Tokens known to have been produced.
    pub tokens: u32,
    /// Whether it is complete, not failed or cancelled.
    pub completed: bool,
}

/// A routing policy.
pub trait Policy: Send {
    /// What it has to be told.
    fn needs(&self) -> Needs;

    /// Key by which the central queue orders requests of equal priority within a tenant, lower first, taken once when
    /// the request arrives. First come, first served by default.
    fn order_key(&self, request: &Request, effort: Effort) -> f64 {
        let _ = effort;
        request.arrival.as_seconds()
    }

    /// What the request counts for in the central queue, where no request is overtaken by more than a set amount and tenants
    /// share by what was served: its predicted work by default.
    fn overtaking_seconds(&self, effort: Effort) -> f64 {
        effort.work_seconds
    }

    /// The instance for a request that has to go now.
    ///
    /// # Errors
    /// [`crate::Error::NoInstance`] when none is ready, or the policy's own error.
    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId>;

    /// What to do next; the queue is not empty. Places the head of the queue by default.
    ///
    /// # Errors
    /// As [`Policy::place`].
    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        let Some(head) = queue.head() else { return Ok(Verdict::Hold { until: None }) };
        let instance = self.place(view, head.request)?;
        Ok(Verdict::Dispatch { request: head.key, instance })
    }

    /// The request went to the instance.
    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        let _ = (request, instance, now);
    }

    /// The router has heard of the request's first token.
    fn first_token(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        let _ = (request, instance, now);
    }

    /// The router has heard that the request has produced so many tokens, more than before (needs [`Needs::progress`]).
    fn progressed(&mut self, request: &Request, instance: InstanceId, tokens: u32) {
        let _ = (request, instance, tokens);
    }

    /// The request is no longer there.
    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        let _ = (request, instance, end);
    }

    /// The instance left the cluster: whatever was kept of it is worthless.
    fn left(&mut self, instance: InstanceId) {
        let _ = instance;
    }

    /// What the policy says of itself at the end of a run, such as how well its own predictor did: names that end in
    /// their unit, finite numbers, always in the same order. Nothing by default.
    fn figures(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}
