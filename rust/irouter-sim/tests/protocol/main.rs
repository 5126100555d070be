//! The protocol of comparisons, on whole runs of the simulator.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod aborts;
mod closed_loop;
mod poisoned_lengths;
mod slow_instances;
mod support;
