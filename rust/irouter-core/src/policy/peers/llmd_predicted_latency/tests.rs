//! Decisions of `llmd_predicted_latency` on a small cluster.

use crate::event::EngineReport;
use crate::policy::testing::{Cluster, request, with_blocks};

use super::*;

/// Trains after 40 completions, on what a few trees can learn.
const QUICK: fn() -> LlmdPredictedLatencyOptions =
    || LlmdPredictedLatencyOptions { first_training: 40, rounds: 60, ..Default::default() };

fn policy(options: LlmdPredictedLatencyOptions) -> LlmdPredictedLatency {
    LlmdPredictedLatency::new(options, 3).unwrap()
}

fn figure(policy: &LlmdPredictedLatency, name: &str) -> Option<f64> {
    policy.figures().into_iter().find(|(other, _)| *other == name).map(|(_, value)| value)
}

/// Where a hundred requests would go, by instance.
fn choices<const INSTANCES: usize>(
    cluster: &Cluster,
    policy: &mut LlmdPredictedLatency,
    request: &Request,
) -> [u32; INSTANCES] {
    let mut counts = [0; INSTANCES];
    (0..100).for_each(|_| counts[cluster.place(policy, request) as usize] += 1);
    counts
}

/// A cluster whose instance 0 holds one request and gives first tokens after 0.1 s, and whose instance 1 holds five and
/// takes 2 s, seen by the policy over `completions` requests.
fn taught(policy: &mut LlmdPredictedLatency, completions: u32) -> Cluster {
    let mut cluster = Cluster::new(policy.needs(), 2);
    for instance in [0, 1, 1, 1, 1, 1] {
        cluster.dispatch(policy, request(10, 10), instance);
    }
    let mut now = 0.0;
    for _ in 0..completions {
        let instance = cluster.place(policy, &request(100, 11));
        let key = cluster.dispatch(policy, request(100, 11), instance);
        now += if instance == 0 { 0.1 } else { 2.0 };
        cluster.set_now(now);
        cluster.first_token(policy, key);
        now += 0.1;
        cluster.set_now(now);
        cluster.progress(key, 11);
        cluster.finish(policy, key);
    }
    cluster
}

#[test]
fn it_learns_which_instance_is_slow() {
    let mut policy = policy(QUICK());
    let cluster = taught(&mut policy, 39);
    let untrained: [u32; 2] = choices(&cluster, &mut policy, &request(100, 11));
    assert!(untrained.iter().all(|&count| count > 30), "nothing is known yet: {untrained:?}");
    let mut policy = self::policy(QUICK());
    let cluster = taught(&mut policy, 80);
    let [fast, slow] = choices(&cluster, &mut policy, &request(100, 11));
    assert!(fast > 90, "{fast} and {slow}");
    assert_eq!(figure(&policy, "decisions_before_model"), Some(46.0), "the six residents are decisions too");
    assert_eq!(figure(&policy, "trainings"), Some(1.0));
    assert!(figure(&policy, "ttft_mape_percent").unwrap() < 1.0);
    assert!((figure(&policy, "decisions_by_model_percent").unwrap() - 100.0 * 40.0 / 86.0).abs() < 1e-9);
}

#[test]
fn what_fails_or_was_placed_by_another_teaches_nothing() {
    let mut policy = policy(LlmdPredictedLatencyOptions { first_training: 10, ..QUICK() });
    let mut cluster = Cluster::new(policy.needs(), 1);
    for number in 0..40 {
        if number % 2 == 0 {
            cluster.place(&mut policy, &Request { id: 1, ..request(100, 11) });
        }
        let key = cluster.dispatch(&mut policy, request(100, 11), 0);
        cluster.set_now(f64::from(number) + 1.0);
        cluster.first_token(&mut policy, key);
        cluster.finish(&mut policy, key);
    }
    assert_eq!((figure(&policy, "trainings"), policy.in_flight.len()), (Some(0.0), 0));
    let failed = request(100, 11);
    cluster.place(&mut policy, &failed);
    cluster.dispatch(&mut policy, failed.clone(), 0);
    assert_eq!(policy.in_flight.len(), 1);
    policy.released(&failed, InstanceId(0), End { at: Picos::SECOND, tokens: 5, completed: false });
    assert_eq!(policy.in_flight.len(), 0);
}

#[test]
fn instances_that_meet_the_slo_are_preferred_and_the_others_explored() {
    for (exploration, expected) in [(0.0, [100, 0]), (1.0, [0, 100])] {
        let options = LlmdPredictedLatencyOptions {
            ttft_slo_seconds: 1.0,
            tpot_slo_seconds: 1.0,
            exploration,
            ..QUICK()
        };
        let mut policy = policy(options);
        let cluster = taught(&mut policy, 60);
        assert_eq!(choices::<2>(&cluster, &mut policy, &request(100, 11)), expected);
    }
}

