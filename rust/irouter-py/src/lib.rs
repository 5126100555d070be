//! Python bindings: conversion, GIL release and error mapping. No logic.

mod calibrate;
mod detach;
mod engine;
mod environment;
mod error;
mod experiment;
mod length;
mod network;
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
    use crate::environment::VectorEnvironment;
    #[pymodule_export]
    use crate::error::IrouterError;
    #[pymodule_export]
    use crate::experiment::{guided_weights, observation, policies, run_experiment, simulate};
    #[pymodule_export]
    use crate::length::{
        LengthHistory, censored_quantiles, expected_lengths, kendall_tau_b, length_quantiles, length_survival,
    };
    #[pymodule_export]
    use crate::network::network_outputs;
    #[pymodule_export]
    use crate::profile::{Profile, capacity};
    #[pymodule_export]
    use crate::router::{Decision, Impact, Router, text_blocks};
    #[pymodule_export]
    use crate::workload::Workload;

    /// Whether this is an optimised build: `release` or `debug`.
    #[pymodule_export]
    const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

    /// Levels of the quantiles that say what is known of an output length.
    #[pymodule_export]
    const LENGTH_LEVELS: [f64; irouter_core::length::LEVELS.len()] = irouter_core::length::LEVELS;

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
