use irouter_sim::environment::{Batch, EnvironmentSpec, Transition, VectorEnvironment};
use irouter_sim::experiment::Experiment;

/// The action that holds, with four instances.
pub(crate) const HOLD: i64 = 4;

/// The action of an agent that takes the instances in turn.
pub(crate) fn in_turn(step: usize) -> i64 {
    [0, 1, 2, 3][step % 4]
}

/// The paper's main experiment with so many requests, first seed `seed`.
pub(crate) fn experiment(requests: usize, seed: u64) -> Experiment {
    let profile = include_str!("../../../../python/irouter/profiles/llama-2-7b@v100-paper.json");
    let text = format!(
        r#"{{"name": "paper-main", "instances": 4, "profile": {profile}, "kv_blocks": 575, "rate": 20.0,
        "requests": {requests}, "predictor": "noisy:0.45", "first_seed": {seed}, "policies": ["round_robin"],
        "workload": {{"kind": "generated", "lengths": {{"kind": "paper-five-task"}}}}}}"#
    );
    Experiment::from_json(&text).unwrap()
}

pub(crate) fn environments(requests: usize, spec: &str, count: usize, threads: usize) -> VectorEnvironment {
    let spec = EnvironmentSpec::from_json(spec).unwrap();
    VectorEnvironment::new(&experiment(requests, 0), None, spec, count, threads).unwrap()
}

/// Runs the episode of a seed in one environment: `choose(step, batch)` is the action.
pub(crate) fn episode(
    environment: &mut VectorEnvironment,
    seed: u64,
    mut choose: impl FnMut(usize, &Batch) -> i64,
) -> Vec<Transition> {
    let mut batch = environment.reset(Some(&[seed])).unwrap();
    let mut transitions = Vec::new();
    loop {
        let action = choose(transitions.len(), &batch);
        batch = environment.step(&[action], 0.0).unwrap();
        let transition = batch.transitions[0];
        transitions.push(transition);
        if transition.terminated || transition.truncated {
            return transitions;
        }
    }
}
