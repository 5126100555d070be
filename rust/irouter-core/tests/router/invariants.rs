//! Whatever happens in whatever order, every token and block comes back.

use crate::support::{Fewest, engine, request, router};
use irouter_core::{Event, InstanceId, Outcome, Picos, RequestKey, Router, RouterConfig};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Submit { prompt: u32, output: u32, priority: i32, blocks: u8 },
    FirstToken(usize),
    Progress(usize, u32),
    Finish(usize),
    Fail(usize),
    Cancel(usize),
    Leave(u32),
    Drain(u32),
    Resume(u32),
    Join(u32),
    Wait(i64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1..2000u32, 1..500u32, 0..3i32, any::<u8>())
            .prop_map(|(prompt, output, priority, blocks)| Action::Submit { prompt, output, priority, blocks }),
        4 => any::<usize>().prop_map(Action::FirstToken),
        4 => (any::<usize>(), 0..1100u32).prop_map(|(pick, tokens)| Action::Progress(pick, tokens)),
        4 => any::<usize>().prop_map(Action::Finish),
        1 => any::<usize>().prop_map(Action::Fail),
        1 => any::<usize>().prop_map(Action::Cancel),
        1 => (0..4u32).prop_map(Action::Leave),
        1 => (0..4u32).prop_map(Action::Drain),
        1 => (0..4u32).prop_map(Action::Resume),
        2 => (0..4u32).prop_map(Action::Join),
        4 => (0..2_000i64).prop_map(Action::Wait),
    ]
}

/// Carries out one action; events that do not fit are refused and change nothing.
fn act(router: &mut Router, keys: &mut Vec<RequestKey>, now: &mut Picos, number: u64, action: &Action) {
    let pick = |keys: &[RequestKey], index: usize| keys.get(index % keys.len().max(1)).copied();
    let event = match *action {
        Action::Submit { prompt, output, priority, blocks } => {
            let mut request = request(number, *now, prompt, output);
            request.priority = priority;
            let hashes: Vec<u64> =
                (0..u64::from(prompt / 16)).map(|block| block << 8 | u64::from(blocks % 4)).collect();
            request.prompt_blocks = Some(hashes.into());
            keys.push(router.submit(request, *now).unwrap());
            None
        }
        Action::Wait(millis) => {
            *now += Picos::MILLISECOND * millis;
            None
        }
        Action::FirstToken(index) => pick(keys, index).map(|request| Event::FirstToken {
            request,
            cached_tokens: Some(16 * (u32::try_from(number % 8).unwrap())),
        }),
        Action::Progress(index, tokens) => {
            pick(keys, index).map(|request| Event::Progress { request, tokens })
        }
        Action::Finish(index) => pick(keys, index).map(|request| Event::Finished { request, tokens: None }),
        Action::Fail(index) => pick(keys, index).map(|request| Event::Failed { request }),
        Action::Cancel(index) => pick(keys, index).map(|request| Event::Cancelled { request }),
        Action::Leave(instance) => Some(Event::Left { instance: InstanceId(instance) }),
        Action::Resume(instance) => Some(Event::Resumed { instance: InstanceId(instance) }),
        Action::Drain(instance) => Some(Event::Draining { instance: InstanceId(instance) }),
        Action::Join(number) => {
            Some(Event::Joined { instance: InstanceId(number), config: engine(64, 4096) })
        }
    };
    if let Some(event) = event {
        let before = format!("{:?}", router.state());
        if router.observe(event, *now).is_err() {
            assert_eq!(before, format!("{:?}", router.state()), "a refused event changed the state");
        }
    }
    while let Ok(Outcome::Dispatch(_)) = router.decide(*now) {}
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_request_returns_what_it_held(actions in prop::collection::vec(action(), 1..120)) {
        let mut router = router(Fewest, RouterConfig::default(), 3);
        let (mut keys, mut now) = (Vec::new(), Picos::ZERO);
        for (number, action) in (0..).zip(&actions) {
            act(&mut router, &mut keys, &mut now, number, action);
            let instances = router.state().instances();
            let on_instances: usize = instances.iter().map(|instance| instance.in_flight() as usize).sum();
            prop_assert_eq!(on_instances + router.waiting(), router.state().requests());
            for instance in instances {
                prop_assert!(instance.awaiting_first_token() <= instance.in_flight());
                prop_assert!(instance.queued_prefill_tokens() <= instance.prompt_tokens());
            }
        }
        for request in keys {
            let _ = router.observe(Event::Cancelled { request }, now);
        }
        prop_assert_eq!((router.waiting(), router.state().requests()), (0, 0));
        for instance in router.state().instances() {
            prop_assert_eq!(
                (instance.in_flight(), instance.awaiting_first_token(), instance.queued_prefill_tokens()),
                (0, 0, 0)
            );
            prop_assert_eq!((instance.context_tokens(), instance.work_seconds().to_bits()), (0, 0));
            let load = instance.twin().unwrap().load();
            prop_assert_eq!((load.waiting, load.running, load.used_blocks), (0, 0, 0));
        }
    }
}
