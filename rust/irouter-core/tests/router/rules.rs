//! The rules of holding, failing and refusing.

use std::sync::mpsc::{Sender, channel};

use crate::support::{Fewest, Holder, engine, request, router};
use irouter_core::policy::{ClusterView, End, Needs, Policy, QueueView, Verdict};
use irouter_core::{
    Error, Event, InstanceId, OnFailure, Outcome, Picos, Request, RequestKey, Result, Router, RouterConfig,
};

fn seconds(seconds: i64) -> Picos {
    Picos::SECOND * seconds
}

fn dispatched(router: &mut Router, now: Picos) -> (u64, u32) {
    match router.decide(now).unwrap() {
        Outcome::Dispatch(decision) => (decision.id, decision.instance.0),
        other => panic!("expected a dispatch, found {other:?}"),
    }
}

#[test]
fn a_hold_without_event_or_timer_is_an_error() {
    let mut router = router(Holder, RouterConfig { max_hold: None, ..RouterConfig::default() }, 2);
    router.submit(request(7, Picos::ZERO, 100, 10), Picos::ZERO).unwrap();
    assert_eq!(
        router.decide(Picos::ZERO).unwrap_err(),
        Error::EndlessHold { policy: "test".into(), waiting: 1 }
    );
}

#[test]
fn a_request_held_for_max_hold_goes_where_the_least_work_is() {
    let config = RouterConfig { max_hold: Some(seconds(5)), ..RouterConfig::default() };
    let mut router = router(Holder, config, 2);
    router.submit(request(1, Picos::ZERO, 2000, 500), Picos::ZERO).unwrap();
    assert_eq!(router.decide(Picos::ZERO).unwrap(), Outcome::Hold { until: Some(seconds(5)) });
    assert_eq!(dispatched(&mut router, seconds(5)), (1, 0));
    router.submit(request(2, seconds(6), 100, 10), seconds(6)).unwrap();
    assert_eq!(router.decide(seconds(6)).unwrap(), Outcome::Hold { until: Some(seconds(11)) });
    assert_eq!(dispatched(&mut router, seconds(11)), (2, 1), "instance 0 has work");
    assert_eq!(router.decide(seconds(11)).unwrap(), Outcome::Idle);
}

#[test]
fn a_request_is_placed_past_those_that_are_held_and_not_where_it_must_not_go() {
    let mut router = router(Holder, RouterConfig::default(), 3);
    let held = router.submit(request(1, Picos::ZERO, 100, 10), Picos::ZERO).unwrap();
    let mut place = |id, excluded: &[u32]| {
        let key = router.submit(request(id, Picos::ZERO, 100, 10), Picos::ZERO).unwrap();
        let excluded: Vec<InstanceId> = excluded.iter().copied().map(InstanceId).collect();
        router.place(key, &excluded, Picos::ZERO).map(|decision| (decision.id, decision.instance.0))
    };
    assert_eq!(place(2, &[]), Ok((2, 0)), "where the policy places it");
    assert_eq!(place(3, &[0]), Ok((3, 1)), "where the least work is");
    assert_eq!(place(4, &[0]), Ok((4, 2)));
    assert_eq!(place(5, &[0, 1, 2]), Err(Error::NoInstance { known: 3 }));
    assert_eq!(router.failures().0, 0);
    assert!(router.state().waiting(held).is_some());
    let placed = router.place(held, &[], Picos::ZERO).unwrap();
    assert_eq!((placed.id, placed.fallback), (1, false));
    assert!(matches!(router.place(held, &[], Picos::ZERO), Err(Error::Policy { .. })));
}

#[test]
fn an_expired_hold_waits_for_room() {
    let config = RouterConfig { max_hold: Some(seconds(1)), ..RouterConfig::default() };
    let mut router = Router::new("test", Box::new(Holder), config).unwrap();
    let joined = Event::Joined { instance: InstanceId(0), config: engine(1, 4096) };
    router.observe(joined, Picos::ZERO).unwrap();
    let first = router.submit(request(1, Picos::ZERO, 100, 10), Picos::ZERO).unwrap();
    router.submit(request(2, Picos::ZERO, 100, 10), Picos::ZERO).unwrap();
    assert_eq!(dispatched(&mut router, seconds(1)), (1, 0));
    assert_eq!(
        router.decide(seconds(2)).unwrap(),
        Outcome::Hold { until: None },
        "the only batch slot is taken"
    );
    router.observe(Event::Finished { request: first, tokens: Some(10) }, seconds(3)).unwrap();
    assert_eq!(dispatched(&mut router, seconds(3)), (2, 0));
}

/// Chooses what is not there.
struct Wrong {
    instance: u32,
}

