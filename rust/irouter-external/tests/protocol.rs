//! The protocol from both ends: a router that falls back, and processes that behave or do not.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use irouter_core::engine::EngineConfig;
use irouter_core::policy::{Policy, PolicySpec};
use irouter_core::{
    Decision, Event, InstanceId, LengthDistribution, Outcome, Picos, Profile, Request, Router, RouterConfig,
    TenantId,
};
use irouter_external::build;
use serde_json::{Value, json};

const PROFILE: &str = include_str!("../../../python/irouter/profiles/llama-3.1-8b@a100.json");

/// A process that answers each message by a function, until that has no answer.
struct Server {
    folder: PathBuf,
    socket: PathBuf,
    messages: JoinHandle<Vec<Value>>,
}

impl Server {
    fn new(name: &str, mut answer: impl FnMut(usize, &Value) -> Option<String> + Send + 'static) -> Self {
        let folder = std::env::temp_dir().join(format!("irouter-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("policy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let messages = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut messages = Vec::new();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                messages.push(serde_json::from_str(&line.unwrap()).unwrap());
                let Some(text) = answer(messages.len() - 1, &messages[messages.len() - 1]) else { break };
                send(&mut stream, &text);
            }
            messages
        });
        Self { folder, socket, messages }
    }

    fn spec(&self) -> PolicySpec {
        PolicySpec::named(format!("external:{}", self.socket.display()))
    }

    /// What it was sent. The router must be gone.
    fn messages(self) -> Vec<Value> {
        let messages = self.messages.join().unwrap();
        std::fs::remove_dir_all(self.folder).unwrap();
        messages
    }
}

fn send(stream: &mut UnixStream, text: &str) {
    // Whoever is not asked any more may be gone.
    let _ = stream.write_all(text.as_bytes());
}

fn hello() -> String {
    "{\"protocol\": 1}\n".into()
}

fn choose(instance: u32) -> String {
    format!("{}\n", json!({ "instance": instance }))
}

/// A router over three instances.
fn router(policy: Box<dyn Policy>) -> Router {
    let config = Arc::new(EngineConfig::new(&Profile::from_json(PROFILE).unwrap()).unwrap());
    let mut router = Router::new("test", policy, RouterConfig::default()).unwrap();
    for number in 0..3 {
        let event = Event::Joined { instance: InstanceId(number), config: Arc::clone(&config) };
        router.observe(event, Picos::ZERO).unwrap();
    }
    router
}

fn request(id: u64) -> Request {
    let length = u32::try_from(id * 37 % 400 + 1).unwrap();
    Request {
        id,
        arrival: Picos::SECOND * id.cast_signed(),
        prompt_tokens: length * 3 % 900 + 1,
        max_tokens: 1024,
        predicted: Arc::new(LengthDistribution::exact(length)),
        prompt_blocks: None,
        priority: 0,
        deadline: None,
        tenant: TenantId(0),
        session: None,
        true_output_tokens: None,
    }
}

fn decide(router: &mut Router, id: u64) -> Decision {
    let now = Picos::SECOND * id.cast_signed();
    router.submit(request(id), now).unwrap();
    match router.decide(now).unwrap() {
        Outcome::Dispatch(decision) => decision,
        other => panic!("{other:?}"),
    }
}

/// Where `requests` go, each third of them finished before the next.
fn route(router: &mut Router, requests: u64) -> Vec<u32> {
    let placed = (0..requests).map(|id| {
        let decision = decide(router, id);
        if id % 3 == 0 {
            let now = Picos::SECOND * id.cast_signed();
            router.observe(Event::FirstToken { request: decision.key, cached_tokens: None }, now).unwrap();
            router.observe(Event::Finished { request: decision.key, tokens: Some(7) }, now).unwrap();
        }
        decision.instance.0
    });
    placed.collect()
}

