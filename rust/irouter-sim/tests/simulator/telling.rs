use crate::live::Host;
use crate::support::{Entry, config, run, workload};

/// Everything that a policy is told and shown is what a live host, which is told of every 16 tokens of every request as they
/// come, would tell and show it.
#[test]
fn progress_looked_up_before_a_decision_is_progress_told_when_it_came() {
    let workload = workload(400);
    for policy in ["join_shortest_queue", "least_work", "min_min", "central_fcfs", "central_shortest"] {
        let config = config(400);
        let (_, looked_up) = run(&config, policy, &workload);
        let (_, told) = Host::run(&config, policy, &workload);
        // A run of the simulator ends with the last request, a little before the router hears of it.
        assert!(looked_up.len() > 1000, "{policy}");
        for (number, (left, right)) in looked_up.iter().zip(&told).enumerate() {
            assert_eq!(left, right, "{policy}: entry {number}");
        }
        let known = |entry: &Entry| match entry {
            Entry::Dispatched { shown, .. } => shown.iter().map(|shown| shown.produced_tokens).sum(),
            _ => 0,
        };
        assert!(looked_up.iter().map(known).max() > Some(1000), "{policy} was shown progress");
    }
}
