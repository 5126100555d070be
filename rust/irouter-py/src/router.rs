//! The router, for hosts that keep their own time and transport.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use irouter_core::engine::EngineConfig;
use irouter_core::impact::Form;
use irouter_core::policy::PolicySpec;
use irouter_core::state::{InstanceState, Status};
use irouter_core::{
    EngineReport, Error, Event, InstanceId, LengthDistribution, Outcome, Picos, Request, RequestKey,
    RouterConfig, TenantId, prompt,
};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyDict;

use crate::error::{IrouterError, to_python};
use crate::policy::{Figures, PythonPolicy, named};

/// The latency impact of placing a request on an instance; times are from the decision on.
#[pyclass(frozen, get_all, module = "irouter._core")]
#[derive(Clone)]
pub(crate) struct Impact {
    /// The instance.
    instance: u32,
    /// Seconds until its first token is out.
    ttft_s: f64,
    /// Seconds until its last token is out.
    e2e_s: f64,
    /// By how many seconds the requests there end later, summed.
    inflicted_s: f64,
    /// The same of the one that is delayed the most.
    largest_inflicted_s: f64,
    /// The most KV cache needed at a time, as a share of what there is.
    kv_peak_share: f64,
    /// Probability that somebody is preempted.
    overflow_probability: f64,
    /// Preemptions more with it than without, where they are counted.
    preemptions: Option<f64>,
    /// Prompt tokens expected in the prefix cache.
    cached_tokens: u32,
    /// Requests that are there.
    residents: u32,
    /// How many of them have no token yet.
    prompts_ahead: u32,
    /// All that in one line.
    explanation: String,
}

#[pymethods]
impl Impact {
    fn __repr__(&self) -> String {
        format!("Impact(instance={}, {:?})", self.instance, self.explanation)
    }
}

impl From<(InstanceId, irouter_core::impact::Impact)> for Impact {
    fn from((instance, impact): (InstanceId, irouter_core::impact::Impact)) -> Self {
        Self {
            instance: instance.0,
            ttft_s: impact.ttft_seconds,
            e2e_s: impact.e2e_seconds,
            inflicted_s: impact.inflicted_seconds,
            largest_inflicted_s: impact.largest_inflicted_seconds,
            kv_peak_share: impact.kv_peak_share,
            overflow_probability: impact.overflow_probability,
            preemptions: impact.preemptions,
            cached_tokens: impact.cached_tokens,
            residents: impact.residents,
            prompts_ahead: impact.prompts_ahead,
            explanation: impact.to_string(),
        }
    }
}

/// One dispatch.
#[pyclass(frozen, get_all, module = "irouter._core")]
pub(crate) struct Decision {
    /// The router's handle of the request, for its events.
    key: u64,
    /// The caller's number of the request.
    request_id: u64,
    /// Where it goes.
    instance: u32,
    /// Seconds that it waited at the router.
    waited_s: f64,
    /// Prompt tokens expected in the instance's prefix cache.
    cached_tokens: u32,
    /// Whether the policy failed and the least predicted work decided.
    fallback: bool,
    /// The latency impact expected of it; None from a router without `impact`.
    impact: Option<Impact>,
}

#[pymethods]
impl Decision {
    fn __repr__(&self) -> String {
        let impact = self.impact.as_ref().map(|impact| format!(", {:?}", impact.explanation));
        let impact = impact.unwrap_or_default();
        format!("Decision(request_id={}, instance={}{impact})", self.request_id, self.instance)
    }
}

impl From<irouter_core::Decision> for Decision {
    fn from(decision: irouter_core::Decision) -> Self {
        Self {
            key: pack(decision.key),
            request_id: decision.id,
            instance: decision.instance.0,
            waited_s: decision.waited.as_seconds(),
            cached_tokens: decision.cached_tokens,
            fallback: decision.fallback,
            impact: decision.impact.map(|impact| (decision.instance, impact).into()),
        }
    }
}

/// A router: a central queue, the state of every instance, and a policy, driven by events and explicit time.
///
/// Every call takes the time in seconds of one monotonic clock. Safe to call from several threads.
#[pyclass(frozen, module = "irouter._core")]
pub(crate) struct Router {
    inner: Mutex<irouter_core::Router>,
}

