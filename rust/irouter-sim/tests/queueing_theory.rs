//! Where queueing theory has exact answers, the simulator gives them: engines that serve one request at a time, and the
//! time that their requests wait.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths of some thousand tokens"
)]

use std::sync::Arc;

use irouter_core::engine::EngineConfig;
use irouter_core::policy::PolicySpec;
use irouter_core::profile::{Form, Profile, SchedulerMode};
use irouter_core::{OnFailure, Picos, RouterConfig};
use irouter_sim::Workload;
use irouter_sim::metrics::RequestRecords;
use irouter_sim::prediction::{Population, Predictor};
use irouter_sim::simulator::{Delays, NoiseLevels, Readings, RunConfig, RunOutput, Simulator};
use irouter_sim::workload::{Clients, Sequels, WorkloadColumns};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An engine whose every step takes `step_ms`, whatever it computes, and which runs one request at a time.
fn one_at_a_time(step_ms: f64) -> Arc<EngineConfig> {
    let text = include_str!("../../../python/irouter/profiles/llama-2-7b@v100-paper.json");
    let mut profile = Profile::from_json(text).unwrap();
    profile.scheduler.mode = SchedulerMode::VllmV1;
    profile.scheduler.max_num_seqs = 1;
    profile.max_model_len = 100_000;
    profile.kv.blocks = 100_000;
    let time = &mut profile.step_time;
    time.form = Form::A { constant_ms: step_ms };
    time.prefill_token_ms = 0.0;
    time.prefill_attention_ms = 0.0;
    time.decode_sequence_ms = 0.0;
    time.decode_context_token_ms = 0.0;
    Arc::new(EngineConfig::new(&profile).unwrap())
}

/// Exponential gaps with mean `gap_s`; outputs from `output`.
fn poisson(requests: usize, gap_s: f64, seed: u64, output: impl Fn(&mut ChaCha8Rng) -> u32) -> Workload {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut columns = WorkloadColumns::default();
    let mut now = 0.0;
    for _ in 0..requests {
        now += gap_s * exponential(&mut generator);
        columns.arrival.push(Picos::from_seconds(now).unwrap());
        columns.prompt_tokens.push(1);
        columns.output_tokens.push(output(&mut generator));
    }
    Workload::new(columns).unwrap()
}

fn exponential(generator: &mut ChaCha8Rng) -> f64 {
    -(1.0 - generator.random::<f64>()).ln()
}

fn run(
    engine: &Arc<EngineConfig>,
    instances: u32,
    policy: &PolicySpec,
    workload: &Workload,
    samples: Option<u32>,
) -> RunOutput {
    run_config(&config(engine, instances, workload, samples), policy, workload)
}

fn config(
    engine: &Arc<EngineConfig>,
    instances: u32,
    workload: &Workload,
    samples: Option<u32>,
) -> RunConfig {
    RunConfig {
        instances,
        engine: Arc::clone(engine),
        router_engine: Arc::clone(engine),
        policy_name: String::from("policy"),
        seed: 0,
        noise_seed: 0,
        noise: NoiseLevels::default(),
        router: RouterConfig {
            max_hold: None,
            dispatch_delay: Picos::ZERO,
            on_failure: OnFailure::Stop,
            ..RouterConfig::default()
        },
        delays: Delays { dispatch: Picos::ZERO, event: Picos::ZERO },
        staleness: None,
        measured: 0..workload.len(),
        aborts: None,
        leak_share: 0.0,
        crashes: Vec::new(),
        sequels: None,
        slow: Vec::new(),
        readings: samples.map(|count| Readings { count, until: workload.arrival()[workload.len() - 1] }),
    }
}

fn run_config(config: &RunConfig, policy: &PolicySpec, workload: &Workload) -> RunOutput {
    let population = Population::new(workload.output_tokens()).unwrap();
    let predictor = Predictor::fit("none".parse().unwrap(), population, None).unwrap();
    let predictions = predictor.predict(workload, 0).unwrap();
    let workload = Arc::new(workload.clone());
    Simulator::new(config.clone(), policy.build(0).unwrap(), workload, predictions).unwrap().run().unwrap()
}

fn mean_e2e_s(records: &RequestRecords) -> f64 {
    let times = records.finished.iter().zip(&records.arrival);
    times.map(|(end, start)| (*end - *start).as_seconds()).sum::<f64>() / records.len() as f64
}

fn assert_within_a_percent(value: f64, expected: f64, what: &str) {
    assert!((value / expected - 1.0).abs() <= 0.01, "{what}: {value}, expected {expected}");
}

#[test]
fn constant_service_waits_as_in_m_d_1() {
    let service_s = 0.01;
    for (load, requests) in [(0.5, 400_000), (0.7, 900_000)] {
        let workload = poisson(requests, service_s / load, 1, |_| 1);
        let policy = PolicySpec::named("round_robin");
        let records = run(&one_at_a_time(10.0), 1, &policy, &workload, None).records;
        // Pollaczek and Khinchine, for a service time without variance, at the load of this very sample.
        let load = service_s * workload.rate().unwrap();
        let expected = load * service_s / (2.0 * (1.0 - load));
        assert_within_a_percent(mean_e2e_s(&records) - service_s, expected, "mean wait");
    }
}

