use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::json;

use super::*;
use crate::policy::observation::{COUNT, FEATURES, VERSION};
use crate::policy::testing::{BLOCKS, Cluster, SLOTS, at, request};

/// A linear network with these weights, by output and feature, and this bias of `room`.
fn weights(named: &[(usize, &str, f32)], room: f32) -> GuidedOptions {
    let mut values = vec![0.0; 2 * COUNT];
    for (output, feature, weight) in named {
        let place = FEATURES.iter().position(|name| name == feature).unwrap();
        values[output * COUNT + place] = *weight;
    }
    file(&values, room, &json!({ "observation_version": VERSION, "features": FEATURES.as_slice() }))
}

fn file(values: &[f32], room: f32, header: &serde_json::Value) -> GuidedOptions {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (weight, bias) = (bytes(values), bytes(&[0.0, room]));
    let tensors = [
        ("network.0.weight", TensorView::new(Dtype::F32, vec![2, values.len() / 2], &weight).unwrap()),
        ("network.0.bias", TensorView::new(Dtype::F32, vec![2], &bias).unwrap()),
    ];
    let metadata = [("irouter".to_owned(), header.to_string())].into_iter().collect();
    GuidedOptions { weights: Some(STANDARD.encode(serialize(tensors, Some(metadata)).unwrap())) }
}

fn policy(options: GuidedOptions) -> Guided {
    Guided::new(options, 0).unwrap()
}

#[test]
fn the_highest_value_with_room_is_dispatched() {
    let mut policy = policy(weights(&[(0, "size", 1.0)], 1.0));
    let mut cluster = Cluster::new(policy.needs(), 1);
    for output in [300, 500, 100] {
        cluster.wait(&mut policy, request(output, output));
    }
    let order = [(); 3].map(|()| {
        cluster.decide(&mut policy, at(1.0));
        cluster.last_prompt_tokens()
    });
    assert_eq!(order, [500, 300, 100], "these weights like large requests");
}

#[test]
fn without_room_it_holds_but_leaves_no_instance_idle() {
    let mut policy = policy(weights(&[(0, "in_flight_over_least", -1.0)], -1.0));
    let mut cluster = Cluster::new(policy.needs(), 2);
    let keys = [(); 3].map(|()| cluster.dispatch(&mut policy, request(16, 100), 0));
    for _ in 0..2 {
        cluster.wait(&mut policy, request(16, 100));
    }
    assert_eq!(cluster.decide(&mut policy, at(0.1)).0, Some(1));
    assert_eq!(cluster.decide(&mut policy, at(0.1)), (None, None));
    for key in keys {
        cluster.finish(&mut policy, key);
    }
    assert_eq!(cluster.decide(&mut policy, at(0.2)).0, Some(0));
}

#[test]
fn a_request_that_must_go_goes_without_room() {
    let mut policy = policy(weights(&[(0, "work_over_least", -1.0)], -1.0));
    let mut cluster = Cluster::new(policy.needs(), 2);
    cluster.dispatch(&mut policy, request(16, 100), 0);
    assert_eq!([(); 3].map(|()| cluster.route(&mut policy, request(16, 200))), [1, 0, 1]);
}

#[test]
fn the_longest_waiting_are_looked_at_however_large_they_are() {
    let mut policy = policy(weights(&[(0, "seniority", 1.0)], 1.0));
    let mut cluster = Cluster::new(policy.needs(), 1);
    cluster.wait(&mut policy, request(700, 700));
    for number in 1..20 {
        cluster.wait(&mut policy, crate::Request { arrival: at(f64::from(number)), ..request(16, 16) });
    }
    cluster.decide(&mut policy, at(30.0));
    assert_eq!(cluster.last_prompt_tokens(), 700);
}

#[test]
fn the_shipped_weights_fill_the_cluster_and_then_hold() {
    let mut policy = policy(GuidedOptions::default());
    let mut cluster = Cluster::new(policy.needs(), 2);
    let prompt = 16 * BLOCKS / 4;
    for _ in 0..20 {
        cluster.wait(&mut policy, request(prompt, 100));
    }
    let sent = std::iter::from_fn(|| cluster.decide(&mut policy, at(0.1)).0).count();
    assert!((4..=6).contains(&sent), "{sent} of a quarter of a KV cache each");
    let mut policy = self::policy(GuidedOptions::default());
    let mut cluster = Cluster::new(policy.needs(), 2);
    for _ in 0..4 * SLOTS {
        cluster.wait(&mut policy, request(16, 100));
    }
    let sent = std::iter::from_fn(|| cluster.decide(&mut policy, at(0.1)).0).count();
    assert!((2 * SLOTS as usize..4 * SLOTS as usize).contains(&sent), "{sent} for {SLOTS} slots each");
}

#[test]
fn weights_for_other_features_are_refused() {
    let message = |options| Guided::new(options, 0).err().unwrap().to_string();
    let values = vec![0.0; 2 * COUNT];
    let header = |version, features: &[&str]| json!({ "observation_version": version, "features": features });
    let text = message(file(&values, 0.0, &header(VERSION + 1, &FEATURES)));
    assert!(text.contains(&format!("expected {VERSION}")), "{text}");
    let text = message(file(&values, 0.0, &header(VERSION, &FEATURES[1..])));
    assert!(text.contains(&format!("feature 0 is {}, expected {}", FEATURES[1], FEATURES[0])), "{text}");
    let text = message(file(&values, 0.0, &header(VERSION, &FEATURES[..COUNT - 1])));
    assert!(text.contains("is missing"), "{text}");
    let text = message(file(&values[2..], 0.0, &header(VERSION, &FEATURES)));
    assert!(text.contains(&format!("expected {COUNT} and 2")), "{text}");
    assert!(message(file(&values, 0.0, &json!({}))).contains("missing field"));
    let text = message(GuidedOptions { weights: Some("policy.safetensors".into()) });
    assert!(text.contains("expected a file in base64"), "{text}");
}

#[test]
fn where_events_come_too_late_the_least_work_decides_at_once() {
    let share = |policy: &Guided| policy.figures()[0].1;
    let mut policy = policy(weights(&[], -1.0));
    let mut cluster = Cluster::new(policy.needs(), 2);
    let first = cluster.dispatch(&mut policy, request(16, 100), 0);
    for _ in 0..2 {
        cluster.wait(&mut policy, request(16, 100));
    }
    // An idle instance is not left idle, and then there is no room.
    assert_eq!(cluster.decide(&mut policy, at(0.1)).0, Some(1));
    assert_eq!(cluster.decide(&mut policy, at(0.1)), (None, None));
    assert!(share(&policy) < 1e-9);
    // No first token since, though each was expected at once: a service of 100 steps takes less than a second.
    assert_eq!(cluster.decide(&mut policy, at(9.0)).0, Some(0), "as much work on both");
    assert!(share(&policy) > 0.0);
    cluster.finish(&mut policy, first);
}
