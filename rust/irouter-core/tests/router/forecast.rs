//! Forecast curves against sums by hand, and against Monte-Carlo runs of the twin.

use std::sync::Arc;

use irouter_core::engine::{Executor, FastForward, JobSlot, Observer};
use irouter_core::impact::{Candidate, Forecast, GRID};
use irouter_core::length::LEVELS;
use irouter_core::state::InstanceState;
use irouter_core::{Event, InstanceId, LengthDistribution, Outcome, Picos, Request, Router, RouterConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::{Fewest, engine, request};

const DRAWS: usize = 400;

/// A router with these requests decoding on its one instance of `blocks` KV blocks, each having produced 16 tokens.
fn decoding(blocks: u32, requests: Vec<Request>) -> Router {
    let mut router = Router::new("test", Box::new(Fewest), RouterConfig::default()).unwrap();
    let joined = Event::Joined { instance: InstanceId(0), config: engine(64, blocks) };
    router.observe(joined, Picos::ZERO).unwrap();
    let mut keys = Vec::new();
    for request in requests {
        keys.push(router.submit(request, Picos::ZERO).unwrap());
        assert!(matches!(router.decide(Picos::ZERO).unwrap(), Outcome::Dispatch(_)));
    }
    let now = Picos::SECOND * 2;
    for request in keys {
        router.observe(Event::FirstToken { request, cached_tokens: None }, now).unwrap();
        router.observe(Event::Progress { request, tokens: 16 }, now).unwrap();
    }
    router
}

fn instance(router: &Router) -> &InstanceState {
    router.state().instance(InstanceId(0)).unwrap()
}

fn forecast(router: &Router) -> Forecast {
    Forecast::new(router.state(), instance(router), router.now())
}

/// Requests whose outputs are even between 0 and `longest` tokens.
fn uncertain(count: u64, prompt_tokens: u32, longest: f64) -> Vec<Request> {
    let predicted =
        Arc::new(LengthDistribution::from_quantiles(&LEVELS.map(|level| longest * level)).unwrap());
    let request =
        |id| Request { predicted: Arc::clone(&predicted), ..request(id, Picos::ZERO, prompt_tokens, 1) };
    (0..count).map(request).collect()
}

fn assert_near(value: f64, expected: f64, share: f64) {
    assert!((value - expected).abs() <= share * expected.abs() + 1e-9, "{value} is not near {expected}");
}

#[test]
fn exact_lengths_leave_at_their_step_and_have_no_spread() {
    let router = decoding(4096, vec![request(0, Picos::ZERO, 100, 117), request(1, Picos::ZERO, 200, 57)]);
    let twin = instance(&router).twin().unwrap();
    let produced =
        router.state().residents(InstanceId(0)).map(|resident| twin.produced(resident.slot.unwrap()));
    assert_eq!(produced.collect::<Vec<_>>(), [17, 17], "the twin is a step ahead of the last report");
    let forecast = forecast(&router);
    for (point, &step) in GRID.iter().enumerate() {
        let (first, second) = (f64::from(u8::from(step < 100)), f64::from(u8::from(step < 40)));
        assert_near(forecast.residents()[point], first + second, 1e-6);
        // Half a block of 16 beside prompt, output so far and steps.
        let held = |prompt: f64| prompt + 17.0 + 7.5 + f64::from(step);
        assert_near(forecast.tokens()[point], first * held(100.0) + second * held(200.0), 1e-6);
    }
    let peak = 117.0 + 217.0 + 15.0 + 2.0 * 32.0;
    assert!(forecast.overflow_probability(peak - 1.0) > 0.999);
    assert!(forecast.overflow_probability(peak + 1.0) < 0.001);
}

#[test]
fn a_candidate_is_forecast_as_if_it_were_there() {
    let own = request(9, Picos::SECOND * 2, 300, 50);
    let mut router = decoding(4096, uncertain(5, 100, 400.0));
    let before = forecast(&router);
    let with = |capacity| before.overflow_probability_with(&Candidate::new(&own), capacity);
    let expected = [1000.0, 1300.0, 1600.0, 1900.0].map(|capacity| (capacity, with(capacity)));
    router.submit(own.clone(), own.arrival).unwrap();
    assert!(matches!(router.decide(own.arrival).unwrap(), Outcome::Dispatch(_)));
    let after = forecast(&router);
    assert_near(after.residents()[0] - before.residents()[0], 1.0, 1e-9);
    assert_near(after.tokens()[0] - before.tokens()[0], 307.5, 1e-9);
    assert_near(after.residents()[GRID.len() - 1], before.residents()[GRID.len() - 1], 1e-12);
    for (capacity, likely) in expected {
        assert_near(after.overflow_probability(capacity), likely, 1e-9);
        assert!(likely >= before.overflow_probability(capacity), "{capacity}");
    }
}

#[test]
fn a_request_in_the_engines_queue_enters_when_a_slot_is_expected_to_be_free() {
    // 64 slots; all residents leave after 100 more steps.
    let mut router = decoding(4096, (0..64).map(|id| request(id, Picos::ZERO, 10, 116)).collect());
    router.submit(request(99, Picos::SECOND * 2, 10, 1000), Picos::SECOND * 2).unwrap();
    assert!(matches!(router.decide(Picos::SECOND * 2).unwrap(), Outcome::Dispatch(_)));
    let forecast = forecast(&router);
    let at = |step: u32| forecast.residents()[GRID.iter().position(|&other| other == step).unwrap()];
    assert_near(at(96), 64.0, 1e-6);
    assert_near(at(128), 1.0, 1e-6);
    assert_near(at(1024), 1.0, 1e-6);
}

/// Counts preemptions and notes the blocks in use.
#[derive(Default)]
struct Watch {
    preemptions: u32,
}

impl Observer for Watch {
    fn preempted(&mut self, _tag: u64, _at: Picos) {
        self.preemptions += 1;
    }
}

/// Runs of the twin to its end, with lengths drawn from the predictions given what has been produced: for each the blocks
/// in use after `steps` decode steps, and whether somebody was preempted.
fn monte_carlo(router: &Router, steps: u32) -> Vec<(u32, bool)> {
    let twin: FastForward = instance(router).twin().unwrap().engine().clone();
    let residents: Vec<_> = router.state().residents(InstanceId(0)).collect();
    let start: Vec<JobSlot> = residents.iter().map(|resident| resident.slot.unwrap()).collect();
    let mut generator = ChaCha8Rng::seed_from_u64(7);
    let mut draw = || {
        let mut run = twin.forecast();
        let mut longest = 0;
        for (resident, &slot) in residents.iter().zip(&start) {
            let alive = resident.request.predicted.survival(f64::from(resident.produced));
            let length = resident.request.predicted.quantile(1.0 - alive * generator.random::<f64>());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below max_tokens")]
            let length = length.ceil() as u32;
            run.set_output_tokens(slot, length);
            longest = longest.max(length);
        }
        let mut watch = Watch::default();
        let mut used = 0;
        // Everybody decodes in step, so that the one who stays longest tells the steps done.
        let produced = |run: &FastForward| start.iter().map(|&slot| run.produced(slot)).max().unwrap_or(0);
        let from = produced(&run);
        while let Some(at) = run.next_event() {
            let mut next = at;
            if produced(&run) < from + steps {
                // One step at a time up to the one that is looked at.
                next = at.min(run.clock() + Picos::MILLISECOND * 10);
            }
            run.advance(next, &mut watch).unwrap();
            if produced(&run) == from + steps {
                used = run.load().used_blocks;
            }
        }
        (used, watch.preemptions > 0)
    };
    (0..DRAWS).map(|_| draw()).collect()
}

#[test]
fn expected_blocks_are_those_of_the_twin_run_ahead() {
    let router = decoding(4096, uncertain(40, 200, 400.0));
    let forecast = forecast(&router);
    for steps in [32, 128, 256] {
        let point = GRID.iter().position(|&step| step == steps).unwrap();
        let runs = monte_carlo(&router, steps);
        let mean = runs.iter().map(|&(used, _)| f64::from(used)).sum::<f64>() / DRAWS as f64;
        assert_near(forecast.tokens()[point] / 16.0, mean, 0.03);
    }
}

#[test]
fn an_overflow_is_about_as_likely_as_predicted() {
    let requests = || uncertain(40, 100, 600.0);
    for predicted in [0.1, 0.5, 0.9] {
        let likely = forecast(&decoding(4096, requests()));
        let blocks = (100..4096)
            .find(|&blocks| likely.overflow_probability(f64::from(blocks) * 16.0) < predicted)
            .unwrap();
        let runs = monte_carlo(&decoding(blocks, requests()), 0);
        let observed = runs.iter().filter(|(_, preempted)| *preempted).count() as f64 / DRAWS as f64;
        assert!((observed - predicted).abs() < 0.1, "{predicted} predicted, {observed} observed");
    }
}
