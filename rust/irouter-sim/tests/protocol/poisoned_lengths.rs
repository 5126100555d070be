//! No policy, feature or twin sees a true length before it is over: two runs whose requests still in progress at some time
//! will turn out to have other lengths go the same way up to that time.

use irouter_core::Picos;
use irouter_core::policy::{PolicySpec, registry};
use irouter_sim::Workload;
use irouter_sim::metrics::RequestRecords;
use irouter_sim::simulator::RunConfig;
use irouter_sim::workload::WorkloadColumns;

use crate::support::{config, predictions, run, workload};

const REQUESTS: usize = 400;
const LONGEST: u32 = 2000;
/// When the runs may part: a good half of the requests have arrived, the engines are full, and many requests wait.
const MOMENT: Picos = Picos(14_000_000_000_000);

/// Decisions up to the moment: row, time and instance, in order of time.
fn decisions(records: &RequestRecords) -> Vec<(Picos, usize, u32)> {
    let made = (0..records.len()).filter(|&row| records.dispatched[row] <= MOMENT);
    let mut decisions: Vec<_> =
        made.map(|row| (records.dispatched[row], row, records.instance[row])).collect();
    decisions.sort_unstable();
    decisions
}

/// The same requests, of which those that have not finished by the moment have other lengths: those under way are as long as
/// they can be, those not yet begun longer or shorter.
fn poisoned(workload: &Workload, records: &RequestRecords) -> Workload {
    let columns = workload.columns().clone();
    let poison = |(row, tokens): (usize, u32)| {
        if records.finished[row] <= MOMENT {
            tokens
        } else if records.admitted[row] <= MOMENT {
            LONGEST
        } else {
            1 + (tokens * 7 + 500) % LONGEST
        }
    };
    let output_tokens = columns.output_tokens.iter().copied().enumerate().map(poison).collect();
    Workload::new(WorkloadColumns { output_tokens, ..columns }).unwrap()
}

/// Decisions up to the moment with the requests as they are, and with the poisoned ones, under the same predictions.
fn both(config: &RunConfig, spec: &PolicySpec, predictor: &str) -> [Vec<(Picos, usize, u32)>; 2] {
    let columns =
        WorkloadColumns { max_tokens: Some(vec![LONGEST; REQUESTS]), ..workload(REQUESTS).into_columns() };
    let workload = Workload::new(columns).unwrap();
    let told = predictions(predictor, &workload);
    let before = run(config, spec, &workload, told.clone()).records;
    let poisoned = poisoned(&workload, &before);
    let changed = (0..REQUESTS).filter(|&row| poisoned.output_tokens()[row] != workload.output_tokens()[row]);
    assert!(changed.count() > 100, "{}", spec.label());
    let after = run(config, spec, &poisoned, told).records;
    [decisions(&before), decisions(&after)]
}

fn all() -> (Vec<PolicySpec>, Vec<PolicySpec>) {
    let specs = registry().iter().map(|entry| PolicySpec::named(entry.name));
    specs.partition(|spec| spec.build(0).unwrap().needs().truth)
}

#[test]
fn no_policy_decides_by_what_a_running_request_has_yet_to_produce() {
    let (_, policies) = all();
    assert!(policies.len() > 10);
    for spec in &policies {
        for predictor in ["noisy", "history"] {
            let [before, after] = both(&config(REQUESTS), spec, predictor);
            assert!(before.len() > 100, "{}", spec.label());
            assert_eq!(before, after, "{} with {predictor}", spec.label());
        }
    }
}

#[test]
fn stale_reports_and_a_router_that_is_told_late_see_no_more() {
    let (_, policies) = all();
    let mut config = config(REQUESTS);
    config.staleness = Some(Picos::SECOND);
    config.delays.event = Picos::MILLISECOND * 100;
    config.leak_share = 0.05;
    for spec in &policies {
        let [before, after] = both(&config, spec, "noisy");
        assert_eq!(before, after, "{}", spec.label());
    }
}

#[test]
fn the_same_poison_shows_in_the_decisions_of_every_oracle() {
    let (oracles, _) = all();
    assert_eq!(oracles.len(), 2);
    for spec in &oracles {
        let [before, after] = both(&config(REQUESTS), spec, "noisy");
        assert_ne!(before, after, "{}", spec.label());
    }
}
