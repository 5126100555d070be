use irouter_core::engine::EngineConfig;
use irouter_core::impact::Linear;
use irouter_core::time::Picos;
use irouter_sim::environment::Batch;
use irouter_sim::experiment::{BuiltIn, simulate};
use irouter_sim::metrics::unloaded;

use crate::support::{HOLD, environments, episode, experiment, in_turn};

/// So few that no instance runs out of spare capacity when they are taken in turn.
const REQUESTS: usize = 120;

/// What `round_robin` costs in the simulation of a seed: the sum of the latencies, and that of the reward `paper`.
fn round_robin_costs(requests: usize, seed: u64) -> [f64; 2] {
    let experiment = experiment(requests, seed);
    let engine = EngineConfig::new(&experiment.profile).unwrap();
    let columns = simulate(&experiment, None, &BuiltIn, None).unwrap();
    let seconds = |name| &columns.seconds.iter().find(|(column, _)| *column == name).unwrap().1;
    let tokens = |name| &columns.counts.iter().find(|(column, _)| *column == name).unwrap().1;
    (0..requests).fold([0.0; 2], |[latencies, cost], row| {
        let since = |name| seconds(name)[row] - seconds("arrival_s")[row];
        let (ttft, e2e) = (since("first_token_s"), since("finished_s"));
        let (input, output) = (tokens("input_tokens")[row], tokens("output_tokens")[row]);
        let alone = unloaded(&engine, input, output, Picos::MILLISECOND).e2e.as_seconds();
        [latencies + e2e, cost + alone * 0.5 * (ttft + e2e)]
    })
}

/// Sum of the seconds that the requests of a seed take alone.
fn alone_s(seed: u64) -> f64 {
    let experiment = experiment(REQUESTS, seed);
    let engine = EngineConfig::new(&experiment.profile).unwrap();
    let columns = simulate(&experiment, None, &BuiltIn, None).unwrap();
    let tokens = |name| &columns.counts.iter().find(|(column, _)| *column == name).unwrap().1;
    let each = tokens("input_tokens").iter().zip(tokens("output_tokens"));
    each.map(|(&input, &output)| unloaded(&engine, input, output, Picos::MILLISECOND).e2e.as_seconds()).sum()
}

#[test]
fn an_agent_that_takes_turns_loses_the_latencies_of_round_robin() {
    let mut environment = environments(REQUESTS, r#"{"reward": "requests_in_system"}"#, 1, 1);
    for seed in [3, 4] {
        let transitions = episode(&mut environment, seed, |step, _| in_turn(step));
        assert_eq!(transitions.len(), REQUESTS, "one decision for each request, and none is excluded");
        assert!(transitions.iter().all(|transition| !transition.excluded));
        let lost: f64 = transitions.iter().map(|transition| -transition.reward).sum();
        let [latency, _] = round_robin_costs(REQUESTS, seed);
        assert!((lost / latency - 1.0).abs() < 1e-9, "{lost} {latency}");
    }
}

#[test]
fn the_papers_reward_counts_completions_and_unfinished_shares_whenever_decisions_are_taken() {
    let mut environment = environments(REQUESTS, r#"{"reward": "paper"}"#, 1, 1);
    let transitions = episode(&mut environment, 3, |step, _| in_turn(step));
    let sum = |term: usize| transitions.iter().map(|transition| transition.terms[term]).sum::<f64>();
    assert!((sum(1) - 60.0 * REQUESTS as f64).abs() < 1e-9);
    // After the last arrival nothing is to be decided: the step that empties the cluster costs what it takes all the same.
    let [_, cost] = round_robin_costs(REQUESTS, 3);
    assert!((-sum(0) / cost - 1.0).abs() < 1e-6, "{} {cost}", sum(0));
}

#[test]
fn progress_adds_up_to_the_times_alone_and_its_integral_is_what_the_papers_reward_saves() {
    let run = |reward: &str, choose: fn(usize) -> i64| {
        let spec = format!(r#"{{"reward": "{reward}", "tick_s": 0.02}}"#);
        episode(&mut environments(REQUESTS, &spec, 1, 1), 3, |step, _| choose(step))
    };
    let policies: [fn(usize) -> i64; 2] = [in_turn, |step| in_turn(step) / 2];
    let [four, two] = policies.map(|choose| {
        let progress = run("paper_progress", choose);
        let all: f64 = progress.iter().map(|step| step.terms[0]).sum();
        assert!((all / alone_s(3) - 1.0).abs() < 1e-9, "whoever decides, everything gets done: {all}");
        // Both have the same ticks, but for the long one at the end in which all that is left gets done.
        let mut finished = 0.0;
        let by_progress: f64 = progress[..REQUESTS - 1]
            .iter()
            .map(|step| {
                finished += step.terms[0];
                (finished - 0.5 * step.terms[0]) * step.elapsed_s
            })
            .sum();
        let by_cost: f64 = run("paper", choose)[..REQUESTS - 1].iter().map(|step| step.terms[0]).sum();
        [by_progress, by_cost]
    });
    let [by_progress, by_cost] = [four[0] - two[0], four[1] - two[1]];
    assert!(by_cost > 0.0, "four instances are better than two: {by_cost}");
    assert!((by_progress / by_cost - 1.0).abs() < 0.1, "{by_progress} {by_cost}");
}

#[test]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an agent is shown whole numbers as floats"
)]
fn the_least_mixing_impact_is_paid_more_than_taking_turns_and_is_sooner_done() {
    let requests = 2000;
    let mut experiment = experiment(requests, 3);
    experiment.profile.kv.blocks = 575;
    let engine = EngineConfig::new(&experiment.profile).unwrap();
    let linear = Linear::new(&engine);
    let capacity = f64::from(engine.kv.blocks * engine.kv.block_tokens);
    let expected_output = [100.0, 500.0, 3000.0];
    let choose = |_: usize, batch: &Batch| {
        let (queue, instances) = batch.observations.split_at(3);
        let mixing = |counts: &[f32]| {
            let residents = counts[..4].iter().sum::<f32>();
            let context = (1.0 - f64::from(counts[4])) * capacity;
            linear
                .penalties(residents as u32, context, queue[1] as u32, 0, expected_output[queue[2] as usize])
                .mixing
        };
        let open = instances.chunks_exact(6).zip(&batch.open).zip(0..).filter(|((_, open), _)| **open);
        let best = open.max_by(|((one, _), _), ((other, _), _)| mixing(one).total_cmp(&mixing(other)));
        best.map_or(HOLD, |(_, instance)| instance)
    };
    let run = |reward: &str| {
        let spec = format!(r#"{{"reward": "{reward}", "tick_s": 0.02}}"#);
        let transitions = episode(&mut environments(requests, &spec, 1, 1), 3, choose);
        -transitions.iter().map(|transition| transition.terms[0]).sum::<f64>()
    };
    let [latencies, cost] = round_robin_costs(requests, 3);
    let (own_latencies, own_cost) = (run("requests_in_system"), run("paper"));
    assert!(own_latencies < 0.97 * latencies, "{own_latencies} {latencies}");
    assert!(own_cost < 0.97 * cost, "{own_cost} {cost}");
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
    assert!(gaps.iter().any(|&gap| gap < -0.01), "everything on one instance is worse than elsewhere");
}
