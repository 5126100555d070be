use super::*;
use crate::impact::Linear;
use crate::policy::least_work::LeastWork;
use crate::policy::testing::{Cluster, SLOTS, request, with_blocks};
use crate::policy::{Configurable, Needs, NoOptions};

const NEEDS: Needs = Needs {
    counts: true,
    progress: true,
    twin: true,
    prefix: true,
    occupancy: true,
    truth: false,
    reports: None,
};

/// A feature of the only request on an instance.
fn feature(observer: &Observer, name: &str, instance: usize) -> f32 {
    let place = FEATURES.iter().position(|feature| *feature == name).unwrap();
    observer.latest().pairs[instance][place]
}

#[track_caller]
fn assert_features(observer: &Observer, expected: &[(&str, [f32; 2])]) {
    for (name, values) in expected {
        for (instance, value) in values.iter().enumerate() {
            let found = feature(observer, name, instance);
            assert!((found - value).abs() < 1e-3, "{name} on {instance}: {found}, expected {value}");
        }
    }
}

/// Two instances after 4 s, the first with one request of 2,000 prompt tokens that has just gone there.
fn cluster(observer: &mut Observer) -> Cluster {
    let mut cluster = Cluster::new(NEEDS, 2);
    cluster.set_now(4.0);
    let mut policy = LeastWork::new(NoOptions {}, 0).unwrap();
    let resident = with_blocks(2000, 1000, 1);
    observer.dispatched(&resident, InstanceId(0));
    cluster.dispatch(&mut policy, resident, 0);
    cluster
}

#[test]
fn features_are_what_their_names_say() {
    let mut observer = Observer::default();
    let cluster = cluster(&mut observer);
    observer.observe_request(&cluster.view(), &request(1000, 500));
    // A step of eight sequences takes 8 ms: a service of 0.1 s and 4 s, and an effort of 0.1 s and 500 steps of an eighth.
    let service = 4.1;
    let patience = 4.0 / (8.0 * service);
    let due = 8.1 / (8.0 * service);
    let backlog = 0.6 / 2.0;
    let lateness = 4.0 / (backlog + service);
    let in_crowd = 8.1 / (backlog + 8.0 * service);
    // Of the other, 1 s of decoding at the rate of full batches and 0.2 s of prefill: nothing is known of its progress.
    let scale = 0.5 * 1.2 + service;
    assert_features(
        &observer,
        &[
            ("size", [0.0; 2]),
            ("lateness", [lateness; 2]),
            ("lateness_squared", [0.25 * lateness * lateness; 2]),
            ("patience", [patience; 2]),
            ("patience_squared", [0.25 * patience * patience; 2]),
            ("due", [due; 2]),
            ("due_squared", [0.25 * due * due; 2]),
            ("due_at_worst", [due; 2]),
            ("due_in_crowd", [in_crowd; 2]),
            ("due_in_crowd_squared", [0.25 * in_crowd * in_crowd; 2]),
            ("slowdown", [libm::log1pf(4.0 / service); 2]),
            ("start_slowdown", [libm::log1pf(4.0 / 0.1); 2]),
            ("seniority", [1.0; 2]),
            ("spread", [0.0; 2]),
            ("prompt_share", [2.0 / 3.0; 2]),
            ("waiting", [libm::log1pf(0.5); 2]),
            ("backlog", [libm::log1pf(backlog / service); 2]),
            ("longest_patience", [patience; 2]),
            ("overflow", [-6.0; 2]),
            ("overflow_likely", [0.0; 2]),
            ("cache_share", [1500.0 / 16384.0; 2]),
            ("slots", [1.0 / SLOTS as f32, 0.0]),
            ("slots_beyond", [0.0; 2]),
            ("in_flight_over_least", [1.0 / 1.5, 0.0]),
            ("work_over_least", [1.2 / scale, 0.0]),
            ("prefill", [libm::log1pf(2000.0 / 2048.0), 0.0]),
            ("prefill_over_least", [libm::log1pf(2000.0 / 2048.0), 0.0]),
            ("uncached_over_least", [0.0; 2]),
            ("delay", [0.1 / scale, 0.0]),
            ("delay_over_least", [0.1 / scale, 0.0]),
            ("slowness", [0.0; 2]),
        ],
    );
    assert_eq!(observer.latest().idle, [false, true]);
    assert_eq!(observer.latest().fits, [true, true]);
}

