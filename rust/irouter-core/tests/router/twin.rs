//! How a twin follows the engine that it stands for.

use crate::support::{Fewest, request, router};
use irouter_core::{Event, Outcome, Picos, Request, RouterConfig};

/// The speed that a twin has learned of an engine whose steps take `factor` times as long as its own, looked at every
/// `look`.
fn learned(factor: f64, look: Picos) -> f64 {
    let mut router = router(Fewest, RouterConfig { max_hold: None, ..RouterConfig::default() }, 1);
    let mut now = Picos::ZERO;
    for number in 0..10 {
        let request = Request { max_tokens: 2000, ..request(number, now, 10, 2000) };
        router.submit(request, now).unwrap();
        let Outcome::Dispatch(decision) = router.decide(now).unwrap() else {
            panic!("one is there to be dispatched")
        };
        now += Picos::MILLISECOND * 30;
        router.observe(Event::FirstToken { request: decision.key, cached_tokens: None }, now).unwrap();
        // A step of the twin takes 20 ms and a little for its only sequence.
        let step = factor * 0.020_15;
        let start = now;
        let mut told = 1;
        while now - start < Picos::SECOND * 30 {
            now += look;
            assert_eq!(router.decide(now).unwrap(), Outcome::Idle);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
            let produced = ((now - start).as_seconds() / step) as u32 + 1;
            let tokens = produced.min(2000) / 16 * 16;
            if tokens > told {
                told = tokens;
                router.observe(Event::Progress { request: decision.key, tokens }, now).unwrap();
            }
        }
        router.observe(Event::Finished { request: decision.key, tokens: None }, now).unwrap();
    }
    router.state().instances()[0].twin().unwrap().speed()
}

#[test]
fn a_twin_learns_that_its_engine_is_slower_or_faster_however_often_it_is_looked_at() {
    for factor in [0.5, 1.0, 2.0] {
        for look in [Picos::MILLISECOND * 3, Picos::MILLISECOND * 70, Picos::MILLISECOND * 900] {
            let speed = learned(factor, look);
            assert!((speed / factor - 1.0).abs() < 0.1, "{factor}, looked at every {look}: {speed}");
        }
    }
}
