use std::sync::Arc;

use irouter_core::engine::EngineConfig;
use irouter_core::policy::PolicySpec;
use irouter_core::{OnFailure, Picos, Profile, RouterConfig};
use irouter_sim::Workload;
use irouter_sim::prediction::{Population, PredictionSource, Predictor};
use irouter_sim::simulator::{Delays, NoiseLevels, RunConfig, RunOutput, Simulator};
use irouter_sim::workload::{ArrivalSpec, Draw, GeneratorSpec, LengthSpec};

pub(crate) const EVENT_DELAY: Picos = Picos::MILLISECOND;

/// Four V100 of the paper with a KV cache that runs out now and then.
pub(crate) fn config(measured: usize) -> RunConfig {
    let text = include_str!("../../../../python/irouter/profiles/llama-2-7b@v100-paper.json");
    let mut profile = Profile::from_json(text).unwrap();
    profile.kv.blocks = 575;
    profile.kv.prefix_cache = true;
    let engine = Arc::new(EngineConfig::new(&profile).unwrap());
    RunConfig {
        instances: 4,
        engine: Arc::clone(&engine),
        router_engine: engine,
        policy_name: String::from("policy"),
        seed: 3,
        noise_seed: 3,
        noise: NoiseLevels::default(),
        router: RouterConfig { max_hold: None, on_failure: OnFailure::Stop, ..RouterConfig::default() },
        delays: Delays { dispatch: Picos::MILLISECOND, event: EVENT_DELAY },
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

/// The paper's mix, as fast as the cluster can take it.
pub(crate) fn workload(requests: usize) -> Workload {
    generated(requests, LengthSpec::PaperFiveTask {})
}

pub(crate) fn generated(requests: usize, lengths: LengthSpec) -> Workload {
    let generator = GeneratorSpec { arrivals: ArrivalSpec::Poisson {}, lengths };
    generator.generate(&Draw { requests, rate: 16.0, arrival_seed: 1, length_seed: 1 }).unwrap()
}

pub(crate) fn predictions(predictor: &str, workload: &Workload) -> PredictionSource {
    let population = Population::new(workload.output_tokens()).unwrap();
    Predictor::fit(predictor.parse().unwrap(), population, None).unwrap().predict(workload, 1).unwrap()
}

pub(crate) fn run(
    config: &RunConfig,
    policy: &PolicySpec,
    workload: &Workload,
    predictions: PredictionSource,
) -> RunOutput {
    let workload = Arc::new(workload.clone());
    Simulator::new(config.clone(), policy.build(1).unwrap(), workload, predictions).unwrap().run().unwrap()
}
