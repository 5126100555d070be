use std::collections::BTreeMap;
use std::sync::Arc;

use irouter_core::policy::PolicySpec;
use irouter_core::{InstanceId, Picos};
use irouter_sim::metrics::{Outcome, RequestRecords};
use irouter_sim::simulator::{Aborts, Crash, RunConfig, Simulator};

use crate::support::{Entry, Shown, config, predictions, run, workload, workload_and_a_straggler};

const REQUESTS: usize = 500;
/// Policies that read nothing, counts, progress and twins.
const POLICIES: [&str; 4] = ["round_robin", "least_requests", "least_work", "central_shortest"];

/// A run with one more request when all others are long over, and what the policy was shown then.
fn disturbed(config: &RunConfig, policy: &str) -> (RequestRecords, Vec<Entry>, Vec<Shown>) {
    let workload = workload_and_a_straggler(REQUESTS);
    let (output, entries) = run(config, policy, &workload);
    let last = entries.iter().rev().find_map(|entry| match entry {
        Entry::Dispatched { request, shown, .. } if *request == REQUESTS as u64 => Some(shown.clone()),
        _ => None,
    });
    (output.records, entries, last.unwrap())
}

fn trouble() -> RunConfig {
    let crash =
        |instance, at_s, down_s| Crash { instance, at: Picos::SECOND * at_s, down: Picos::SECOND * down_s };
    RunConfig {
        aborts: Some(Aborts { share: 0.2 }),
        crashes: vec![crash(1, 10, 8), crash(0, 25, 5), crash(1, 30, 1)],
        ..config(REQUESTS + 1)
    }
}

fn count(records: &RequestRecords, wanted: Outcome) -> usize {
    records.outcome.iter().filter(|&&outcome| outcome == wanted).count()
}

#[test]
fn every_request_ends_once_and_the_router_is_left_idle() {
    for policy in POLICIES {
        let (records, entries, last) = disturbed(&trouble(), policy);
        let ends = [Outcome::Completed, Outcome::Failed, Outcome::Aborted].map(|end| count(&records, end));
        assert_eq!(ends.iter().sum::<usize>(), REQUESTS + 1, "{policy}: {ends:?}");
        assert!(ends.iter().all(|&end| end > 5), "{policy}: {ends:?}");
        let (mut dispatched, mut released) = (BTreeMap::new(), BTreeMap::new());
        for entry in &entries {
            match entry {
                Entry::Dispatched { request, .. } => *dispatched.entry(*request).or_insert(0) += 1,
                Entry::Released { request, .. } => *released.entry(*request).or_insert(0) += 1,
                Entry::Started { .. } => {}
            }
        }
        dispatched.remove(&(REQUESTS as u64));
        released.remove(&(REQUESTS as u64));
        assert_eq!(dispatched, released, "{policy}");
        assert!(dispatched.values().all(|&times| times == 1), "{policy}");
        // Who reads nothing is told of the last ends only with the next requests.
        for shown in last.iter().filter(|_| policy != "round_robin") {
            let idle = (shown.in_flight, shown.awaiting_first_token, shown.prompt_tokens);
            assert_eq!((idle, shown.produced_tokens), ((0, 0, 0), 0), "{policy}");
            assert_eq!(shown.remaining_output_tokens.to_bits(), 0, "{policy}");
            let held = shown.twin.map_or(0, |(load, _)| load.waiting + load.running + load.used_blocks);
            assert_eq!(held, 0, "{policy}");
        }
    }
}

#[test]
fn an_instance_that_broke_gets_nothing_until_it_is_back_and_then_serves_again() {
    let config = RunConfig { aborts: None, crashes: vec![trouble().crashes[0]], ..trouble() };
    let crash = config.crashes[0];
    let (known, back) = (crash.at + config.delays.event, crash.at + crash.down);
    for policy in POLICIES {
        let (records, _, last) = disturbed(&config, policy);
        let on = |row: &usize| InstanceId(records.instance[*row]) == InstanceId(crash.instance);
        let rows: Vec<usize> = (0..records.len()).filter(on).collect();
        assert!(!rows.iter().any(|&row| (known..back).contains(&records.dispatched[row])), "{policy}");
        let failed = |row: &usize| records.outcome[*row] == Outcome::Failed;
        assert!((0..records.len()).filter(failed).all(|row| rows.contains(&row)), "{policy}");
        assert!(
            rows.iter().filter(|&row| failed(row)).all(|&row| records.dispatched[row] < known),
            "{policy}"
        );
        assert!(rows.iter().any(failed), "{policy}");
        let again = |row: &&usize| records.dispatched[**row] >= back && !failed(row);
        assert!(rows.iter().filter(again).count() > 20, "{policy}");
        assert_eq!(last.iter().map(|shown| shown.generation).collect::<Vec<_>>(), [0, 1, 0], "{policy}");
    }
}

#[test]
fn an_instance_that_is_away_cannot_break_again() {
    let crash = |instance, at_s, down_s| {
        let (at, down) = (Picos::SECOND * at_s, Picos::SECOND * down_s);
        Crash { instance, at, down }
    };
    let workload = Arc::new(workload(1));
    let error = |crashes: Vec<Crash>| {
        let config = RunConfig { crashes, ..config(1) };
        let policy = PolicySpec::named("round_robin").build(1).unwrap();
        Simulator::new(config, policy, Arc::clone(&workload), predictions(&workload))
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(error(vec![crash(1, 19, 1), crash(1, 10, 8), crash(0, 12, 8)]), None);
    for second in [crash(1, 10, 1), crash(1, 12, 20), crash(1, 18, 1)] {
        let error = error(vec![second, crash(0, 5, 1), crash(1, 10, 8)]).unwrap();
        let named = format!("`crashes` is at {} on instance 1, expected a time after", second.at);
        assert!(error.contains(&named), "{error}");
    }
    // Until the router knows of a short crash, one event delay after it, the instance is not back.
    let short = Crash { down: Picos(1), ..crash(1, 10, 1) };
    let delay = config(1).delays.event;
    assert!(error(vec![short, Crash { at: short.at + delay, ..short }]).is_some());
    assert_eq!(error(vec![short, Crash { at: short.at + delay + Picos(1), ..short }]), None);
}

#[test]
fn what_leaks_stays_at_the_router_and_nothing_else_does() {
    let in_flight = |share, policy| {
        let config = RunConfig { leak_share: share, ..config(REQUESTS + 1) };
        let (records, _, last) = disturbed(&config, policy);
        assert_eq!(count(&records, Outcome::Completed), REQUESTS + 1, "{policy}");
        last.iter().map(|shown| shown.in_flight as usize).sum::<usize>()
    };
    for policy in ["power_of_two", "least_requests", "least_work"] {
        assert_eq!(in_flight(1.0, policy), REQUESTS);
        // Within four standard deviations of 500 draws.
        assert!(in_flight(0.1, policy).abs_diff(50) < 27, "{policy}");
        assert_eq!(
            in_flight(0.1, policy),
            in_flight(0.1, "decode_balancer"),
            "{policy}: the same for every policy"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_records() {
    for policy in POLICIES {
        let config = RunConfig { leak_share: 0.01, ..trouble() };
        assert_eq!(disturbed(&config, policy).0, disturbed(&config, policy).0, "{policy}");
        let other = RunConfig { seed: 4, ..config.clone() };
        assert_ne!(disturbed(&config, policy).0, disturbed(&other, policy).0, "{policy}");
    }
}