/// Mean wait of M/M/k at `load`, in units of the mean service time (Erlang's C formula).
fn erlang_wait(servers: u32, load: f64) -> f64 {
    let offered = load * f64::from(servers);
    let (mut below, mut term) = (0.0, 1.0);
    for busy in 0..servers {
        below += term;
        term *= offered / f64::from(busy + 1);
    }
    let all_busy = term / (1.0 - load);
    all_busy / (below + all_busy) / (f64::from(servers) * (1.0 - load))
}

/// A shared queue before `servers` engines; outputs exponential with a mean of 300 steps of 1 ms.
fn shared_queue(servers: u32, load: f64, requests: usize, samples: Option<u32>) -> (Workload, RunOutput) {
    let gap_s = 0.3 / (load * f64::from(servers));
    let workload =
        poisson(requests, gap_s, 2, |generator| (300.0 * exponential(generator)).ceil().max(1.0) as u32);
    let policy = PolicySpec::named("central_fcfs").with_option("lookahead_requests", 0);
    let output = run(&one_at_a_time(1.0), servers, &policy, &workload, samples);
    (workload, output)
}

#[test]
fn exponential_service_in_a_shared_queue_waits_as_in_m_m_k() {
    for servers in [1, 4] {
        let (workload, output) = shared_queue(servers, 0.6, 400_000, None);
        let service_s = workload.mean_output_tokens() * 1e-3;
        let load = service_s * workload.rate().unwrap() / f64::from(servers);
        let expected = erlang_wait(servers, load) * service_s;
        assert_within_a_percent(mean_e2e_s(&output.records) - service_s, expected, "mean wait");
    }
}

#[test]
fn clients_before_one_engine_wait_as_in_the_machine_repair_model() {
    let (count, think_s, measured) = (8_u32, 2.4, 200_000);
    let workload =
        poisson(2 * measured, 1.0, 4, |generator| (300.0 * exponential(generator)).ceil().max(1.0) as u32);
    let policy = PolicySpec::named("central_fcfs").with_option("lookahead_requests", 0);
    let clients = Clients { count, think_time: Picos::from_seconds(think_s).unwrap() };
    let config = RunConfig {
        sequels: Sequels::new(&workload, Some(clients), 0).map(Arc::new),
        measured: 0..measured,
        ..config(&one_at_a_time(1.0), 1, &workload, None)
    };
    let records = run_config(&config, &policy, &workload).records;
    let times = (0..measured).map(|row| (records.finished[row] - records.arrival[row]).as_seconds());
    let mean_s = times.sum::<f64>() / measured as f64;
    // M/M/1 with a finite population of N: with p(n) ~ N! / (N - n)! (service / think)^n requests at the engine, it
    // completes (1 - p(0)) / service a second, and a client comes around every N times the inverse of that.
    let service_s = workload.mean_output_tokens() * 1e-3;
    let (mut all, mut term) = (0.0, 1.0);
    for open in 0..=count {
        all += term;
        term *= f64::from(count - open) * service_s / think_s;
    }
    let completed_per_second = (1.0 - 1.0 / all) / service_s;
    let expected = f64::from(count) / completed_per_second - think_s;
    assert_within_a_percent(mean_s, expected, "mean E2E");
}

#[test]
fn the_number_in_the_system_is_the_rate_times_the_time_in_it() {
    let (workload, output) = shared_queue(3, 0.7, 60_000, Some(60_000));
    let occupancy = output.occupancy.unwrap();
    let held = |counts: &[Vec<u32>]| -> f64 { counts.iter().flatten().map(|&count| f64::from(count)).sum() };
    let waiting: f64 = occupancy.router_queue.iter().map(|&count| count as f64).sum();
    let total = waiting + held(&occupancy.queue) + held(&occupancy.running);
    let expected = workload.rate().unwrap() * mean_e2e_s(&output.records);
    assert_within_a_percent(total / occupancy.time_s.len() as f64, expected, "mean number in the system");
}

#[test]
fn more_instances_never_make_it_slower_and_more_load_never_faster() {
    let policy = PolicySpec::named("least_requests");
    let mean = |instances: u32, gap_s: f64| {
        let outputs = |generator: &mut ChaCha8Rng| 1 + (100.0 * exponential(generator)) as u32;
        let workload = poisson(20_000, gap_s, 3, outputs);
        mean_e2e_s(&run(&one_at_a_time(1.0), instances, &policy, &workload, None).records)
    };
    let by_instances = [2, 3, 4, 6].map(|instances| mean(instances, 0.06));
    assert!(by_instances.windows(2).all(|pair| pair[1] <= pair[0]), "{by_instances:?}");
    let by_gap = [0.2, 0.1, 0.06, 0.045].map(|gap_s| mean(3, gap_s));
    assert!(by_gap.windows(2).all(|pair| pair[1] >= pair[0]), "{by_gap:?}");
}