#[test]
fn a_process_that_follows_a_built_in_rule_decides_alike() {
    let server = Server::new("alike", |_, message| {
        if message["type"] == "hello" {
            return Some(hello());
        }
        let tokens = |instance: &Value| {
            instance["queued_prefill_tokens"].as_f64().unwrap()
                + instance["remaining_output_tokens"].as_f64().unwrap()
        };
        let instances = message["instances"].as_array().unwrap();
        let best = instances.iter().min_by(|left, right| tokens(left).total_cmp(&tokens(right))).unwrap();
        Some(choose(u32::try_from(best["instance"].as_u64().unwrap()).unwrap()))
    });
    let mut external = router(build(&server.spec(), 7).unwrap());
    let mut built_in = router(PolicySpec::named("join_shortest_queue").build(7).unwrap());
    let placed = route(&mut external, 60);
    assert_eq!(placed, route(&mut built_in, 60));
    assert!((0..3).all(|instance| placed.contains(&instance)));
    assert_eq!(external.failures(), (0, None));
    drop(external);

    let messages = server.messages();
    assert_eq!(messages.len(), 61);
    assert_eq!((&messages[0]["protocol"], &messages[0]["seed"]), (&json!(1), &json!(7)));
    assert_eq!(messages[0]["instances"][2]["max_num_seqs"], json!(256));
    assert_eq!(messages[1]["request"]["predicted_quantiles"].as_array().unwrap().len(), 11);
    assert_eq!(messages[1]["events"], json!([]));
    let events = json!([
        {"event": "dispatched", "at_s": 0.0, "request": 0, "instance": placed[0]},
        {"event": "first_token", "at_s": 0.0, "request": 0, "instance": placed[0]},
        {"event": "ended", "at_s": 0.0, "request": 0, "instance": placed[0], "tokens": 7, "completed": true},
    ]);
    assert_eq!(messages[2]["events"], events);
}

#[test]
fn every_wrong_answer_counts_and_the_next_question_is_asked_all_the_same() {
    let answers = ["rubbish\n", "{}\n", "{\"instance\": 9}\n", "{\"instance\": -1}\n", "{\"instance\": 2}\n"];
    let server = Server::new("rubbish", move |index, _| {
        Some(if index == 0 { hello() } else { answers[index - 1].into() })
    });
    let mut router = router(build(&server.spec(), 0).unwrap());
    for (id, (failures, complaint)) in
        [(1, "it answered \"rubbish\""), (2, "missing field `instance`"), (3, "unknown"), (4, "-1")]
            .into_iter()
            .enumerate()
    {
        let decision = decide(&mut router, id as u64);
        let (count, last) = router.failures();
        assert!(decision.fallback && count == failures, "{count}");
        let message = last.unwrap().to_string();
        assert!(message.contains(complaint), "{message}");
    }
    let decision = decide(&mut router, 4);
    assert_eq!((decision.fallback, decision.instance), (false, InstanceId(2)));
    drop(router);
    assert_eq!(server.messages().len(), 6);
}

#[test]
fn a_process_that_is_gone_is_not_asked_again_and_the_least_work_decides() {
    let server = Server::new("gone", |index, _| match index {
        0 => Some(hello()),
        1 => Some(choose(1)),
        _ => None,
    });
    let mut router = router(build(&server.spec(), 0).unwrap());
    let placed: Vec<_> = (0..5).map(|id| decide(&mut router, id)).collect();
    assert_eq!(
        placed.iter().map(|decision| decision.fallback).collect::<Vec<_>>(),
        [false, true, true, true, true]
    );
    assert!(placed[1..].iter().any(|decision| decision.instance != InstanceId(0)));
    let (failures, last) = router.failures();
    assert_eq!(failures, 4);
    assert!(last.unwrap().to_string().contains("it closed the connection"));
    drop(router);
    assert_eq!(server.messages().len(), 3);
}

#[test]
fn a_process_that_hangs_is_asked_as_often_as_the_limit_says() {
    let server = Server::new("hangs", |index, _| Some(if index == 0 { hello() } else { String::new() }));
    let spec = server.spec().with_option("timeout_s", 0.02).with_option("max_timeouts", 2);
    let mut router = router(build(&spec, 0).unwrap());
    for id in 0..50 {
        assert!(decide(&mut router, id).fallback);
    }
    let (failures, last) = router.failures();
    assert_eq!(failures, 50);
    let message = last.unwrap().to_string();
    assert!(message.contains("no answer within 0.02 s, 2 times in a row"), "{message}");
    drop(router);
    assert_eq!(server.messages().len(), 3);
}

#[test]
fn a_process_that_does_not_start_as_agreed_is_never_asked() {
    let other = Server::new("version", |_, _| Some("{\"protocol\": 2}\n".into()));
    let specs = [
        (other.spec(), "it speaks protocol 2, expected 1"),
        (PolicySpec::named("external:true"), "it ended before it connected to IROUTER_POLICY_SOCKET"),
        (PolicySpec::named("external:sleep 60").with_option("start_timeout_s", 0.05), "within 0.05 s"),
    ];
    for (spec, complaint) in specs {
        let mut router = router(build(&spec, 0).unwrap());
        assert!((0..3).all(|id| decide(&mut router, id).fallback));
        let (failures, last) = router.failures();
        assert_eq!(failures, 3);
        let message = last.unwrap().to_string();
        assert!(message.contains(complaint), "{message}");
    }
    assert_eq!(other.messages().len(), 1);
}
