//! What every policy in the registry promises, over a real router and random events.

use std::sync::Arc;

use crate::support::{engine, request};
use irouter_core::policy::{PolicySpec, registry};
use irouter_core::state::InstanceState;
use irouter_core::{
    EngineReport, Error, Event, InstanceId, LengthDistribution, OnFailure, Outcome, Picos, Request,
    RequestKey, Router, RouterConfig,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;

/// Every policy with its defaults and equalised, and settings that take other paths.
fn specs() -> Vec<PolicySpec> {
    let names = registry().iter().map(|entry| entry.name.to_owned());
    let queued = registry().iter().map(|entry| format!("queued-shortest:{}", entry.name));
    let mut specs: Vec<_> = names.chain(queued).map(PolicySpec::named).collect();
    for entry in registry() {
        let options = entry.equalised_options().as_object().unwrap().clone();
        if !options.is_empty() {
            let plain = PolicySpec::named(entry.name);
            specs.push(
                options.into_iter().fold(plain, |spec, (option, value)| spec.with_option(option, value)),
            );
        }
    }
    specs.extend([
        PolicySpec::named("block_simulate")
            .with_option("max_instances", 2)
            .with_option("lookahead_seconds", 2.0)
            .with_option("length_quantile", 0.9),
        PolicySpec::named("aibrix_prefix")
            .with_option("imbalance_requests", 0)
            .with_option("max_tree_blocks", 64)
            .with_option("idle_minutes", 0.01),
        PolicySpec::named("cache_aware")
            .with_option("balance_abs_threshold", 1)
            .with_option("max_tree_blocks", 64),
        PolicySpec::named("cache_aware_smg")
            .with_option("balance_abs_threshold", 0)
            .with_option("balance_rel_threshold", 1.0)
            .with_option("max_tree_blocks", 64),
        PolicySpec::named("central_fcfs").with_option("lookahead_requests", 0),
        PolicySpec::named("dynamo_kv").with_option("temperature", 0.5),
        PolicySpec::named("dynamo_kv_osl").with_option("expected_output", "max_tokens"),
        PolicySpec::named("least_impact").with_option("form", "linear"),
        PolicySpec::named("least_impact").with_option("form", "fast_forward"),
        PolicySpec::named("least_impact")
            .with_option("form", "fast_forward")
            .with_option("samples", 3)
            .with_option("max_instances", 2),
        PolicySpec::named("litellm_latency")
            .with_option("measure", "first_token")
            .with_option("memory_seconds", 1.0),
        PolicySpec::named("litellm_least_busy").with_option("count_seconds", Value::Null),
        PolicySpec::named("litellm_least_busy").with_option("count_seconds", 1.0),
        // So that a handful of completions train it.
        PolicySpec::named("llmd_predicted_latency")
            .with_option("first_training", 10)
            .with_option("rounds", 2),
        PolicySpec::named("llmd_predicted_latency")
            .with_option("first_training", 10)
            .with_option("retraining", 5)
            .with_option("rounds", 2)
            .with_option("own_events", true)
            .with_option("predicted_lengths", true)
            .with_option("ttft_source", "predicted")
            .with_option("ttft_slo_seconds", 1.0)
            .with_option("tpot_slo_seconds", 0.1),
        PolicySpec::named("llmd_token_load").with_option("output_estimate", "buckets"),
        PolicySpec::named("llumnix").with_option("metric", "kv_blocks_ratio").with_option("top_k", 2),
        PolicySpec::named("prefix_hash").with_option("balance_abs_threshold", 0),
        PolicySpec::named("production_stack_load").with_option("window_seconds", 0.5),
        PolicySpec::named("ray_prefix_affinity").with_option("queue_cache_seconds", 0.0),
        PolicySpec::named("ray_prefix_affinity")
            .with_option("imbalance_threshold", 0)
            .with_option("queue_cache_seconds", 1.0),
        PolicySpec::named("llumnix").with_option("metric", "kv_blocks_ratio").with_option("top_k", 2),
        PolicySpec::named("smg_least_load").with_option("exact_tokens", false),
    ]);
    specs
}

fn is_oracle(spec: &PolicySpec) -> bool {
    spec.build(0).is_ok_and(|policy| policy.needs().truth)
}

/// A submitted request, as the test made it up.
#[derive(Clone, Debug)]
struct Sketch {
    prompt: u32,
    max_tokens: u32,
    predicted: u32,
    family: u64,
    session: Option<u64>,
    priority: i32,
}

#[derive(Clone, Debug)]
enum Step {
    Submit(Sketch),
    Wait(i64),
    FirstToken(usize),
    Progress(usize, u32),
    Finish(usize),
    Fail(usize),
    Cancel(usize),
    Report(u32, u64, f64),
    Drain(u32),
    Leave(u32),
    Join(u32),
}

/// Small instances, so that batch slots and KV cache run out: 4 requests, 4,096 tokens.
const SLOTS: u32 = 4;
const BLOCKS: u32 = 256;

fn sketch() -> impl Strategy<Value = Sketch> {
    let sizes = (1..3000u32).prop_flat_map(|prompt| (Just(prompt), 1..=4096 - prompt));
    (sizes, 0..5000u32, 0..3u64, proptest::option::of(0..4u64), 0..2i32).prop_map(
        |((prompt, max_tokens), predicted, family, session, priority)| Sketch {
            prompt,
            max_tokens,
            predicted,
            family,
            session,
            priority,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>;
    prop_oneof![
        8 => sketch().prop_map(Step::Submit),
        4 => (0..1500i64).prop_map(Step::Wait),
        3 => pick().prop_map(Step::FirstToken),
        3 => (pick(), 0..1000u32).prop_map(|(pick, tokens)| Step::Progress(pick, tokens)),
        4 => pick().prop_map(Step::Finish),
        1 => pick().prop_map(Step::Fail),
        1 => pick().prop_map(Step::Cancel),
        2 => (0..4u32, 0..9000u64, 0.0..=1.0f64).prop_map(|(on, queued, usage)| Step::Report(on, queued, usage)),
        1 => (0..4u32).prop_map(Step::Drain),
        1 => (0..4u32).prop_map(Step::Leave),
        2 => (0..4u32).prop_map(Step::Join),
    ]
}

/// A host that drives a router as its contract says.
struct Host {
    name: String,
    router: Router,
    now: Picos,
    /// Requests on an instance, with their limit and what they have produced.
    in_flight: Vec<(RequestKey, u32, u32)>,
    waiting: Vec<RequestKey>,
    until: Option<Picos>,
    /// The caller's number and the instance of each dispatch.
    log: Vec<(u64, u32)>,
    truth: Option<u32>,
    submitted: u64,
}

impl Host {
    fn new(spec: &PolicySpec, seed: u64, instances: u32, truth: Option<u32>) -> Self {
        let config = RouterConfig { max_hold: None, on_failure: OnFailure::Stop, ..RouterConfig::default() };
        let router = Router::new(spec.label(), spec.build(seed).unwrap(), config).unwrap();
        let mut host = Self {
            name: spec.label(),
            router,
            now: Picos::ZERO,
            in_flight: Vec::new(),
            waiting: Vec::new(),
            until: None,
            log: Vec::new(),
            truth,
            submitted: 0,
        };
        for instance in 0..instances {
            host.observe(Event::Joined { instance: InstanceId(instance), config: engine(SLOTS, BLOCKS) });
        }
        host
    }

    /// Tells the router; an event that does not fit is refused.
    fn observe(&mut self, event: Event) -> bool {
        let lost = self.router.observe(event, self.now);
        let known = |router: &Router, key| router.state().request(key).is_ok();
        self.in_flight.retain(|(key, ..)| known(&self.router, *key));
        self.waiting.retain(|key| known(&self.router, *key));
        lost.is_ok()
    }

    fn submit(&mut self, sketch: &Sketch) {
        let Sketch { prompt, max_tokens, predicted, family, session, priority } = *sketch;
        let blocks: Vec<u64> = (0..u64::from(prompt / 16)).map(|block| block << 8 | family).collect();
        let request = Request {
            max_tokens,
            predicted: Arc::new(LengthDistribution::exact(predicted)),
            // Family 0 has no hashes.
            prompt_blocks: (family > 0).then(|| blocks.into()),
            session,
            priority,
            // A poisoned length is legal, whatever it is.
            true_output_tokens: self.truth.map(|truth| truth.wrapping_mul(prompt) % 5000),
            ..request(self.submitted, self.now, prompt, 1)
        };
        self.submitted += 1;
        self.waiting.push(self.router.submit(request, self.now).unwrap());
    }

    /// Carries out a step, then lets the router decide until it does not dispatch.
    fn step(&mut self, step: &Step) {
        let picked = |index: usize| {
            let position = index % self.in_flight.len().max(1);
            (position, self.in_flight.get(position).copied())
        };
        match *step {
            Step::Submit(ref sketch) => self.submit(sketch),
            Step::Wait(millis) => self.now += Picos::MILLISECOND * millis,
            Step::FirstToken(index) => {
                if let (position, Some((request, _, produced))) = picked(index) {
                    self.in_flight[position].2 = produced.max(1);
                    self.observe(Event::FirstToken { request, cached_tokens: None });
                }
            }
            Step::Progress(index, tokens) => {
                if let (position, Some((request, most, produced))) = picked(index) {
                    let tokens = (produced + tokens).min(most);
                    self.in_flight[position].2 = tokens;
                    assert!(self.observe(Event::Progress { request, tokens }), "{}", self.name);
                }
            }
            Step::Finish(index) => {
                if let (_, Some((request, _, produced))) = picked(index) {
                    self.observe(Event::Finished { request, tokens: Some(produced) });
                }
            }
            Step::Fail(index) => {
                if let (_, Some((request, ..))) = picked(index) {
                    self.observe(Event::Failed { request });
                }
            }
            Step::Cancel(index) => {
                let waiting = self.waiting.get(index % self.waiting.len().max(1)).copied();
                if let Some(request) = waiting.or(picked(index).1.map(|(key, ..)| key)) {
                    self.observe(Event::Cancelled { request });
                }
            }
            Step::Report(on, queued_prefill_tokens, kv_usage) => {
                let report = EngineReport {
                    at: self.now,
                    waiting: u32::try_from(queued_prefill_tokens / 1000).unwrap_or(u32::MAX),
                    running: u32::try_from(queued_prefill_tokens % 100).unwrap(),
                    kv_usage,
                    queued_prefill_tokens,
                };
                self.observe(Event::EngineReport { instance: InstanceId(on), report });
            }
            Step::Drain(instance) => drop(self.observe(Event::Draining { instance: InstanceId(instance) })),
            Step::Leave(instance) => drop(self.observe(Event::Left { instance: InstanceId(instance) })),
            Step::Join(instance) => {
                self.observe(Event::Joined { instance: InstanceId(instance), config: engine(SLOTS, BLOCKS) });
            }
        }
        self.decide();
    }

    fn decide(&mut self) {
        loop {
            let instances = self.router.state().instances().iter();
            let ready: Vec<InstanceId> =
                instances.filter(|instance| instance.is_ready()).map(InstanceState::id).collect();
            match self.router.decide(self.now) {
                Ok(Outcome::Dispatch(decision)) => {
                    assert!(ready.contains(&decision.instance), "{}: chose {}", self.name, decision.instance);
                    assert!(!decision.fallback, "{}", self.name);
                    let most = self.router.state().request(decision.key).unwrap().max_tokens;
                    self.waiting.retain(|key| *key != decision.key);
                    self.in_flight.push((decision.key, most, 0));
                    self.log.push((decision.id, decision.instance.0));
                }
                Ok(Outcome::Hold { until }) => {
                    let timer = until.is_some_and(|until| until > self.now);
                    assert!(timer || !self.in_flight.is_empty(), "{}: holds for ever", self.name);
                    assert!(!ready.is_empty(), "{}: holds without an instance", self.name);
                    self.until = until;
                    return;
                }
                Ok(Outcome::Idle) => {
                    assert!(self.waiting.is_empty(), "{}", self.name);
                    return;
                }
                Err(Error::NoInstance { .. }) => {
                    assert!(ready.is_empty(), "{}: {} instances are ready", self.name, ready.len());
                    return;
                }
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
    }

    /// Brings an instance and finishes work, the oldest first, until nothing is left.
    fn settle(&mut self) {
        let next = u32::try_from(self.router.state().instances().len()).unwrap();
        self.step(&Step::Join(next));
        for _ in 0..10_000 {
            if let Some(&(request, _, produced)) = self.in_flight.first() {
                self.now += Picos::MILLISECOND;
                self.observe(Event::Finished { request, tokens: Some(produced) });
            } else if let Some(until) = self.until.take() {
                self.now = self.now.max(until);
            }
            self.decide();
            if self.waiting.is_empty() && self.in_flight.is_empty() {
                break;
            }
        }
        assert_eq!((self.router.waiting(), self.router.state().requests()), (0, 0), "{}", self.name);
        for instance in self.router.state().instances() {
            assert_eq!((instance.in_flight(), instance.context_tokens()), (0, 0), "{}", self.name);
        }
    }

    fn run(spec: &PolicySpec, seed: u64, truth: Option<u32>, steps: &[Step]) -> Vec<(u64, u32)> {
        let mut host = Self::new(spec, seed, 3, truth);
        for step in steps {
            host.step(step);
        }
        host.settle();
        host.log
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(2408),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Only ready instances are chosen, holds end, nothing is left behind, and the same seed decides the same: the
    /// host asserts the first three at every decision.
    #[test]
    fn every_policy_serves_every_request_whatever_happens(
        steps in proptest::collection::vec(step(), 1..80),
        seed in any::<u64>(),
    ) {
        for spec in specs() {
            let log = Host::run(&spec, seed, Some(7), &steps);
            prop_assert_eq!(&log, &Host::run(&spec, seed, Some(7), &steps), "{}", spec.label());
        }
    }

    #[test]
    fn a_true_length_changes_no_decision_unless_the_policy_is_an_oracle(
        steps in proptest::collection::vec(step(), 1..60),
        poison in any::<u32>(),
    ) {
        for spec in specs().iter().filter(|spec| !is_oracle(spec)) {
            let absent = Host::run(spec, 1, None, &steps);
            prop_assert_eq!(absent, Host::run(spec, 1, Some(poison), &steps), "{}", spec.label());
        }
    }
}

#[test]
fn a_single_ready_instance_takes_everything() {
    for spec in specs() {
        let mut host = Host::new(&spec, 3, 3, Some(7));
        host.step(&Step::Leave(0));
        host.step(&Step::Drain(2));
        for number in 0..20 {
            let (family, session) = (u64::from(number % 3), Some(u64::from(number % 4)));
            let sketch = Sketch {
                prompt: 1 + 50 * number,
                max_tokens: 500,
                predicted: 40 * number,
                family,
                session,
                priority: 0,
            };
            host.step(&Step::Submit(sketch));
        }
        while !(host.waiting.is_empty() && host.in_flight.is_empty()) {
            host.step(&Step::Wait(1000));
            host.step(&Step::Finish(0));
        }
        assert_eq!(host.log.len(), 20, "{}", host.name);
        assert!(host.log.iter().all(|(_, instance)| *instance == 1), "{}: {:?}", host.name, host.log);
    }
}

#[test]
fn without_a_ready_instance_every_policy_says_so() {
    for spec in specs() {
        let mut host = Host::new(&spec, 3, 2, Some(7));
        host.step(&Step::Drain(0));
        host.step(&Step::Leave(1));
        host.submit(&Sketch {
            prompt: 10,
            max_tokens: 10,
            predicted: 10,
            family: 0,
            session: Some(1),
            priority: 0,
        });
        let error = host.router.decide(host.now).unwrap_err();
        assert_eq!(error, Error::NoInstance { known: 2 }, "{}", host.name);
    }
}

#[test]
fn extreme_numbers_decide_like_any_others() {
    let sizes =
        [(1, 1, 0), (1, 4095, u32::MAX), (4095, 1, 0), (4000, 96, u32::MAX), (16, 1, 1), (2048, 2048, 2048)];
    for spec in specs() {
        let mut host = Host::new(&spec, 3, 2, Some(u32::MAX));
        // Shortly before the clock's end, with reports that say all there is to say.
        host.now = Picos(i64::MAX / 2);
        host.step(&Step::Report(0, u64::MAX, 1.0));
        host.step(&Step::Report(1, 0, 0.0));
        for (number, &(prompt, max_tokens, predicted)) in sizes.iter().cycle().take(24).enumerate() {
            let number = number as u64;
            let sketch = Sketch {
                prompt,
                max_tokens,
                predicted,
                family: number % 2,
                session: Some(u64::MAX - number),
                priority: 0,
            };
            host.step(&Step::Submit(sketch));
        }
        host.settle();
        assert_eq!(host.log.len(), 24, "{}", host.name);
    }
}
