//! Errors as Python exceptions.

use irouter_sim::SimError;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    irouter._core,
    IrouterError,
    PyValueError,
    "Bad input or an impossible event. The message names the bad value and what was expected."
);

/// The exception for an error of the core or the simulator.
pub(crate) fn to_python(error: impl Into<SimError>) -> PyErr {
    IrouterError::new_err(error.into().to_string())
}
