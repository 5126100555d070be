//! A small cluster, and a policy that writes down what it is shown.

use std::sync::{Arc, Mutex};

use irouter_core::engine::{EngineConfig, EngineLoad};
use irouter_core::policy::{ClusterView, End, Needs, Policy, PolicySpec, QueueView, Verdict};
use irouter_core::state::{Effort, InstanceState};
use irouter_core::{InstanceId, OnFailure, Picos, Profile, Request, Result, RouterConfig};
use irouter_sim::Workload;
use irouter_sim::prediction::{Population, PredictionSource, Predictor};
use irouter_sim::simulator::{Delays, NoiseLevels, RunConfig, RunOutput, Simulator};
use irouter_sim::workload::{ArrivalSpec, Draw, GeneratorSpec, LengthSpec};

/// Three V100 of the paper with a KV cache that runs out now and then.
pub(crate) fn config(measured: usize) -> RunConfig {
    let text = include_str!("../../../../python/irouter/profiles/llama-2-7b@v100-paper.json");
    let mut profile = Profile::from_json(text).unwrap();
    profile.kv.blocks = 575;
    let engine = Arc::new(EngineConfig::new(&profile).unwrap());
    RunConfig {
        instances: 3,
        engine: Arc::clone(&engine),
        router_engine: engine,
        policy_name: String::from("policy"),
        seed: 3,
        noise_seed: 3,
        noise: NoiseLevels::default(),
        router: RouterConfig { max_hold: None, on_failure: OnFailure::Stop, ..RouterConfig::default() },
        delays: Delays { dispatch: Picos::MILLISECOND, event: Picos::MILLISECOND },
        staleness: None,
        measured: 0..measured,
        sequels: None,
        aborts: None,
        leak_share: 0.0,
        crashes: Vec::new(),
        slow: Vec::new(),
        readings: None,
    }
}

/// The paper's mix, about as fast as the cluster can take it.
pub(crate) fn workload(requests: usize) -> Workload {
    let generator =
        GeneratorSpec { arrivals: ArrivalSpec::Poisson {}, lengths: LengthSpec::PaperFiveTask {} };
    generator.generate(&Draw { requests, rate: 10.0, arrival_seed: 1, length_seed: 1 }).unwrap()
}

/// The same, and one more request ten hours later.
pub(crate) fn workload_and_a_straggler(requests: usize) -> Workload {
    let mut columns = workload(requests + 1).into_columns();
    *columns.arrival.last_mut().unwrap() = Picos::SECOND * 36_000;
    Workload::new(columns).unwrap()
}

pub(crate) fn predictions(workload: &Workload) -> PredictionSource {
    let population = Population::new(workload.output_tokens()).unwrap();
    Predictor::fit("noisy:0.5".parse().unwrap(), population, None).unwrap().predict(workload, 1).unwrap()
}

/// What a policy is shown of an instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) in_flight: u32,
    pub(crate) awaiting_first_token: u32,
    pub(crate) prompt_tokens: u64,
    pub(crate) produced_tokens: u64,
    pub(crate) remaining_output_tokens: f64,
    pub(crate) generation: u32,
    /// What the twin holds, and its speed.
    pub(crate) twin: Option<(EngineLoad, f64)>,
}

impl Shown {
    fn new(instance: &InstanceState) -> Self {
        Self {
            in_flight: instance.in_flight(),
            awaiting_first_token: instance.awaiting_first_token(),
            prompt_tokens: instance.prompt_tokens(),
            produced_tokens: instance.produced_tokens(),
            remaining_output_tokens: instance.remaining_output_tokens(),
            generation: instance.generation(),
            twin: instance.twin().map(|twin| (twin.load(), twin.speed())),
        }
    }
}

/// What a policy was told or asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// It dispatched, having seen these instances.
    Dispatched { at: Picos, request: u64, instance: InstanceId, shown: Vec<Shown> },
    /// It heard of a first token.
    Started { at: Picos, request: u64 },
    /// It heard that a request ended.
    Released { at: Picos, request: u64, tokens: u32, completed: bool },
}

pub(crate) type Log = Arc<Mutex<Vec<Entry>>>;

/// Another policy, and a log.
pub(crate) struct Spy {
    inner: Box<dyn Policy>,
    log: Log,
}

impl Spy {
    /// The built-in policy of that name, watched.
    pub(crate) fn on(policy: &str) -> (Box<dyn Policy>, Log) {
        let log = Log::default();
        let inner = PolicySpec::named(policy).build(1).unwrap();
        (Box::new(Self { inner, log: Arc::clone(&log) }), log)
    }

    fn note(&self, entry: Entry) {
        self.log.lock().unwrap().push(entry);
    }
}

impl Policy for Spy {
    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn order_key(&self, request: &Request, effort: Effort) -> f64 {
        self.inner.order_key(request, effort)
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        self.inner.place(view, request)
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        let verdict = self.inner.decide(view, queue)?;
        if let Verdict::Dispatch { instance, .. } = verdict {
            let request = queue.head().unwrap().request.id;
            let shown = view.instances.iter().map(Shown::new).collect();
            self.note(Entry::Dispatched { at: view.now, request, instance, shown });
        }
        Ok(verdict)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.inner.dispatched(request, instance, now);
    }

    fn first_token(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.note(Entry::Started { at: now, request: request.id });
        self.inner.first_token(request, instance, now);
    }

    fn progressed(&mut self, request: &Request, instance: InstanceId, tokens: u32) {
        self.inner.progressed(request, instance, tokens);
    }

    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        let End { at, tokens, completed } = end;
        self.note(Entry::Released { at, request: request.id, tokens, completed });
        self.inner.released(request, instance, end);
    }

    fn left(&mut self, instance: InstanceId) {
        self.inner.left(instance);
    }
}

/// A run of a built-in policy, and what it was told.
pub(crate) fn run(config: &RunConfig, policy: &str, workload: &Workload) -> (RunOutput, Vec<Entry>) {
    let (policy, log) = Spy::on(policy);
    let (told, workload) = (predictions(workload), Arc::new(workload.clone()));
    let output = Simulator::new(config.clone(), policy, workload, told).unwrap().run().unwrap();
    let entries = std::mem::take(&mut *log.lock().unwrap());
    (output, entries)
}
