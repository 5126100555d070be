//! Latency profiles.

use irouter_core::engine::EngineConfig;
use irouter_core::profile::{ModelShape, Scale, StepShape, kv_capacity_blocks};
use pyo3::prelude::*;

use crate::error::to_python;

/// A latency profile: a model on an accelerator behind one engine configuration.
#[pyclass(frozen, module = "irouter._core")]
pub(crate) struct Profile {
    inner: irouter_core::Profile,
    engine: EngineConfig,
}

#[pymethods]
impl Profile {
    /// Reads a profile from JSON.
    #[new]
    fn new(json: &str) -> PyResult<Self> {
        let inner = irouter_core::Profile::from_json(json).map_err(to_python)?;
        let engine = EngineConfig::new(&inner).map_err(to_python)?;
        Ok(Self { inner, engine })
    }

    /// The profile as JSON.
    fn to_json(&self) -> String {
        self.inner.to_json()
    }

    /// Name such as `llama-3.1-8b@h100`.
    #[getter]
    fn name(&self) -> &str {
        &self.inner.name
    }

    /// Tokens that the KV cache of one instance holds.
    #[getter]
    fn kv_tokens(&self) -> u64 {
        u64::from(self.inner.kv.blocks) * u64::from(self.inner.kv.block_tokens)
    }

    /// Duration of one step in milliseconds.
    #[pyo3(signature = (*, prefill_sequences=0, prefill_tokens=0, prefill_pairs=0, decodes=0, decode_context=0))]
    fn step_ms(
        &self,
        prefill_sequences: u32,
        prefill_tokens: u32,
        prefill_pairs: u64,
        decodes: u32,
        decode_context: u64,
    ) -> f64 {
        let shape = StepShape { prefill_sequences, prefill_tokens, prefill_pairs, decodes, decode_context };
        self.engine.steps.step(&shape, Scale::ONE).as_millis()
    }

    fn __repr__(&self) -> String {
        format!("Profile({:?})", self.inner.name)
    }
}

/// Blocks of `block_tokens` tokens that the KV cache of one instance of `model` has on accelerators of `memory_gib` GiB.
#[pyfunction]
#[pyo3(name = "kv_capacity_blocks")]
pub(crate) fn capacity(
    model: &str,
    memory_gib: f64,
    tensor_parallel: u32,
    block_tokens: u32,
) -> PyResult<u32> {
    let shape = ModelShape::of(model).map_err(to_python)?;
    kv_capacity_blocks(shape, memory_gib, tensor_parallel, block_tokens).map_err(to_python)
}