#[test]
fn before_the_first_training_a_full_engine_with_the_longest_queue_gets_nothing() {
    let mut policy = policy(LlmdPredictedLatencyOptions::default());
    let mut cluster = Cluster::new(policy.needs(), 2);
    cluster.report(1, EngineReport { waiting: 3, kv_usage: 1.0, ..Default::default() });
    assert_eq!(choices::<2>(&cluster, &mut policy, &request(10, 10)), [100, 0]);
    cluster.report(1, EngineReport::default());
    let even: [u32; 2] = choices(&cluster, &mut policy, &request(10, 10));
    assert!(even.iter().all(|&count| count > 30), "{even:?}");
}

#[test]
fn a_cached_prompt_is_sticky_until_its_instance_is_behind_by_more_than_the_penalty() {
    for (ttft_source, behind) in
        [(TtftSource::PrefillThroughput, [100, 0]), (TtftSource::Predicted, [50, 50])]
    {
        let options = LlmdPredictedLatencyOptions {
            max_ttft_penalty_seconds: 1.0,
            peak_prefill_tokens_per_second: 1000.0,
            ttft_source,
            ..Default::default()
        };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(160, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 0);
        cluster.finish(&mut policy, first);
        cluster.dispatch(&mut policy, request(1000, 10), 0);
        let [sticky, other]: [u32; 2] = choices(&cluster, &mut policy, &turn);
        // Without a model there is no predicted TTFT, and nothing is filtered.
        assert!(sticky.abs_diff(behind[0]) < 25 && other.abs_diff(behind[1]) < 25, "{sticky} and {other}");
        cluster.dispatch(&mut policy, request(1, 10), 0);
        let [sticky, other]: [u32; 2] = choices(&cluster, &mut policy, &turn);
        assert!(sticky > 25 && other > 25, "1.001 s behind: {sticky} and {other}");
    }
}

#[test]
fn with_own_events_no_report_is_needed_and_lengths_are_features() {
    let equalised: LlmdPredictedLatencyOptions =
        serde_json::from_str(LlmdPredictedLatency::EQUALISED).unwrap();
    let mut policy = policy(equalised);
    assert_eq!(policy.needs().reports, None);
    let mut cluster = Cluster::new(policy.needs(), 1);
    cluster.dispatch(&mut policy, request(1000, 300), 0);
    let features = Features::new(cluster.instance(0), &request(10, 20), &equalised);
    assert_eq!((features.waiting, features.in_flight, features.prefill_tokens_in_flight), (1, 1, 1000));
    assert!((features.kv_usage - 1000.0 / f64::from(Cluster::CAPACITY_TOKENS)).abs() < 1e-12);
    assert!((features.output_tokens - 20.0).abs() < 0.01);
    assert!((features.remaining_output_tokens - 300.0).abs() < 0.01);
    let as_shipped =
        Features::new(cluster.instance(0), &request(10, 20), &LlmdPredictedLatencyOptions::default());
    assert_eq!((as_shipped.waiting, as_shipped.output_tokens), (0, 0.0));
}

#[test]
fn bad_constants_are_named() {
    let bad = [
        (LlmdPredictedLatencyOptions { ttft_weight: -1.0, ..QUICK() }, "ttft_weight"),
        (LlmdPredictedLatencyOptions { ttft_weight: 0.0, tpot_weight: 0.0, ..QUICK() }, "tpot_weight"),
        (LlmdPredictedLatencyOptions { ttft_slo_seconds: f64::NAN, ..QUICK() }, "ttft_slo_seconds"),
        (LlmdPredictedLatencyOptions { exploration: 1.5, ..QUICK() }, "exploration"),
        (LlmdPredictedLatencyOptions { affinity_threshold: 0.0, ..QUICK() }, "affinity_threshold"),
        (LlmdPredictedLatencyOptions { tier_affinity_threshold: 2.0, ..QUICK() }, "tier_affinity_threshold"),
        (LlmdPredictedLatencyOptions { max_ttft_penalty_seconds: -1.0, ..QUICK() }, "max_ttft_penalty"),
        (LlmdPredictedLatencyOptions { peak_prefill_tokens_per_second: 0.0, ..QUICK() }, "peak_prefill"),
        (LlmdPredictedLatencyOptions { report_seconds: 0.0, ..QUICK() }, "report_seconds"),
        (LlmdPredictedLatencyOptions { first_training: 9, ..QUICK() }, "first_training"),
        (LlmdPredictedLatencyOptions { retraining: 0, ..QUICK() }, "retraining"),
        (LlmdPredictedLatencyOptions { window_samples: 0, ..QUICK() }, "window_samples"),
        (LlmdPredictedLatencyOptions { quantile: 1.0, ..QUICK() }, "quantile"),
        (LlmdPredictedLatencyOptions { rounds: 0, ..QUICK() }, "rounds"),
    ];
    for (options, field) in bad {
        let error = LlmdPredictedLatency::new(options, 0).err().unwrap().to_string();
        assert!(error.contains(field), "{error}");
    }
}
