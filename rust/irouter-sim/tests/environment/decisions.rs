use irouter_sim::environment::{Batch, Transition};

use crate::support::{HOLD, environments, episode, in_turn};

#[test]
fn the_same_seeds_give_the_same_bytes_whatever_the_threads() {
    let run = |threads| {
        let mut environments = environments(60, r#"{"tick_s": 0.02}"#, 5, threads);
        let mut batches = vec![environments.reset(Some(&[7, 8, 9, 10, 11])).unwrap()];
        for step in 0..400 {
            let actions: Vec<i64> = (0..5).map(|index| (step * 7 + index) % (HOLD + 1)).collect();
            batches.push(environments.step(&actions, 0.1).unwrap());
        }
        batches
    };
    let alone: Vec<Batch> = run(1);
    assert!(
        alone.iter().any(|batch| batch.transitions[0].terminated),
        "the run covers the end of an episode"
    );
    assert!(alone == run(2) && alone == run(1));
    assert_ne!(alone[0].observations[..27], alone[0].observations[27..54]);
}

#[test]
fn an_episode_that_is_over_is_followed_by_that_of_the_next_seed() {
    let spec = r#"{"max_decisions": 5}"#;
    let mut pair = environments(60, spec, 2, 1);
    pair.reset(Some(&[20, 21])).unwrap();
    for step in 0..5 {
        let last = pair.step(&[0, 0], 0.0).unwrap();
        assert!(last.transitions.iter().all(|ended| ended.truncated == (step == 4) && !ended.terminated));
    }
    let begun = pair.step(&[0, 0], 0.0).unwrap();
    assert!(begun.transitions.iter().all(|transition| *transition == Transition::default()));
    assert_eq!(begun.observations, environments(60, spec, 2, 1).reset(Some(&[22, 23])).unwrap().observations);
}

#[test]
fn with_ticks_one_request_goes_out_at_each() {
    let mut environment = environments(200, r#"{"tick_s": 0.02}"#, 1, 1);
    let transitions = episode(&mut environment, 3, |step, _| in_turn(step));
    assert_eq!(transitions.len(), 200);
    for transition in &transitions[..199] {
        let ticks = transition.elapsed_s / 0.02;
        assert!(ticks > 0.5 && (ticks - ticks.round()).abs() < 1e-6, "{ticks}");
    }
}

#[test]
fn a_hold_lasts_until_an_event_or_its_limit() {
    let mut environment = environments(200, r#"{"longest_hold_s": 0.25}"#, 1, 1);
    environment.reset(Some(&[3])).unwrap();
    // Nothing is in flight: only arrivals end a hold, and its limit.
    for _ in 0..20 {
        let transition = environment.step(&[HOLD], 0.0).unwrap().transitions[0];
        assert!(transition.elapsed_s > 0.0 && transition.elapsed_s <= 0.25 + 1e-9, "{transition:?}");
    }
}

#[test]
fn an_action_that_is_not_open_is_a_hold() {
    // The KV cache of an instance has room for some 50 requests.
    let choose = |_: usize, batch: &Batch| batch.open.iter().zip(0..).find(|(open, _)| **open).unwrap().1;
    let mut environment = environments(400, r#"{"reward": "requests_in_system"}"#, 1, 1);
    let open = episode(&mut environment, 3, choose);
    assert!(open.iter().all(|transition| !transition.excluded));
    let forced = episode(&mut environment, 3, |_, _| 0);
    assert!(forced.iter().any(|transition| transition.excluded));
    let mut excluded = forced.iter().filter(|transition| transition.excluded);
    assert!(excluded.all(|transition| transition.elapsed_s > 0.0), "they wait");
}

#[test]
fn what_an_agent_is_shown_at_first_is_an_idle_cluster_and_the_first_request() {
    let batch = environments(60, "{}", 1, 1).reset(Some(&[3])).unwrap();
    let (queue, instances) = batch.observations.split_at(3);
    assert_eq!((queue[0].to_bits(), queue.len()), (1.0_f32.to_bits(), 3));
    assert!((1.0..=1000.0).contains(&queue[1]) && queue[2] <= 2.0, "{queue:?}");
    assert_eq!(instances, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0].repeat(4));
    assert_eq!(batch.open, [true; 5]);
}

#[test]
fn bad_calls_name_the_value() {
    let mut environment = environments(60, "{}", 1, 1);
    assert_eq!(
        environment.step(&[0], 0.0).unwrap_err().to_string(),
        "`step` is called first, expected a reset before it"
    );
    environment.reset(None).unwrap();
    for (actions, message) in [
        (&[5][..], "`action` is 5, expected a number from 0 to 4, which is hold"),
        (&[-1], "`action` is -1, expected the number of an action"),
        (&[0, 0], "`actions` is 2 long, expected one for each of 1"),
    ] {
        assert_eq!(environment.step(actions, 0.0).unwrap_err().to_string(), message);
    }
}
