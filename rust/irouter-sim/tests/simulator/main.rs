//! Whole runs of the simulator: what the router knows, and what becomes of every request.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod disturbances;
mod live;
mod support;
mod telling;
mod twins;
