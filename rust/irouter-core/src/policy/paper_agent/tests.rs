use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::policy::testing::{Cluster, assert_close, at, request};

const INSTANCES: usize = 2;

/// Weights of one layer: an action is worth its bias, and each instance its own free capacity too.
fn weights(biases: [f32; INSTANCES + 1], header: &str) -> String {
    let width = counts::width(INSTANCES);
    let mut weights = vec![0.0_f32; width * (INSTANCES + 1)];
    for instance in 0..INSTANCES {
        weights[instance * width + 3 + 6 * instance + 4] = 1.0;
    }
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (weights, biases) = (bytes(&weights), bytes(&biases));
    let tensors = BTreeMap::from([
        ("network.0.bias", TensorView::new(Dtype::F32, vec![INSTANCES + 1], &biases).unwrap()),
        ("network.0.weight", TensorView::new(Dtype::F32, vec![INSTANCES + 1, width], &weights).unwrap()),
    ]);
    let metadata = [(String::from("irouter"), header.to_owned())].into_iter().collect();
    STANDARD.encode(serialize(tensors, Some(metadata)).unwrap())
}

fn header(instances: usize) -> String {
    let features = counts::names(instances);
    serde_json::json!({ "features": features, "tick_s": 0.5, "more": "for people" }).to_string()
}

fn build(weights: String) -> Result<PaperAgent> {
    PaperAgent::new(PaperAgentOptions { weights }, 0)
}

fn agent(biases: [f32; INSTANCES + 1]) -> PaperAgent {
    build(weights(biases, &header(INSTANCES))).unwrap()
}

#[test]
fn at_each_tick_one_request_goes_where_the_value_is_highest() {
    let mut policy = agent([0.0, 0.0, 0.1]);
    let mut cluster = Cluster::new(policy.needs(), INSTANCES);
    cluster.dispatch(&mut policy, request(1000, 10), 0);
    for _ in 0..2 {
        cluster.wait(&mut policy, request(100, 10));
    }
    assert_eq!(cluster.decide(&mut policy, at(0.2)), (None, Some(at(0.5))), "between ticks it holds");
    assert_eq!(cluster.decide(&mut policy, at(0.5)).0, Some(1), "the freer one");
    assert_eq!(cluster.decide(&mut policy, at(0.5)), (None, Some(at(1.0))), "the tick is used up");
    assert_eq!(cluster.decide(&mut policy, at(1.003)).0, Some(0), "a little late, and both have one");
}

#[test]
fn it_holds_where_hold_is_worth_most_and_goes_to_no_full_batch() {
    let mut policy = agent([0.0, 0.0, 2.0]);
    let mut cluster = Cluster::new(policy.needs(), INSTANCES);
    cluster.wait(&mut policy, request(100, 10));
    assert_eq!(cluster.decide(&mut policy, at(0.5)), (None, Some(at(1.0))));
    let mut eager = agent([9.0, 0.0, -2.0]);
    for _ in 0..crate::policy::testing::SLOTS {
        cluster.dispatch(&mut eager, request(10, 10), 0);
    }
    assert_eq!(cluster.decide(&mut eager, at(1.0)).0, Some(1));
    assert_eq!(cluster.place(&mut policy, &request(10, 10)), 1, "a request that has to go is not held");
}

#[test]
fn counts_are_of_phases_and_buckets() {
    let mut policy = agent([0.0; 3]);
    let mut cluster = Cluster::new(policy.needs(), INSTANCES);
    let lengths = [100, 300, 5000];
    let keys = lengths.map(|tokens| cluster.dispatch(&mut policy, request(1000, tokens), 0));
    cluster.dispatch(&mut policy, request(600, 50), 0);
    for key in keys {
        cluster.progress(key, 64);
    }
    let mut numbers = [0.0; 15];
    counts::encode_request(&cluster.view(), &request(500, 2048), &mut numbers);
    // 4 of 8 slots are free, and more of the cache is spare. The prompt takes 60 ms, and a step 1 ms for each of the three that
    // decode: the 36 tokens that are left of the first are sooner done than that.
    let expected = [1.0, 500.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.11, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    assert_close(
        numbers.map(|number| f64::from((number * 100.0).round())),
        expected.map(|number| number * 100.0),
    );
    assert_eq!(counts::names(INSTANCES).len(), counts::width(INSTANCES));
    assert_eq!((counts::instances(27), counts::instances(3), counts::instances(28)), (Some(4), None, None));
}

#[test]
fn weights_that_are_for_something_else_are_refused_by_name() {
    let refused = |weights: String| build(weights).err().unwrap().to_string();
    assert_eq!(refused("?".into()), "`weights` is text of 1 letters, expected a file of weights in base64");
    let other = refused(weights([0.0; 3], &header(1)));
    assert!(other.contains("they are for the features"), "{other}");
    let mut policy = agent([0.0; 3]);
    let cluster = Cluster::new(policy.needs(), 3);
    let error = cluster.try_place(&mut policy, &request(10, 10)).unwrap_err();
    assert_eq!(error.to_string(), "`instances` is 3, expected 2, which the weights were trained for");
}