pub(crate) fn time(seconds: f64) -> PyResult<Picos> {
    Picos::from_seconds(seconds).ok_or_else(|| {
        to_python(Error::field("now_s", seconds, "seconds that fit 106 days from the clock's epoch"))
    })
}

fn pack(key: RequestKey) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.slot)
}

fn unpack(key: u64) -> RequestKey {
    let (slot, generation) = (key & u64::from(u32::MAX), key >> 32);
    #[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
    RequestKey { slot: slot as u32, generation: generation as u32 }
}

impl Router {
    fn observe(&self, event: Event, now_s: f64) -> PyResult<Vec<u64>> {
        let now = time(now_s)?;
        self.lock().observe(event, now).map_err(to_python)
    }

    /// The router is a state machine without callbacks into itself: a panic in between leaves it readable. Waits without the
    /// GIL, which the thread that has the router needs when its policy is a Python callable.
    fn lock(&self) -> std::sync::MutexGuard<'_, irouter_core::Router> {
        Python::attach(|py| self.inner.lock_py_attached(py)).unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Router {
    /// A router with one instance per profile (JSON text). `policy` is a name with options as for `irouter compare`, or a
    /// callable `(request, instances) -> instance number`. A request is held for at most `max_hold_s` seconds (infinity: for
    /// ever) while an engine has room. `impact` says how the latency impact of each decision is estimated: `"forecast"`,
    /// `"fast_forward"`, `"linear"`, or None for not at all. Tenants without a weight have weight 1.
    #[new]
    #[pyo3(signature = (
        profiles, policy, *, seed=0, max_hold_s=60.0, overtaking_s=30.0, dispatch_delay_s=0.001, impact="forecast",
        tenant_weights=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "one keyword per setting of a router")]
    fn new(
        profiles: Vec<String>,
        policy: &Bound<'_, PyAny>,
        seed: u64,
        max_hold_s: f64,
        overtaking_s: f64,
        dispatch_delay_s: f64,
        impact: Option<&str>,
        tenant_weights: Option<BTreeMap<u32, f64>>,
    ) -> PyResult<Self> {
        let weights = tenant_weights.unwrap_or_default().into_iter();
        let config = RouterConfig {
            max_hold: if max_hold_s == f64::INFINITY { None } else { Some(time(max_hold_s)?) },
            overtaking_seconds: overtaking_s,
            dispatch_delay: time(dispatch_delay_s)?,
            impact: impact.map(Form::parse).transpose().map_err(to_python)?,
            tenant_weights: weights.map(|(tenant, weight)| (TenantId(tenant), weight)).collect(),
            ..RouterConfig::default()
        };
        let mut router = if policy.is_callable() {
            let policy = PythonPolicy::new(policy.clone().unbind());
            irouter_core::Router::new("callable", Box::new(policy), config)
        } else {
            let spec = PolicySpec::parse(policy.extract::<&str>()?).map_err(to_python)?;
            let built = named(&spec, seed).map_err(to_python)?;
            irouter_core::Router::new(spec.label(), built, config)
        }
        .map_err(to_python)?;
        for (number, profile) in (0..).zip(profiles) {
            let event =
                Event::Joined { instance: InstanceId(number), config: Arc::new(engine_config(&profile)?) };
            router.observe(event, Picos(i64::MIN)).map_err(to_python)?;
        }
        Ok(Self { inner: Mutex::new(router) })
    }

    /// Takes a request into the central queue and returns its handle.
    ///
    /// The output length is given as one expected number of tokens, or as quantiles at `LENGTH_LEVELS`; without either,
    /// `max_tokens` is expected. `deadline_s` is on the clock of `now_s`.
    #[pyo3(signature = (
        request_id, *, now_s, prompt_tokens, max_tokens, predicted_tokens=None, predicted_quantiles=None,
        prompt_blocks=None, priority=0, deadline_s=None, tenant=0, session=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "one keyword per field of a request")]
    fn submit(
        &self,
        request_id: u64,
        now_s: f64,
        prompt_tokens: u32,
        max_tokens: u32,
        predicted_tokens: Option<u32>,
        predicted_quantiles: Option<[f64; irouter_core::length::LEVELS.len()]>,
        prompt_blocks: Option<Vec<u64>>,
        priority: i32,
        deadline_s: Option<f64>,
        tenant: u32,
        session: Option<u64>,
    ) -> PyResult<u64> {
        let now = time(now_s)?;
        let predicted = match (predicted_quantiles, predicted_tokens) {
            (Some(quantiles), None) => LengthDistribution::from_quantiles(&quantiles).map_err(to_python)?,
            (None, predicted) => LengthDistribution::exact(predicted.unwrap_or(max_tokens)),
            (Some(_), Some(_)) => {
                return Err(IrouterError::new_err(
                    "predicted_tokens and predicted_quantiles are given together, expected one",
                ));
            }
        };
        let request = Request {
            id: request_id,
            arrival: now,
            prompt_tokens,
            max_tokens,
            predicted: Arc::new(predicted),
            prompt_blocks: prompt_blocks.map(Arc::from),
            priority,
            deadline: deadline_s.map(time).transpose()?,
            tenant: TenantId(tenant),
            session,
            true_output_tokens: None,
        };
        self.lock().submit(request, now).map(pack).map_err(to_python)
    }

    /// Decides on one waiting request: a `Decision`, the time of the next decision in seconds when requests are held
    /// (infinity: at the next event), or None when none waits.
    fn decide<'py>(&self, py: Python<'py>, now_s: f64) -> PyResult<Bound<'py, PyAny>> {
        let now = time(now_s)?;
        // The guard is dropped before Python objects are made: never hold it across the interpreter.
        let outcome = self.lock().decide(now).map_err(to_python)?;
        match outcome {
            Outcome::Idle => Ok(py.None().into_bound(py)),
            Outcome::Hold { until } => {
                let seconds = until.map_or(f64::INFINITY, Picos::as_seconds);
                Ok(seconds.into_pyobject(py)?.into_any())
            }
            Outcome::Dispatch(decision) => Ok(Bound::new(py, Decision::from(decision))?.into_any()),
        }
    }

    /// The key of the request that the policy would send now and the instance, without sending it; None when it would hold
    /// or none waits. What a policy draws at random is drawn again the next time.
    fn preview(&self, now_s: f64) -> PyResult<Option<(u64, u32)>> {
        let choice = self.lock().preview(time(now_s)?).map_err(to_python)?;
        Ok(choice.map(|(request, instance)| (pack(request), instance.0)))
    }

    /// The latency impact that a waiting request would have on each instance that is ready and can hold it, by number.
    #[pyo3(signature = (key, *, now_s))]
    fn impact(&self, key: u64, now_s: f64) -> PyResult<Vec<Impact>> {
        let impacts = self.lock().impact(unpack(key), time(now_s)?).map_err(to_python)?;
        Ok(impacts.into_iter().map(Impact::from).collect())
    }

    /// Sends a waiting request to an instance of the caller's choice, whatever the policy would do.
    #[pyo3(signature = (key, instance, *, now_s))]
    fn dispatch(&self, key: u64, instance: u32, now_s: f64) -> PyResult<Decision> {
        let decision = self.lock().dispatch(unpack(key), InstanceId(instance), time(now_s)?);
        decision.map(Decision::from).map_err(to_python)
    }

    /// Sends a waiting request now, past all others: where the policy places it or, when that is one of `excluded`, where the
    /// least work is predicted.
    #[pyo3(signature = (key, *, now_s, excluded=None))]
    fn place(&self, key: u64, now_s: f64, excluded: Option<Vec<u32>>) -> PyResult<Decision> {
        let excluded: Vec<InstanceId> = excluded.unwrap_or_default().into_iter().map(InstanceId).collect();
        let decision = self.lock().place(unpack(key), &excluded, time(now_s)?);
        decision.map(Decision::from).map_err(to_python)
    }

    /// The first token of a request came; `cached_tokens` when the engine says what its prefix cache gave.
    #[pyo3(signature = (key, *, now_s, cached_tokens=None))]
    fn first_token(&self, key: u64, now_s: f64, cached_tokens: Option<u32>) -> PyResult<()> {
        self.observe(Event::FirstToken { request: unpack(key), cached_tokens }, now_s).map(drop)
    }

    /// A request has produced `tokens` so far.
    #[pyo3(signature = (key, tokens, *, now_s))]
    fn progress(&self, key: u64, tokens: u32, now_s: f64) -> PyResult<()> {
        self.observe(Event::Progress { request: unpack(key), tokens }, now_s).map(drop)
    }

    /// A request is complete.
    #[pyo3(signature = (key, *, now_s, tokens=None))]
    fn finished(&self, key: u64, now_s: f64, tokens: Option<u32>) -> PyResult<()> {
        self.observe(Event::Finished { request: unpack(key), tokens }, now_s).map(drop)
    }

    /// A request broke on its instance.
    #[pyo3(signature = (key, *, now_s))]
    fn failed(&self, key: u64, now_s: f64) -> PyResult<()> {
        self.observe(Event::Failed { request: unpack(key) }, now_s).map(drop)
    }

    /// The client of a request went away.
    #[pyo3(signature = (key, *, now_s))]
    fn cancelled(&self, key: u64, now_s: f64) -> PyResult<()> {
        self.observe(Event::Cancelled { request: unpack(key) }, now_s).map(drop)
    }

    /// An instance takes requests: a new one (the next free number) or one that left before.
    #[pyo3(signature = (instance, profile, *, now_s))]
    fn join(&self, instance: u32, profile: &str, now_s: f64) -> PyResult<()> {
        let config = Arc::new(engine_config(profile)?);
        self.observe(Event::Joined { instance: InstanceId(instance), config }, now_s).map(drop)
    }

    /// An instance takes no more requests, and finishes those it has.
    #[pyo3(signature = (instance, *, now_s))]
    fn drain(&self, instance: u32, now_s: f64) -> PyResult<()> {
        self.observe(Event::Draining { instance: InstanceId(instance) }, now_s).map(drop)
    }

    /// An instance that was draining takes requests again.
    #[pyo3(signature = (instance, *, now_s))]
    fn resume(&self, instance: u32, now_s: f64) -> PyResult<()> {
        self.observe(Event::Resumed { instance: InstanceId(instance) }, now_s).map(drop)
    }

    /// An instance is gone; returns the callers' numbers of the requests lost with it.
    #[pyo3(signature = (instance, *, now_s))]
    fn leave(&self, instance: u32, now_s: f64) -> PyResult<Vec<u64>> {
        self.observe(Event::Left { instance: InstanceId(instance) }, now_s)
    }

    /// An engine reported its metrics.
    #[pyo3(signature = (instance, *, now_s, waiting, running, kv_usage, queued_prefill_tokens=0))]
    fn report(
        &self,
        instance: u32,
        now_s: f64,
        waiting: u32,
        running: u32,
        kv_usage: f64,
        queued_prefill_tokens: u64,
    ) -> PyResult<()> {
        let report = EngineReport { at: time(now_s)?, waiting, running, kv_usage, queued_prefill_tokens };
        self.observe(Event::EngineReport { instance: InstanceId(instance), report }, now_s).map(drop)
    }

    /// Requests at the router.
    #[getter]
    fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    /// Requests on each instance, by number.
    #[getter]
    fn in_flight(&self) -> Vec<u32> {
        self.lock().state().instances().iter().map(InstanceState::in_flight).collect()
    }

    /// Every instance ever known, by number: `status`, `generation`, and what is on it.
    #[getter]
    fn instances<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        // Collected first: the guard is never held across the interpreter.
        let seen: Vec<_> = self.lock().state().instances().iter().map(seen).collect();
        let entry = |(figures, status, generation): &(Figures, Status, u32)| {
            let entry = figures.to_dict(py)?;
            entry.set_item("status", status.describe())?;
            entry.set_item("generation", generation)?;
            Ok(entry)
        };
        seen.iter().map(entry).collect()
    }

    /// How often the policy failed and the least predicted work decided instead.
    #[getter]
    fn fallbacks(&self) -> u64 {
        self.lock().failures().0
    }
}

fn seen(instance: &InstanceState) -> (Figures, Status, u32) {
    (Figures::new(instance), instance.status(), instance.generation())
}

/// Hashes of the full blocks of `block_tokens` tokens of a prompt's text, each covering the text up to its end, and the
/// tokens that the text is taken to have.
#[pyfunction]
pub(crate) fn text_blocks(text: &str, block_tokens: u32) -> (Vec<u64>, u32) {
    (prompt::text_blocks(text, block_tokens), prompt::text_tokens(text))
}

pub(crate) fn engine_config(profile: &str) -> PyResult<EngineConfig> {
    irouter_core::Profile::from_json(profile)
        .and_then(|profile| EngineConfig::new(&profile))
        .map_err(to_python)
}
