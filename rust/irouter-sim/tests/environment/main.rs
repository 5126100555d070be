//! The environment is the simulator: what an agent is shown and rewarded for is what a policy would have met.

mod decisions;
mod rewards;
mod support;
