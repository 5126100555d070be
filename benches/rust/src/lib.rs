//! What the benchmarks run: a cluster that serves conversations, as in the scenario `conversation`, the paper's main
//! experiment as an environment, and requests of which little is known.

use std::sync::Arc;

use irouter_core::engine::EngineConfig;
use irouter_core::length::LEVELS;
use irouter_core::policy::PolicySpec;
use irouter_core::{LengthDistribution, OnFailure, Picos, Profile, Request, RouterConfig, TenantId};
use irouter_sim::environment::{EnvironmentSpec, VectorEnvironment};
use irouter_sim::experiment::{Experiment, saturation_rate};
use irouter_sim::metrics::{Run, Slo, Summary, Unloaded, unloaded};
use irouter_sim::prediction::{Population, PredictionSource, Predictor};
use irouter_sim::simulator::{Delays, NoiseLevels, RunConfig, RunOutput, Simulator};
use irouter_sim::workload::{ArrivalSpec, Draw, GeneratorSpec, LengthSpec};
use irouter_sim::{Result, Workload};

const DELAYS: Delays = Delays { dispatch: Picos::MILLISECOND, event: Picos::MILLISECOND };

/// A cluster and the requests that arrive at it: everything that the runs of all policies share.
pub struct Conversations {
    instances: u32,
    engine: Arc<EngineConfig>,
    workload: Arc<Workload>,
    predictions: PredictionSource,
    unloaded: Vec<Unloaded>,
}

impl Conversations {
    /// `requests` Poisson arrivals at `load` of the saturation of `instances` instances.
    ///
    /// # Errors
    /// Those of the profile and of the generator.
    pub fn new(instances: u32, load: f64, requests: usize) -> Result<Self> {
        let text = include_str!("../../../python/irouter/profiles/llama-3.1-8b@a100.json");
        let engine = Arc::new(EngineConfig::new(&Profile::from_json(text)?)?);
        let generator =
            GeneratorSpec { arrivals: ArrivalSpec::Poisson {}, lengths: LengthSpec::AzureConvLike {} };
        let draw =
            |requests, rate| generator.generate(&Draw { requests, rate, arrival_seed: 0, length_seed: 0 });
        let rate = load * f64::from(instances) * saturation_rate(&engine, &draw(4_000, 1.0)?)?;
        let workload = draw(requests, rate)?;
        let population = Population::new(&generator.output_population()?)?;
        let alone = |row: usize| {
            unloaded(&engine, workload.prompt_tokens()[row], workload.output_tokens()[row], DELAYS.dispatch)
        };
        Ok(Self {
            instances,
            unloaded: (0..workload.len()).map(alone).collect(),
            predictions: Predictor::fit("noisy:0.45".parse()?, population, None)?.predict(&workload, 0)?,
            workload: Arc::new(workload),
            engine,
        })
    }

    /// Simulates one policy, and sums its run up; the requests that completed.
    ///
    /// # Errors
    /// Those of the policy and of the simulator.
    pub fn run(&self, policy: &str) -> Result<u64> {
        let config = RunConfig {
            instances: self.instances,
            engine: Arc::clone(&self.engine),
            router_engine: Arc::clone(&self.engine),
            policy_name: policy.to_owned(),
            seed: 0,
            noise_seed: 0,
            noise: NoiseLevels::default(),
            router: RouterConfig { max_hold: None, on_failure: OnFailure::Stop, ..RouterConfig::default() },
            delays: DELAYS,
            staleness: None,
            measured: 0..self.workload.len(),
            sequels: None,
            aborts: None,
            leak_share: 0.0,
            crashes: Vec::new(),
            slow: Vec::new(),
            readings: None,
        };
        let policy = PolicySpec::named(policy).build(0)?;
        let simulator = Simulator::new(config, policy, Arc::clone(&self.workload), self.predictions.clone())?;
        let RunOutput { records, gaps, .. } = simulator.run()?;
        let run = Run {
            workload: &self.workload,
            records: &records,
            gaps: &gaps,
            unloaded: &self.unloaded,
            measured: 0..self.workload.len(),
            slo: Slo::default(),
            closed_loop: false,
            policy_failures: 0,
        };
        Ok(Summary::new(&run)?.completed)
    }
}

/// `count` environments of the paper's main experiment on one thread, with what `spec` (JSON) says.
///
/// # Errors
/// Those of the specification.
pub fn paper_environment(spec: &str, count: usize) -> Result<VectorEnvironment> {
    let profile = include_str!("../../../python/irouter/profiles/llama-2-7b@v100-paper.json");
    let experiment = Experiment::from_json(&format!(
        r#"{{"name": "paper-main", "instances": 4, "profile": {profile}, "kv_blocks": 575, "rate": 20.0,
        "requests": 2000, "predictor": "noisy:0.45", "policies": ["round_robin"],
        "workload": {{"kind": "generated", "lengths": {{"kind": "paper-five-task"}}}}}}"#
    ))?;
    VectorEnvironment::new(&experiment, None, EnvironmentSpec::from_json(spec)?, count, 1)
}

/// A request whose output may be anything up to some thousand tokens; no two of the first thousands are alike.
///
/// # Errors
/// None: its quantiles ascend.
pub fn vague_request(number: u32) -> irouter_core::Result<Request> {
    let longest = f64::from(500 + 131 * number % 1500);
    let quantiles = LEVELS.map(|level| longest * level * level);
    Ok(Request {
        id: number.into(),
        arrival: Picos::ZERO,
        prompt_tokens: 100 + 377 * number % 3000,
        max_tokens: 4096,
        predicted: Arc::new(LengthDistribution::from_quantiles(&quantiles)?),
        prompt_blocks: None,
        priority: 0,
        deadline: None,
        tenant: TenantId(0),
        session: None,
        true_output_tokens: None,
    })
}