#[test]
#[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
fn the_latency_impact_is_in_services_of_the_mean_request() {
    let mut observer = Observer::default();
    let cluster = cluster(&mut observer);
    let own = request(1000, 500);
    observer.observe_request(&cluster.view(), &own);
    let service = 4.1;
    let [there, idle] = [0, 1].map(|number| {
        let instance = cluster.instance(number);
        Linear::new(instance.config()).impact(instance, &own)
    });
    assert!(there.inflicted_seconds > 0.0 && there.e2e_seconds > idle.e2e_seconds);
    let inflicted = there.inflicted_seconds as f32 / service;
    let later = (there.e2e_seconds - idle.e2e_seconds) as f32 / service;
    let start = [there, idle].map(|impact| (4.0 + impact.ttft_seconds as f32) / service);
    assert_features(
        &observer,
        &[
            ("inflicted", [libm::log1pf(inflicted), 0.0]),
            ("inflicted_over_least", [inflicted, 0.0]),
            ("e2e_over_least", [later, 0.0]),
            ("start", start),
            ("start_squared", start.map(|start| 0.125 * start * start)),
        ],
    );
}

#[test]
fn a_prompt_that_the_twin_is_through_with_is_no_backlog_though_no_first_token_was_heard_of() {
    let mut observer = Observer::default();
    let mut cluster = cluster(&mut observer);
    cluster.set_now(6.0);
    observer.observe_request(&cluster.view(), &request(1000, 500));
    assert_eq!(cluster.instance(0).queued_prefill_tokens(), 2000);
    assert_features(&observer, &[("prefill", [0.0; 2]), ("e2e_over_least", [0.0; 2])]);
}

#[test]
fn cached_prefixes_count() {
    let mut observer = Observer::default();
    let cluster = cluster(&mut observer);
    observer.observe_request(&cluster.view(), &with_blocks(2000, 500, 1));
    assert_features(&observer, &[("uncached_over_least", [0.0, 1984.0 / 2000.0])]);
    observer.observe_request(&cluster.view(), &request(16_380, 500));
    assert_eq!(observer.latest().fits, [false, false], "beyond the context");
}

#[test]
fn the_forecast_is_of_who_is_there_now() {
    let mut observer = Observer::default();
    let mut cluster = Cluster::new(NEEDS, 1);
    let mut policy = LeastWork::new(NoOptions {}, 0).unwrap();
    let overflow = |observer: &mut Observer, cluster: &Cluster| {
        observer.observe_request(&cluster.view(), &request(3000, 500));
        feature(observer, "overflow", 0)
    };
    let keys = [(); 2].map(|()| {
        observer.dispatched(&request(5000, 500), InstanceId(0));
        cluster.dispatch(&mut policy, request(5000, 500), 0)
    });
    let two = overflow(&mut observer, &cluster);
    observer.dispatched(&request(2000, 500), InstanceId(0));
    cluster.dispatch(&mut policy, request(2000, 500), 0);
    let three = overflow(&mut observer, &cluster);
    // Of 16,384 tokens about 14,400 and 16,800.
    assert!(two < 0.0 && three > 0.0, "{two} {three}");
    for key in keys {
        observer.released(InstanceId(0));
        cluster.finish(&mut policy, key);
    }
    assert!(overflow(&mut observer, &cluster) < 0.0);
}

#[test]
fn of_many_instances_those_with_the_least_work_are_looked_at() {
    let mut observer = Observer::default();
    let mut cluster = Cluster::new(NEEDS, 20);
    let mut policy = LeastWork::new(NoOptions {}, 0).unwrap();
    for instance in [3, 5, 8, 13] {
        cluster.dispatch(&mut policy, request(100, 100), instance);
    }
    observer.observe_request(&cluster.view(), &request(100, 100));
    let seen: Vec<u32> = observer.latest().instances.iter().map(|instance| instance.0).collect();
    let expected: Vec<u32> = (0..20).filter(|instance| ![3, 5, 8, 13].contains(instance)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn occupancy_is_the_larger_share_of_cache_and_slots() {
    let cluster = Cluster::new(NEEDS, 1);
    let seconds = |prompt, output| cluster.instance(0).rates().occupancy_seconds(&request(prompt, output));
    // An eighth of the slots is 2,048 tokens of cache; a full step takes 8 ms.
    assert!((seconds(1000, 500) - (0.1 + 500.0 * 0.008 / 8.0)).abs() < 1e-4);
    assert!((seconds(4000, 1000) - (0.4 + 1000.0 * 0.008 * 4500.0 / 16384.0)).abs() < 1e-3);
    let turning = 48.0 * 2048.0 + 952.0 * (2048.0 + 476.0);
    assert!((seconds(2000, 1000) - (0.2 + 0.008 * turning / 16384.0)).abs() < 1e-3);
}
