//! Policies by name, and a Python callable as a policy.

use irouter_core::policy::{ClusterView, Needs, Policy, PolicySpec};
use irouter_core::state::InstanceState;
use irouter_core::{Error, InstanceId, Request};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// The policy that `spec` names: one of the package, or an external process.
pub(crate) fn named(spec: &PolicySpec, seed: u64) -> irouter_core::Result<Box<dyn Policy>> {
    if irouter_external::is_external(spec) { irouter_external::build(spec, seed) } else { spec.build(seed) }
}

/// What Python is told of an instance.
pub(crate) struct Figures {
    instance: u32,
    in_flight: u32,
    awaiting_first_token: u32,
    queued_prefill_tokens: u64,
    prompt_tokens: u64,
    produced_tokens: u64,
    remaining_output_tokens: f64,
    work_seconds: f64,
    kv_capacity_tokens: u64,
}

impl Figures {
    pub(crate) fn new(instance: &InstanceState) -> Self {
        Self {
            instance: instance.id().0,
            in_flight: instance.in_flight(),
            awaiting_first_token: instance.awaiting_first_token(),
            queued_prefill_tokens: instance.queued_prefill_tokens(),
            prompt_tokens: instance.prompt_tokens(),
            produced_tokens: instance.produced_tokens(),
            remaining_output_tokens: instance.remaining_output_tokens(),
            work_seconds: instance.work_seconds(),
            kv_capacity_tokens: instance.kv_capacity_tokens(),
        }
    }

    pub(crate) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let entry = PyDict::new(py);
        entry.set_item("instance", self.instance)?;
        entry.set_item("in_flight", self.in_flight)?;
        entry.set_item("awaiting_first_token", self.awaiting_first_token)?;
        entry.set_item("queued_prefill_tokens", self.queued_prefill_tokens)?;
        entry.set_item("prompt_tokens", self.prompt_tokens)?;
        entry.set_item("produced_tokens", self.produced_tokens)?;
        entry.set_item("remaining_output_tokens", self.remaining_output_tokens)?;
        entry.set_item("work_seconds", self.work_seconds)?;
        entry.set_item("kv_capacity_tokens", self.kv_capacity_tokens)?;
        Ok(entry)
    }
}

/// Calls `callable(request, instances)`, two plain structures, for the number of an instance.
pub(crate) struct PythonPolicy {
    callable: Py<PyAny>,
}

impl PythonPolicy {
    pub(crate) fn new(callable: Py<PyAny>) -> Self {
        Self { callable }
    }

    fn call(&self, view: &ClusterView<'_>, request: &Request) -> PyResult<InstanceId> {
        Python::attach(|py| {
            let description = PyDict::new(py);
            description.set_item("id", request.id)?;
            description.set_item("prompt_tokens", request.prompt_tokens)?;
            description.set_item("max_tokens", request.max_tokens)?;
            description.set_item("predicted_tokens", request.predicted.mean(request.max_tokens))?;
            description.set_item("priority", request.priority)?;
            description.set_item("tenant", request.tenant.0)?;
            description.set_item("session", request.session)?;
            let instances = PyList::empty(py);
            for instance in view.ready() {
                instances.append(Figures::new(instance).to_dict(py)?)?;
            }
            self.callable.call1(py, (description, instances))?.extract(py).map(InstanceId)
        })
    }
}

impl Policy for PythonPolicy {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> irouter_core::Result<InstanceId> {
        if view.ready().next().is_none() {
            return Err(view.no_instance());
        }
        self.call(view, request)
            .map_err(|error| Error::Policy { policy: "callable".into(), message: error.to_string() })
    }
}
