//! The simulator as an environment for agents that learn: they decide, and are rewarded for what comes of it.
//!
//! An [`Environment`] stops wherever a router would be asked: at an arrival, at an event while requests wait, when a hold
//! runs out, or at even ticks alone. It shows the agent an [`Observation`] and which actions are open, and carries out the one
//! chosen: a waiting request to an instance, or hold. The router, its state and the engines are those of a simulation; the
//! rules that bind policies ([`irouter_core::RouterConfig`]) bind agents. [`VectorEnvironment`] runs many at a time.

mod agent;
mod guidance;
mod observation;
mod reward;
mod single;
mod spec;
mod vector;

pub use observation::{Encoder, Observation, ObservationKind};
pub use reward::RewardKind;
pub use single::{Environment, Transition};
pub use spec::EnvironmentSpec;
pub use vector::{Batch, VectorEnvironment};