impl Policy for Wrong {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, _view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        Ok(InstanceId(self.instance))
    }
}

#[test]
fn a_policy_that_chooses_an_instance_that_is_gone_is_stopped_or_replaced_visibly() {
    for (instance, found) in [(9, "unknown"), (0, "gone"), (1, "draining")] {
        for on_failure in [OnFailure::Stop, OnFailure::Fallback] {
            let config = RouterConfig { on_failure, ..RouterConfig::default() };
            let mut router = router(Wrong { instance }, config, 3);
            router.observe(Event::Left { instance: InstanceId(0) }, Picos::ZERO).unwrap();
            router.observe(Event::Draining { instance: InstanceId(1) }, Picos::ZERO).unwrap();
            router.submit(request(1, Picos::ZERO, 10, 10), Picos::ZERO).unwrap();
            let error = Error::BadChoice { policy: "test".into(), instance: InstanceId(instance), found };
            if on_failure == OnFailure::Stop {
                assert_eq!(router.decide(Picos::ZERO).unwrap_err(), error);
                assert_eq!(router.waiting(), 1, "nothing accepted is lost");
            } else {
                assert_eq!(dispatched(&mut router, Picos::ZERO), (1, 2));
                assert_eq!(router.failures(), (1, Some(&error)));
            }
        }
    }
}

/// A router over a small instance and one that holds four times as much.
fn unlike(policy: impl Policy + 'static, config: RouterConfig) -> Router {
    let mut router = Router::new("test", Box::new(policy), config).unwrap();
    for (number, blocks) in [(0, 64), (1, 256)] {
        let event = Event::Joined { instance: InstanceId(number), config: engine(64, blocks) };
        router.observe(event, Picos::ZERO).unwrap();
    }
    router
}

#[test]
fn a_policy_that_chooses_an_instance_too_small_for_the_request_is_stopped_or_replaced_visibly() {
    let message = "policy `test` chose instance 0, which can never hold the request: request 1: prompt 1500 + output \
                   1024 tokens exceed `kv.blocks` = 1024 tokens";
    let config = |on_failure| RouterConfig { on_failure, ..RouterConfig::default() };
    let mut router = unlike(Wrong { instance: 0 }, config(OnFailure::Stop));
    router.submit(request(1, Picos::ZERO, 1500, 10), Picos::ZERO).unwrap();
    assert_eq!(router.decide(Picos::ZERO).unwrap_err().to_string(), message);
    assert_eq!(router.waiting(), 1, "nothing accepted is lost");
    let mut router = unlike(Wrong { instance: 0 }, config(OnFailure::Fallback));
    router.submit(request(1, Picos::ZERO, 1500, 10), Picos::ZERO).unwrap();
    assert_eq!(dispatched(&mut router, Picos::ZERO), (1, 1));
    assert_eq!(router.failures().0, 1);
}

#[test]
fn what_only_a_draining_instance_can_hold_waits_and_the_error_says_so() {
    let mut router = unlike(Wrong { instance: 0 }, RouterConfig::default());
    router.observe(Event::Draining { instance: InstanceId(1) }, Picos::ZERO).unwrap();
    router.submit(request(1, Picos::ZERO, 1500, 10), Picos::ZERO).unwrap();
    assert!(matches!(router.decide(Picos::ZERO), Err(Error::NeverFits { .. })));
    assert_eq!((router.waiting(), router.failures().0), (1, 0));
}

#[test]
fn an_expired_hold_only_goes_where_the_request_fits() {
    let mut router = unlike(Holder, RouterConfig { max_hold: Some(seconds(1)), ..RouterConfig::default() });
    for id in 0..3 {
        router.submit(request(id, Picos::ZERO, 1500, 10), Picos::ZERO).unwrap();
    }
    assert_eq!(dispatched(&mut router, seconds(1)), (0, 1));
    assert_eq!(dispatched(&mut router, seconds(1)), (1, 1), "the idle instance is too small");
    assert_eq!(router.decide(seconds(1)).unwrap(), Outcome::Hold { until: None });
}

/// Dispatches a request that does not wait.
struct Stale;

impl Policy for Stale {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|_| 0.0)
    }

    fn decide(&mut self, _view: &ClusterView<'_>, _queue: &QueueView<'_>) -> Result<Verdict> {
        Ok(Verdict::Dispatch { request: RequestKey { slot: 5, generation: 0 }, instance: InstanceId(0) })
    }
}

#[test]
fn a_policy_that_chooses_a_request_that_does_not_wait_is_an_error() {
    let config = RouterConfig { on_failure: OnFailure::Stop, ..RouterConfig::default() };
    let mut router = router(Stale, config, 1);
    router.submit(request(1, Picos::ZERO, 10, 10), Picos::ZERO).unwrap();
    assert!(matches!(router.decide(Picos::ZERO), Err(Error::Policy { .. })));
}

