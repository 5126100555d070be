//! Simulations and comparisons.

use irouter_core::OnFailure;
use irouter_core::impact::Form;
use irouter_core::policy::guided::shipped_weights;
use irouter_core::policy::observation::{FEATURES, VERSION};
use irouter_core::policy::{self, Policy, PolicySpec};
use irouter_sim::experiment::{self, Experiment, PolicyFactory};
use irouter_sim::metrics::canonical_json;
use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyDictMethods};

use crate::detach::{Progress, detached};
use crate::error::to_python;
use crate::policy::{PythonPolicy, named};
use crate::workload::Workload;

/// The package's policies, Python callables by name, and external processes.
struct Factory {
    callables: Vec<(String, Py<PyAny>)>,
}

impl Factory {
    fn new(callables: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let items = callables.into_iter().flat_map(PyDictMethods::iter);
        let callables = items.map(|(name, callable)| Ok((name.extract()?, callable.unbind())));
        Ok(Self { callables: callables.collect::<PyResult<_>>()? })
    }
}

impl PolicyFactory for Factory {
    fn build(&self, spec: &PolicySpec, seed: u64) -> Result<Box<dyn Policy>, irouter_sim::SimError> {
        match self.callables.iter().find(|(name, _)| name == spec.name()) {
            Some((_, callable)) => {
                let callable = Python::attach(|py| callable.clone_ref(py));
                Ok(Box::new(PythonPolicy::new(callable)))
            }
            None => Ok(named(spec, seed)?),
        }
    }

    fn on_failure(&self, spec: &PolicySpec) -> OnFailure {
        if irouter_external::is_external(spec) { OnFailure::Fallback } else { OnFailure::Stop }
    }
}

/// Runs every policy of an experiment on every seed, on `threads` threads (0: one per core), and returns the runs as
/// canonical JSON. `progress(done, total)` is called after each run. `callables` are policies of the caller's own by name:
/// `(request, instances) -> instance number`.
#[pyfunction]
#[pyo3(signature = (experiment_json, workload=None, *, threads=0, progress=None, callables=None))]
pub(crate) fn run_experiment(
    py: Python<'_>,
    experiment_json: &str,
    workload: Option<&Workload>,
    threads: usize,
    progress: Option<Py<PyAny>>,
    callables: Option<&Bound<'_, PyDict>>,
) -> PyResult<String> {
    let policies = Factory::new(callables)?;
    let experiment = Experiment::from_json(experiment_json).map_err(to_python)?;
    let trace = workload.map(|workload| workload.inner.clone());
    let progress = Progress::new(progress);
    let report = |done, total| progress.report(done, total);
    let result = detached(py, || experiment::run(&experiment, trace.as_deref(), &policies, threads, &report));
    match progress.into_error() {
        Some(error) => Err(error),
        None => result,
    }
}

/// Runs the first policy of an experiment on its first seed and returns the requests as columns: a dictionary of NumPy
/// arrays, and of the outcomes as a list of words. With a form of the `impact` also what was expected at each dispatch.
#[pyfunction]
#[pyo3(signature = (experiment_json, workload=None, *, callables=None, impact=None))]
pub(crate) fn simulate<'py>(
    py: Python<'py>,
    experiment_json: &str,
    workload: Option<&Workload>,
    callables: Option<&Bound<'_, PyDict>>,
    impact: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    let impact = impact.map(Form::parse).transpose().map_err(to_python)?;
    let policies = Factory::new(callables)?;
    let experiment = Experiment::from_json(experiment_json).map_err(to_python)?;
    let trace = workload.map(|workload| workload.inner.clone());
    let columns = detached(py, || experiment::simulate(&experiment, trace.as_deref(), &policies, impact))?;
    let result = PyDict::new(py);
    for (name, seconds) in columns.seconds {
        result.set_item(name, seconds.into_pyarray(py))?;
    }
    for (name, counts) in columns.counts {
        result.set_item(name, counts.into_pyarray(py))?;
    }
    result.set_item("outcome", columns.outcome)?;
    Ok(result)
}

/// Every policy as a JSON list.
#[pyfunction]
pub(crate) fn policies() -> PyResult<String> {
    canonical_json(&policy::registry()).map_err(to_python)
}

/// The file of weights of `guided` that the package ships.
#[pyfunction]
pub(crate) fn guided_weights(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, shipped_weights())
}

/// What learned policies see: `{"version": ..., "features": [...]}` as JSON.
#[pyfunction]
pub(crate) fn observation() -> PyResult<String> {
    let observation = serde_json::json!({ "version": VERSION, "features": FEATURES.as_slice() });
    canonical_json(&observation).map_err(to_python)
}
