//! The engine model, for hosts that let it run in real time.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use irouter_core::Picos;
use irouter_core::engine::{Executor, FastForward, Job, JobSlot, Noise, Observer};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{IrouterError, to_python};
use crate::router::{engine_config, time};

/// What happened to a request: kind, the caller's number of the request, time in seconds, and tokens.
type Happening = (&'static str, u64, f64, u32);

/// One emulated instance: the engine model of the simulator, driven by explicit time.
#[pyclass(frozen, module = "irouter._core")]
pub(crate) struct Engine {
    inner: Mutex<FastForward>,
    kv_blocks: u32,
}

impl Engine {
    /// The engine is a state machine without callbacks into itself: a panic in between leaves it readable.
    fn lock(&self) -> std::sync::MutexGuard<'_, FastForward> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Engine {
    /// An idle engine at time 0 with a profile (JSON text) that tells of every multiple of `progress_tokens` tokens. Step
    /// times have log-normal noise of sigma `step_noise`.
    #[new]
    #[pyo3(signature = (profile, *, seed=0, step_noise=0.0, progress_tokens=1))]
    fn new(profile: &str, seed: u64, step_noise: f64, progress_tokens: u32) -> PyResult<Self> {
        let config = Arc::new(engine_config(profile)?);
        let noise = Noise::new(seed, 0, step_noise, 0.0).map_err(to_python)?;
        let cadence = NonZeroU32::new(progress_tokens)
            .ok_or_else(|| IrouterError::new_err("`progress_tokens` is 0, expected at least 1"))?;
        let kv_blocks = config.kv.blocks;
        let engine = FastForward::new(config, (step_noise > 0.0).then_some(noise)).with_progress(cadence);
        Ok(Self { inner: Mutex::new(engine), kv_blocks })
    }

    /// Adds a request, known by `tag`, that will produce `output_tokens`. Returns its slot, which is valid until it has
    /// finished or was cancelled.
    #[pyo3(signature = (tag, *, now_s, prompt_tokens, output_tokens, prompt_blocks=None))]
    fn submit(
        &self,
        tag: u64,
        now_s: f64,
        prompt_tokens: u32,
        output_tokens: u32,
        prompt_blocks: Option<Vec<u64>>,
    ) -> PyResult<u32> {
        let job = Job { tag, prompt_tokens, output_tokens, prompt_blocks: prompt_blocks.map(Arc::from) };
        let slot = self.lock().submit(time(now_s)?, job).map_err(to_python)?;
        Ok(slot.0)
    }

    /// Takes a request out at the next step.
    #[pyo3(signature = (slot, *, now_s))]
    fn cancel(&self, slot: u32, now_s: f64) -> PyResult<()> {
        self.lock().cancel(time(now_s)?, JobSlot(slot)).map_err(to_python)
    }

    /// Runs up to `now_s` and returns what happened, in order: `(kind, tag, at_s, tokens)` with the kinds `admitted` (tokens
    /// from the prefix cache), `first_token`, `progress` (tokens so far), `preempted`, `finished` and `cancelled`.
    fn advance(&self, now_s: f64) -> PyResult<Vec<Happening>> {
        let mut happenings = Happenings(Vec::new());
        self.lock().advance(time(now_s)?, &mut happenings).map_err(to_python)?;
        Ok(happenings.0)
    }

    /// A time in seconds before which nothing more happens if no further call is made; None when nothing is to come.
    fn next_event_s(&self) -> Option<f64> {
        self.lock().next_report().map(Picos::as_seconds)
    }

    /// What it holds: `waiting`, `running`, `queued_prefill_tokens`, `kv_usage` (0 to 1).
    #[getter]
    fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let load = self.lock().load();
        let entry = PyDict::new(py);
        entry.set_item("waiting", load.waiting)?;
        entry.set_item("running", load.running)?;
        entry.set_item("queued_prefill_tokens", load.queued_prefill_tokens)?;
        entry.set_item("kv_usage", f64::from(load.used_blocks) / f64::from(self.kv_blocks))?;
        Ok(entry)
    }
}

struct Happenings(Vec<Happening>);

impl Observer for Happenings {
    fn admitted(&mut self, tag: u64, at: Picos, cached_tokens: u32) {
        self.0.push(("admitted", tag, at.as_seconds(), cached_tokens));
    }
    fn first_token(&mut self, tag: u64, at: Picos) {
        self.0.push(("first_token", tag, at.as_seconds(), 1));
    }
    fn gaps(&mut self, _count: u32, _first: Picos, _increment: Picos, _steps: u64) {}
    fn progress(&mut self, tag: u64, at: Picos, tokens: u32) {
        self.0.push(("progress", tag, at.as_seconds(), tokens));
    }
    fn preempted(&mut self, tag: u64, at: Picos) {
        self.0.push(("preempted", tag, at.as_seconds(), 0));
    }
    fn finished(&mut self, tag: u64, at: Picos) {
        self.0.push(("finished", tag, at.as_seconds(), 0));
    }
    fn cancelled(&mut self, tag: u64, at: Picos, tokens: u32) {
        self.0.push(("cancelled", tag, at.as_seconds(), tokens));
    }
}
