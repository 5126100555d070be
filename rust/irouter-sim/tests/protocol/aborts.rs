use irouter_core::policy::PolicySpec;
use irouter_sim::metrics::Outcome;
use irouter_sim::simulator::{Aborts, Readings, RunConfig};

use crate::support::{config, predictions, run, workload};

#[test]
fn a_client_may_go_away_between_a_reading_of_the_engines_and_the_next_event() {
    let workload = workload(600);
    let until = workload.arrival()[599];
    // Nothing but readings makes the simulator look at the engines of a policy that counts nothing.
    let readings = Some(Readings { count: 240, until });
    let policy = PolicySpec::named("round_robin");
    let aborted = |readings| {
        let config = RunConfig { aborts: Some(Aborts { share: 0.3 }), readings, ..config(600) };
        run(&config, &policy, &workload, predictions("noisy", &workload)).records
    };
    let records = aborted(readings);
    assert!(records.outcome.iter().filter(|&&outcome| outcome == Outcome::Aborted).count() > 50);
    assert_eq!(records, aborted(None));
}
