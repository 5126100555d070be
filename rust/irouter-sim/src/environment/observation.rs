//! What an agent is shown, by kind.

use irouter_core::policy::paper_agent::counts;
use irouter_core::policy::{ClusterView, Needs, QueueView};
use serde::Deserialize;

use crate::error::{Result, SimError};

/// Numbers that describe a cluster and its queue to an agent.
pub trait Observation: Send + Sync {
    /// What has to be kept up to date for it.
    fn needs(&self) -> Needs;

    /// Waiting requests that it shows, first to last; an agent chooses among them.
    fn candidates(&self) -> usize;

    /// How many numbers it has.
    fn width(&self) -> usize;

    /// Names of its numbers, in order.
    fn names(&self) -> Vec<String>;

    /// The largest value of each number; the smallest is 0.
    fn highest(&self) -> Vec<f32>;

    /// Writes the numbers into `out`, which has a place for each.
    fn encode(&self, view: &ClusterView<'_>, queue: &QueueView<'_>, out: &mut [f32]);
}

/// The kinds of observation, by the name that users write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservationKind {
    /// The paper's counts ([`counts`]).
    #[default]
    Counts,
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
        }
    }
}

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

    fn width(&self) -> usize {
        counts::width(self.instances)
    }

    fn names(&self) -> Vec<String> {
        counts::names(self.instances)
    }

    fn highest(&self) -> Vec<f32> {
        counts::highest(self.instances, self.prompt_tokens)
    }

    fn encode(&self, view: &ClusterView<'_>, queue: &QueueView<'_>, out: &mut [f32]) {
        counts::encode(view, queue, out);
    }
}
