//! The latency impact by forecast curves against Monte-Carlo runs of the twin.

use std::sync::Arc;

use irouter_core::engine::{EngineConfig, Executor, FastForward, Job, JobSlot, Observer};
use irouter_core::impact::{Candidate, Forecast, Impact};
use irouter_core::length::LEVELS;
use irouter_core::{
    Event, InstanceId, LengthDistribution, Outcome, Picos, Profile, Request, Router, RouterConfig,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::{Fewest, engine, request};

const DRAWS: u32 = 300;
const OWN: u64 = u64::MAX;
const NOW: Picos = Picos(2_000_000_000_000);

/// Lengths that are even between 0 and `longest` tokens.
fn uncertain(id: u64, prompt_tokens: u32, longest: f64) -> Request {
    let predicted = LengthDistribution::from_quantiles(&LEVELS.map(|level| longest * level)).unwrap();
    Request { predicted: Arc::new(predicted), ..request(id, NOW, prompt_tokens, 1) }
}

/// A router whose one instance has these requests decoding, each with so many tokens produced, and those that came last.
fn busy(config: &Arc<EngineConfig>, decoding: Vec<(Request, u32)>, waiting: Vec<Request>) -> Router {
    let mut router = Router::new("test", Box::new(Fewest), RouterConfig::default()).unwrap();
    let joined = Event::Joined { instance: InstanceId(0), config: Arc::clone(config) };
    router.observe(joined, Picos::ZERO).unwrap();
    let dispatch = |router: &mut Router, request: Request, now| {
        let key = router.submit(request, now).unwrap();
        assert!(matches!(router.decide(now).unwrap(), Outcome::Dispatch(_)));
        key
    };
    let keys: Vec<_> = decoding
        .into_iter()
        .map(|(request, tokens)| {
            (dispatch(&mut router, Request { arrival: Picos::ZERO, ..request }, Picos::ZERO), tokens)
        })
        .collect();
    for (request, tokens) in keys {
        router.observe(Event::Progress { request, tokens }, NOW).unwrap();
    }
    for request in waiting {
        dispatch(&mut router, request, NOW);
    }
    router
}

/// When a run told of what.
#[derive(Default)]
struct Times {
    first: Option<Picos>,
    ends: Vec<(u64, Picos)>,
    preempted: bool,
}

impl Observer for Times {
    fn first_token(&mut self, tag: u64, at: Picos) {
        if tag == OWN {
            self.first = Some(at);
        }
    }
    fn preempted(&mut self, _tag: u64, _at: Picos) {
        self.preempted = true;
    }
    fn finished(&mut self, tag: u64, at: Picos) {
        self.ends.push((tag, at));
    }
}

impl Times {
    fn end(&self, tag: u64) -> Picos {
        self.ends.iter().find(|(other, _)| *other == tag).unwrap().1
    }
}

/// Means over runs of the twin to its end with and without the request, lengths drawn from the predictions.
fn monte_carlo(router: &Router, own: &Request) -> Impact {
    let instance = router.state().instance(InstanceId(0)).unwrap();
    let twin: &FastForward = instance.twin().unwrap().engine();
    let mut generator = ChaCha8Rng::seed_from_u64(7);
    let mut draw = |request: &Request, produced: u32, strata: Option<u32>| {
        let uniform = generator.random::<f64>();
        let level = strata.map_or(uniform, |number| (f64::from(number) + uniform) / f64::from(DRAWS));
        let level = level.clamp(1e-9, 1.0 - 1e-9);
        let tokens = request.predicted.quantile_beyond(produced, level, request.max_tokens);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most max_tokens")]
        let tokens = (tokens + generator.random::<f64>()).floor() as u32;
        tokens.clamp(1, request.max_tokens)
    };
    let mut sums = [0.0; 5];
    for number in 0..DRAWS {
        let mut without = twin.forecast();
        for resident in router.state().residents(InstanceId(0)) {
            let slot: JobSlot = resident.slot.unwrap();
            let produced = twin.produced(slot);
            without.set_output_tokens(slot, draw(resident.request, produced, None));
        }
        let mut with = without.clone();
        // Its own length is most of the spread: an even share of its distribution for each run leaves little of it.
        let output_tokens = draw(own, 0, Some(number));
        let job = Job { tag: OWN, prompt_tokens: own.prompt_tokens, output_tokens, prompt_blocks: None };
        with.submit(NOW + Picos::MILLISECOND, job).unwrap();
        let mut times = [Times::default(), Times::default()];
        without.advance(Picos::SECOND * 10_000, &mut times[0]).unwrap();
        with.advance(Picos::SECOND * 10_000, &mut times[1]).unwrap();
        let [before, after] = &times;
        let delays = before.ends.iter().map(|&(tag, end)| (after.end(tag) - end).as_seconds());
        let (sum, most) = delays.fold((0.0, 0.0_f64), |(sum, most), delay| (sum + delay, most.max(delay)));
        let values = [
            (after.first.unwrap() - NOW).as_seconds(),
            (after.end(OWN) - NOW).as_seconds(),
            sum,
            most,
            f64::from(u8::from(after.preempted)),
        ];
        sums = std::array::from_fn(|index| sums[index] + values[index] / f64::from(DRAWS));
    }
    Impact {
        ttft_seconds: sums[0],
        e2e_seconds: sums[1],
        inflicted_seconds: sums[2],
        largest_inflicted_seconds: sums[3],
        delayed_requests: f64::NAN,
        kv_peak_share: f64::NAN,
        overflow_probability: sums[4],
        cached_tokens: 0,
    }
}

fn forecast(router: &Router, own: &Request) -> Impact {
    let instance = router.state().instance(InstanceId(0)).unwrap();
    Forecast::new(router.state(), instance, NOW).impact(instance, &Candidate::new(own))
}

/// Requires that the forecast is within this share of the mean of the runs.
#[track_caller]
fn assert_agree(router: &mut Router, own: &Request, share: f64) {
    assert_eq!(router.decide(NOW).unwrap(), Outcome::Idle);
    let (forecast, runs) = (forecast(router, own), monte_carlo(router, own));
    for (name, value, expected) in [
        ("ttft", forecast.ttft_seconds, runs.ttft_seconds),
        ("e2e", forecast.e2e_seconds, runs.e2e_seconds),
        ("inflicted", forecast.inflicted_seconds, runs.inflicted_seconds),
    ] {
        assert!(
            (value - expected).abs() <= share * expected,
            "{name}: {value} is not near {expected}\n{forecast:?}\n{runs:?}"
        );
    }
}

fn llama() -> Arc<EngineConfig> {
    let json = include_str!("../../../../python/irouter/profiles/llama-3.1-8b@h100.json");
    Arc::new(EngineConfig::new(&Profile::from_json(json).unwrap()).unwrap())
}

/// Requests with different prompts that have produced different numbers of tokens.
fn mixed(count: u32) -> Vec<(Request, u32)> {
    (0..count)
        .map(|number| {
            (
                uncertain(number.into(), 50 + 37 * number % 400, f64::from(200 + 53 * number % 500)),
                16 * (1 + number % 6),
            )
        })
        .collect()
}

#[test]
fn without_a_queue_the_forecast_is_the_mean_of_the_runs() {
    for (config, own) in [
        (engine(64, 4096), uncertain(99, 300, 300.0)),
        (engine(64, 4096), uncertain(99, 3000, 900.0)),
        (llama(), uncertain(99, 700, 500.0)),
    ] {
        assert_agree(&mut busy(&config, mixed(40), Vec::new()), &own, 0.03);
        assert_agree(&mut busy(&config, mixed(5), Vec::new()), &own, 0.03);
    }
}

#[test]
fn behind_other_prompts_the_forecast_is_within_a_tenth_of_the_runs() {
    for config in [engine(64, 4096), llama()] {
        let prompts = || (50..58).map(|id| uncertain(id, 1500, 300.0)).collect();
        assert_agree(&mut busy(&config, mixed(20), prompts()), &uncertain(99, 800, 300.0), 0.1);
    }
}

#[test]
fn behind_a_full_batch_the_forecast_is_within_a_tenth_of_the_runs() {
    let waiting = || (80..90).map(|id| uncertain(id, 100, 300.0)).collect();
    assert_agree(&mut busy(&engine(64, 4096), mixed(64), waiting()), &uncertain(99, 300, 300.0), 0.1);
}
