//! What an agent is shown, by kind.

mod pairs;

use irouter_core::policy::paper_agent::counts;
use irouter_core::policy::{ClusterView, Needs, QueueView, Waiting};
use irouter_core::state::Effort;
use irouter_core::{InstanceId, Request};
use serde::Deserialize;

use crate::error::{Result, SimError};

/// Numbers that describe a cluster and its queue to an agent: what environments of one kind have in common.
///
/// An agent chooses among [`Observation::candidates`] waiting requests and [`Observation::instances`] instances, both by their
/// place in what it is shown.
pub trait Observation: Send + Sync {
    /// What has to be kept up to date for it.
    fn needs(&self) -> Needs;

    /// The most waiting requests that it shows.
    fn candidates(&self) -> usize;

    /// The most instances that it shows.
    fn instances(&self) -> usize;

    /// How many numbers it has.
    fn width(&self) -> usize;

    /// Names of its numbers, in order.
    fn names(&self) -> Vec<String>;

    /// The smallest and the largest value of each number.
    fn bounds(&self) -> Vec<[f32; 2]>;

    /// The order of the queue, lower first, as a policy has it.
    fn order_key(&self, request: &Request, effort: Effort) -> f64 {
        let _ = effort;
        request.arrival.as_seconds()
    }

    /// What a request counts for when others overtake it, as a policy has it.
    fn overtaking_seconds(&self, effort: Effort) -> f64 {
        effort.work_seconds
    }

    /// Whether the instance may have the request.
    fn takes(&self, view: &ClusterView<'_>, instance: InstanceId, request: &Request) -> bool;

    /// What describes one environment.
    fn encoder(&self) -> Box<dyn Encoder>;
}

/// Describes one environment, and may remember what it has seen of it.
pub trait Encoder: Send {
    /// Writes the numbers into `out`, which has a place for each.
    fn encode(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>, out: &mut [f32]);

    /// The request at a place of what was written last, if it still waits.
    fn request<'a>(&self, queue: &QueueView<'a>, candidate: usize) -> Option<Waiting<'a>>;

    /// The instance at a place of what was written last.
    fn instance(&self, place: usize) -> Option<InstanceId>;

    /// The request went to the instance.
    fn dispatched(&mut self, request: &Request, instance: InstanceId) {
        let _ = (request, instance);
    }

    /// A request left the instance, or the instance the cluster.
    fn released(&mut self, instance: InstanceId) {
        let _ = instance;
    }
}

/// The kinds of observation, by the name that users write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservationKind {
    /// The paper's counts ([`counts`]).
    #[default]
    Counts,
    /// What `guided` sees ([`irouter_core::policy::observation`]): the features of each pair of candidate and instance, pair
    /// by pair, the instances of the first candidate first, and zeros for pairs that there are not. The queue has its order.
    Pairs,
}

impl ObservationKind {
    /// The observation of a cluster of so many instances, whose prompts have at most `prompt_tokens`.
    ///
    /// # Errors
    /// [`SimError::Field`] for a cluster without instances.
    pub fn build(self, instances: u32, prompt_tokens: u32) -> Result<Box<dyn Observation>> {
        if instances == 0 {
            return Err(SimError::field("instances", 0, "at least 1"));
        }
        match self {
            Self::Counts => Ok(Box::new(Counts { instances: instances as usize, prompt_tokens })),
            Self::Pairs => Ok(Box::new(pairs::Pairs::new(instances as usize))),
        }
    }
}

#[derive(Clone, Copy)]
struct Counts {
    instances: usize,
    prompt_tokens: u32,
}

impl Observation for Counts {
    fn needs(&self) -> Needs {
        counts::needs()
    }

    fn candidates(&self) -> usize {
        1
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn width(&self) -> usize {
        counts::width(self.instances)
    }

    fn names(&self) -> Vec<String> {
        counts::names(self.instances)
    }

    fn bounds(&self) -> Vec<[f32; 2]> {
        counts::highest(self.instances, self.prompt_tokens)
            .into_iter()
            .map(|highest| [0.0, highest])
            .collect()
    }

    fn takes(&self, view: &ClusterView<'_>, instance: InstanceId, request: &Request) -> bool {
        counts::takes(view, instance, request)
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(*self)
    }
}

impl Encoder for Counts {
    fn encode(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>, out: &mut [f32]) {
        counts::encode(view, queue, out);
    }

    fn request<'a>(&self, queue: &QueueView<'a>, candidate: usize) -> Option<Waiting<'a>> {
        queue.head().filter(|_| candidate == 0)
    }

    fn instance(&self, place: usize) -> Option<InstanceId> {
        u32::try_from(place).ok().filter(|_| place < self.instances).map(InstanceId)
    }
}