#[test]
fn without_a_ready_instance_requests_wait_and_the_error_says_so() {
    let mut router = router(Fewest, RouterConfig::default(), 1);
    router.observe(Event::Draining { instance: InstanceId(0) }, Picos::ZERO).unwrap();
    router.submit(request(1, Picos::ZERO, 10, 10), Picos::ZERO).unwrap();
    assert_eq!(router.decide(Picos::ZERO).unwrap_err(), Error::NoInstance { known: 1 });
    assert_eq!(router.waiting(), 1);
}

#[test]
fn a_request_that_can_never_run_is_refused() {
    let mut router = router(Fewest, RouterConfig::default(), 1);
    let too_long = router.submit(request(3, Picos::ZERO, 4000, 10), Picos::ZERO).unwrap_err();
    assert_eq!(
        too_long.to_string(),
        "request 3: prompt 4000 + output 1024 tokens exceed `max_model_len` = 4096 tokens"
    );
    let empty = router.submit(request(4, Picos::ZERO, 0, 10), Picos::ZERO).unwrap_err();
    assert_eq!(empty.to_string(), "`request 4: prompt_tokens` is 0, expected at least 1");
    assert_eq!(router.waiting(), 0);
}

#[test]
fn time_that_goes_back_is_refused() {
    let mut router = router(Fewest, RouterConfig::default(), 1);
    router.decide(seconds(2)).unwrap();
    assert!(matches!(router.decide(seconds(1)), Err(Error::TimeWentBack { .. })));
}

#[test]
fn an_instance_that_leaves_returns_its_requests_and_comes_back_clean() {
    let mut router = router(Fewest, RouterConfig::default(), 1);
    let lost = router.submit(request(11, Picos::ZERO, 100, 10), Picos::ZERO).unwrap();
    dispatched(&mut router, Picos::ZERO);
    let ids = router.observe(Event::Left { instance: InstanceId(0) }, seconds(1)).unwrap();
    assert_eq!(ids, [11]);
    assert_eq!(
        router.observe(Event::FirstToken { request: lost, cached_tokens: None }, seconds(1)).unwrap_err(),
        Error::UnknownRequest { request: lost },
        "a late event of a lost request is refused"
    );
    let config = engine(64, 4096);
    router.observe(Event::Joined { instance: InstanceId(0), config }, seconds(2)).unwrap();
    let instance = &router.state().instances()[0];
    assert_eq!((instance.generation(), instance.in_flight(), instance.context_tokens()), (1, 0, 0));
}

/// Passes on what it hears.
struct Listener(Sender<String>);

impl Listener {
    fn hears(&self, what: String) {
        self.0.send(what).unwrap();
    }
}

impl Policy for Listener {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|_| 0.0)
    }

    fn dispatched(&mut self, request: &Request, _instance: InstanceId, _now: Picos) {
        self.hears(format!("{} dispatched", request.id));
    }

    fn first_token(&mut self, request: &Request, _instance: InstanceId, _now: Picos) {
        self.hears(format!("{} started", request.id));
    }

    fn progressed(&mut self, request: &Request, _instance: InstanceId, tokens: u32) {
        self.hears(format!("{} at {tokens}", request.id));
    }

    fn released(&mut self, request: &Request, _instance: InstanceId, end: End) {
        self.hears(format!("{} ended at {}", request.id, end.tokens));
    }
}

#[test]
fn a_policy_hears_once_of_each_start_progress_and_end() {
    let (sender, heard) = channel();
    let mut router = router(Listener(sender), RouterConfig::default(), 1);
    let keys = [1, 2].map(|id| router.submit(request(id, Picos::ZERO, 100, 10), Picos::ZERO).unwrap());
    for _ in keys {
        router.decide(Picos::ZERO).unwrap();
    }
    let [first, second] = keys;
    for tokens in [16, 16, 8, 40] {
        router.observe(Event::Progress { request: first, tokens }, seconds(1)).unwrap();
    }
    router.observe(Event::FirstToken { request: second, cached_tokens: None }, seconds(2)).unwrap();
    router.observe(Event::Progress { request: second, tokens: 16 }, seconds(2)).unwrap();
    router.observe(Event::Finished { request: first, tokens: Some(50) }, seconds(3)).unwrap();
    drop(router);
    let expected = [
        "1 dispatched",
        "2 dispatched",
        "1 started",
        "1 at 16",
        "1 at 40",
        "2 started",
        "2 at 16",
        "1 ended at 50",
    ];
    assert_eq!(heard.iter().collect::<Vec<_>>(), expected);
}
