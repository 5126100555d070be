//! The environment is the simulator: what an agent is shown and rewarded for is what a policy would have met.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod decisions;
mod pairs;
mod rewards;
mod support;
