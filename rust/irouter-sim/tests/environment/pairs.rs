//! The observation `pairs` is what `guided` sees: its network, asked from outside, decides what the policy decides.

use irouter_core::network::{Network, Scratch, WeightsFile};
use irouter_core::policy::PolicySpec;
use irouter_core::policy::guided::shipped_weights;
use irouter_core::policy::observation::{CANDIDATES, COUNT, FEATURES};
use irouter_sim::environment::Batch;
use irouter_sim::experiment::{BuiltIn, Experiment, simulate};

use crate::support::{environments, episode, experiment};

const INSTANCES: usize = 4;
const REQUESTS: usize = 800;

/// The pair of the highest value among those with room, else among those on an idle instance; hold where there is none.
fn as_guided(network: &mut Network, scratch: &mut Scratch, batch: &Batch) -> i64 {
    let slots = FEATURES.iter().position(|&name| name == "slots").unwrap();
    let mut best: [Option<(f32, usize)>; 2] = [None; 2];
    let pairs = batch.observations.chunks_exact(COUNT).zip(&batch.open).enumerate();
    for (index, (pair, _)) in pairs.filter(|(_, (_, open))| **open) {
        let outputs = network.forward(pair, scratch);
        let counts = [outputs[1] > 0.0, pair[slots] == 0.0];
        for (best, counts) in best.iter_mut().zip(counts) {
            if counts && best.is_none_or(|(highest, _)| outputs[0] > highest) {
                *best = Some((outputs[0], index));
            }
        }
    }
    let hold = CANDIDATES * INSTANCES;
    i64::try_from(best.into_iter().flatten().next().map_or(hold, |(_, index)| index)).unwrap()
}

#[test]
fn an_agent_with_the_shipped_weights_does_what_guided_does() {
    let file = WeightsFile::parse(shipped_weights()).unwrap();
    let mut network = Network::new(&file, "network.").unwrap();
    let mut scratch = Scratch::default();
    let mut environment =
        environments(REQUESTS, r#"{"observation": "pairs", "longest_hold_s": 1000.0}"#, 1, 1);
    assert_eq!(environment.observation().names().len(), environment.observation().width());
    let mut holds = 0;
    let transitions = episode(&mut environment, 3, |_, batch| {
        let action = as_guided(&mut network, &mut scratch, batch);
        holds += usize::from(usize::try_from(action) == Ok(CANDIDATES * INSTANCES));
        action
    });
    assert!(transitions.iter().all(|transition| !transition.excluded));
    assert!(holds > 100, "{holds}");
    let lost: f64 = transitions.iter().map(|transition| -transition.reward).sum();
    let guided = Experiment { policies: vec![PolicySpec::named("guided")], ..experiment(REQUESTS, 3) };
    let columns = simulate(&guided, None, &BuiltIn, None).unwrap();
    let column = |name| &columns.seconds.iter().find(|(column, _)| *column == name).unwrap().1;
    let latency: f64 = column("finished_s")
        .iter()
        .zip(column("arrival_s"))
        .map(|(finished, arrival)| finished - arrival)
        .sum();
    assert!((lost / latency - 1.0).abs() < 1e-9, "{lost} {latency}");
}

#[test]
fn pairs_that_there_are_not_are_zeros_and_closed() {
    let batch = environments(60, r#"{"observation": "pairs"}"#, 1, 1).reset(Some(&[3])).unwrap();
    let (first, others) = batch.observations.split_at(INSTANCES * COUNT);
    assert!(first.iter().any(|&number| number != 0.0));
    assert!(others.iter().all(|&number| number == 0.0), "one request waits");
    let (open, closed) = batch.open.split_at(INSTANCES);
    assert!(open.iter().all(|&open| open));
    assert_eq!(closed.iter().filter(|&&open| open).count(), 1, "hold, the last");
}
