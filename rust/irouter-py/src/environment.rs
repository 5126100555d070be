//! The environment for agents.

use std::sync::{Mutex, PoisonError};

use irouter_sim::SimError;
use irouter_sim::environment::{self, Batch, EnvironmentSpec, Transition};
use irouter_sim::experiment::Experiment;
use numpy::ndarray::{Array2, ShapeError};
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::detach::detached;
use crate::error::to_python;
use crate::workload::Workload;

/// Many environments, stepped together without the GIL.
///
/// What a step returns is written in Rust and handed over without a copy; no later step changes it.
#[pyclass(frozen, module = "irouter._core")]
pub(crate) struct VectorEnvironment {
    inner: Mutex<environment::VectorEnvironment>,
}

#[pymethods]
impl VectorEnvironment {
    #[new]
    #[pyo3(signature = (experiment_json, spec_json="{}", workload=None, *, environments=1, threads=1))]
    fn new(
        py: Python<'_>,
        experiment_json: &str,
        spec_json: &str,
        workload: Option<&Workload>,
        environments: usize,
        threads: usize,
    ) -> PyResult<Self> {
        let experiment = Experiment::from_json(experiment_json).map_err(to_python)?;
        let spec = EnvironmentSpec::from_json(spec_json).map_err(to_python)?;
        let trace = workload.map(|workload| workload.inner.clone());
        let inner = detached(py, || {
            environment::VectorEnvironment::new(&experiment, trace.as_deref(), spec, environments, threads)
        })?;
        Ok(Self { inner: Mutex::new(inner) })
    }

    #[pyo3(signature = (seeds=None))]
    #[expect(clippy::needless_pass_by_value, reason = "arguments are extracted by value")]
    fn reset<'py>(&self, py: Python<'py>, seeds: Option<Vec<u64>>) -> PyResult<Bound<'py, PyDict>> {
        let batch = self.alone(py, |inner| inner.reset(seeds.as_deref()))?;
        to_arrays(py, batch)
    }

    #[pyo3(signature = (actions, *, guidance_weight=0.0))]
    #[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
    fn step<'py>(
        &self,
        py: Python<'py>,
        actions: PyReadonlyArray1<'py, i64>,
        guidance_weight: f64,
    ) -> PyResult<Bound<'py, PyDict>> {
        // Copied: another thread may write into the array meanwhile.
        let actions = actions.as_array().to_vec();
        let batch = self.alone(py, |inner| inner.step(&actions, guidance_weight))?;
        to_arrays(py, batch)
    }

    #[getter]
    fn environments(&self, py: Python<'_>) -> PyResult<usize> {
        self.alone(py, |inner| Ok(inner.environments()))
    }

    #[getter]
    fn actions(&self, py: Python<'_>) -> PyResult<usize> {
        self.alone(py, |inner| Ok(inner.actions()))
    }

    #[getter]
    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.alone(py, |inner| Ok(inner.observation().names()))
    }

    #[getter]
    fn bounds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let bounds = self.alone(py, |inner| Ok(inner.observation().bounds()))?;
        Ok(matrix(bounds.len(), bounds.into_flattened())?.into_pyarray(py))
    }
}

impl VectorEnvironment {
    /// Work on the environments by one thread at a time, without the GIL.
    fn alone<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut environment::VectorEnvironment) -> Result<T, SimError> + Send,
    ) -> PyResult<T> {
        // A panic in one step leaves environments that a reset puts right.
        detached(py, || work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The columns of a batch, a row for each environment.
fn to_arrays(py: Python<'_>, batch: Batch) -> PyResult<Bound<'_, PyDict>> {
    let Batch { observations, open, transitions } = batch;
    let rows = transitions.len();
    let columns = PyDict::new(py);
    columns.set_item("observations", matrix(rows, observations)?.into_pyarray(py))?;
    columns.set_item("open", matrix(rows, open)?.into_pyarray(py))?;
    let terms = transitions.iter().flat_map(|transition| transition.terms).collect();
    columns.set_item("terms", matrix(rows, terms)?.into_pyarray(py))?;
    let numbers = |number: fn(&Transition) -> f64| -> Vec<f64> { transitions.iter().map(number).collect() };
    columns.set_item("rewards", numbers(|transition| transition.reward).into_pyarray(py))?;
    columns.set_item("elapsed_s", numbers(|transition| transition.elapsed_s).into_pyarray(py))?;
    let flags = |flag: fn(&Transition) -> bool| -> Vec<bool> { transitions.iter().map(flag).collect() };
    columns.set_item("excluded", flags(|transition| transition.excluded).into_pyarray(py))?;
    columns.set_item("terminated", flags(|transition| transition.terminated).into_pyarray(py))?;
    columns.set_item("truncated", flags(|transition| transition.truncated).into_pyarray(py))?;
    Ok(columns)
}

/// The same memory as rows of one length.
fn matrix<T>(rows: usize, values: Vec<T>) -> PyResult<Array2<T>> {
    let width = values.len() / rows;
    Array2::from_shape_vec((rows, width), values)
        .map_err(|error: ShapeError| crate::error::IrouterError::new_err(error.to_string()))
}
