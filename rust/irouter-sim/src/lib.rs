//! Workloads, discrete-event simulator and reports on top of `irouter-core`.

pub mod calibrate;
pub mod environment;
pub mod error;
pub mod experiment;
pub mod metrics;
pub mod prediction;
mod random;
pub mod simulator;
pub mod workload;

pub use error::{Result, SimError};
pub use workload::Workload;
