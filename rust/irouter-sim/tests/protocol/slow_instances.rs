use std::sync::Arc;

use irouter_core::Picos;
use irouter_core::policy::PolicySpec;
use irouter_core::profile::Scale;
use irouter_sim::Workload;
use irouter_sim::simulator::{RunConfig, Slow};
use irouter_sim::workload::WorkloadColumns;

use crate::support::{config, predictions, run, workload};

/// E2E of a request every 100 s that is alone on its instance; two instances in turn.
fn alone(slow: Vec<Slow>) -> Vec<f64> {
    let workload = Workload::new(WorkloadColumns {
        arrival: (0..6).map(|index| Picos::SECOND * (100 * index)).collect(),
        prompt_tokens: vec![200; 6],
        output_tokens: vec![100; 6],
        ..WorkloadColumns::default()
    })
    .unwrap();
    let config = RunConfig { instances: 2, slow, ..config(6) };
    let records =
        run(&config, &PolicySpec::named("round_robin"), &workload, predictions("none", &workload)).records;
    // Without the way to the engine, which no engine makes slower.
    (0..6).map(|row| (records.finished[row] - records.reached_engine[row]).as_seconds()).collect()
}

fn slow(instance: u32, factor: f64, at_s: i64, down_s: Option<i64>) -> Slow {
    let down = down_s.map(|seconds| Picos::SECOND * seconds);
    Slow { instance, factor: Scale::new(factor).unwrap(), at: Picos::SECOND * at_s, down }
}

fn assert_ratios(slow: Vec<Slow>, expected: [f64; 6]) {
    for ((slowed, usual), expected) in alone(slow).iter().zip(alone(Vec::new())).zip(expected) {
        assert!((slowed / usual - expected).abs() < 1e-4, "{slowed} {usual} {expected}");
    }
}

#[test]
fn a_slow_instance_takes_its_factor_longer_and_the_others_do_not() {
    assert_ratios(vec![slow(1, 2.0, 0, None)], [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn a_slow_period_begins_and_ends_and_factors_multiply() {
    assert_ratios(vec![slow(1, 2.0, 250, Some(100))], [1.0, 1.0, 1.0, 2.0, 1.0, 1.0]);
    assert_ratios(vec![slow(0, 3.0, 0, Some(450)), slow(0, 0.5, 150, None)], [3.0, 1.0, 1.5, 1.0, 1.5, 1.0]);
}

#[test]
fn a_policy_that_counts_requests_sends_less_to_a_slow_instance() {
    let workload = workload(600);
    let config = RunConfig { slow: vec![slow(2, 3.0, 0, None)], ..config(600) };
    let policy = PolicySpec::named("least_requests");
    let records = run(&config, &policy, &workload, predictions("none", &workload)).records;
    let sent = |instance: u32| records.instance.iter().filter(|&&each| each == instance).count();
    assert!(
        [0, 1, 3].into_iter().all(|instance| sent(2) * 3 < sent(instance) * 2),
        "{:?}",
        [0, 1, 2, 3].map(sent)
    );
}

#[test]
fn a_slow_instance_that_is_not_there_is_named() {
    let workload = workload(1);
    let config = RunConfig { slow: vec![slow(4, 2.0, 0, None)], ..config(1) };
    let policy = PolicySpec::named("round_robin").build(0).unwrap();
    let told = predictions("none", &workload);
    let error = irouter_sim::simulator::Simulator::new(config, policy, Arc::new(workload), told);
    let message = error.err().map(|error| error.to_string());
    assert_eq!(message.as_deref(), Some("`slow.instance` is 4, expected an instance from 0 to 3"));
}
