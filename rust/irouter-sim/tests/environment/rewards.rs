use irouter_sim::experiment::{BuiltIn, simulate};

use crate::support::{HOLD, environments, episode, experiment, in_turn};

const REQUESTS: usize = 300;

/// Latency of every request when `round_robin` decides, from the simulation of the same seed.
fn round_robin_latency_s(seed: u64) -> f64 {
    let columns = simulate(&experiment(REQUESTS, seed), None, &BuiltIn, None).unwrap();
    let column = |name| &columns.seconds.iter().find(|(column, _)| *column == name).unwrap().1;
    column("finished_s").iter().zip(column("arrival_s")).map(|(finished, arrival)| finished - arrival).sum()
}

#[test]
fn an_agent_that_takes_turns_loses_the_latencies_of_round_robin() {
    let mut environment = environments(REQUESTS, r#"{"reward": "requests_in_system"}"#, 1, 1);
    for seed in [3, 4] {
        let transitions = episode(&mut environment, seed, |step, _| in_turn(step));
        assert_eq!(transitions.len(), REQUESTS, "one decision for each request, and none is excluded");
        assert!(transitions.iter().all(|transition| !transition.excluded));
        let lost: f64 = transitions.iter().map(|transition| -transition.reward).sum();
        let latency = round_robin_latency_s(seed);
        assert!((lost / latency - 1.0).abs() < 1e-9, "{lost} {latency}");
    }
}

#[test]
fn the_papers_reward_counts_completions_and_unfinished_shares() {
    let mut environment = environments(REQUESTS, r#"{"reward": "paper", "tick_s": 0.02}"#, 1, 1);
    let transitions = episode(&mut environment, 3, |step, _| in_turn(step));
    let completions: f64 = transitions.iter().map(|transition| transition.terms[1]).sum();
    assert!((completions - 60.0 * REQUESTS as f64).abs() < 1e-9);
    assert!(transitions.iter().all(|transition| transition.terms[0] <= 0.0));
    let costs: f64 = transitions.iter().map(|transition| -transition.terms[0]).sum();
    // A request of 5 s alone would cost half of 5 s x 5 s if it were alone; shared engines and queues cost more.
    assert!(costs > 12.5 * REQUESTS as f64 && costs < 1000.0 * REQUESTS as f64, "{costs}");
}

#[test]
fn guidance_is_nothing_for_the_least_impact_and_for_a_hold_and_enters_the_reward_by_its_weight() {
    let mut environment = environments(REQUESTS, r#"{"reward": "paper", "tick_s": 0.02}"#, 1, 1);
    environment.reset(Some(&[3])).unwrap();
    let mut gaps = Vec::new();
    for step in 0..150 {
        let action = if step % 3 == 0 { HOLD } else { 0 };
        let transition = environment.step(&[action], 0.5).unwrap().transitions[0];
        let [cost, completions, gap] = transition.terms;
        assert!((transition.reward - (cost + completions + 0.5 * gap)).abs() < 1e-12);
        assert!(gap <= 0.0 && (action != HOLD || gap == 0.0), "{gap}");
        gaps.push(gap);
    }
    assert!(gaps[1].abs() < 1e-12, "all instances are idle at first: {}", gaps[1]);
    assert!(gaps.iter().any(|&gap| gap < -0.1), "everything on one instance is worse than elsewhere");
}
