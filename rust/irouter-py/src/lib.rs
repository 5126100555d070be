//! Python bindings: conversion, GIL release and error mapping. No logic.

mod calibrate;
mod detach;
mod engine;
mod error;
mod experiment;
mod policy;
mod profile;
mod router;
mod workload;

use pyo3::prelude::*;

/// The compiled core of irouter.
#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::calibrate::{fit_requests, fit_steps};
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::error::IrouterError;
    #[pymodule_export]
    use crate::experiment::{policies, run_experiment, simulate};
    #[pymodule_export]
    use crate::profile::{Profile, capacity};
    #[pymodule_export]
    use crate::router::{Decision, Router, text_blocks};
    #[pymodule_export]
    use crate::workload::Workload;

    /// Whether this is an optimised build: `release` or `debug`.
    #[pymodule_export]
    const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
