use irouter_core::Picos;
use irouter_core::engine::EngineLoad;
use irouter_core::profile::Scale;
use irouter_sim::simulator::{Delays, RunConfig, Slow};

use crate::live::Host;
use crate::support::{Entry, Shown, config, run, workload};

/// The twins and the engines of every dispatch, by instance.
fn pairs(config: &RunConfig) -> Vec<(Shown, EngineLoad)> {
    let workload = workload(config.measured.end);
    let (host, entries) = Host::run(config, "central_fcfs", &workload);
    let shown = entries.into_iter().filter_map(|entry| match entry {
        Entry::Dispatched { shown, .. } => Some(shown),
        _ => None,
    });
    shown.zip(&host.loads).flat_map(|(shown, loads)| shown.into_iter().zip(loads.clone())).collect()
}

#[test]
fn a_twin_that_hears_at_once_is_the_engine_at_every_decision() {
    let delays = Delays { dispatch: Picos::MILLISECOND, event: Picos::ZERO };
    let pairs = pairs(&RunConfig { delays, ..config(400) });
    assert!(pairs.iter().any(|(_, load)| load.running > 8), "the engines have work");
    for (shown, load) in pairs {
        let (twin, speed) = shown.twin.unwrap();
        // What is on its way to the engine is in neither.
        assert_eq!((twin, speed.to_bits()), (load, 1.0_f64.to_bits()));
    }
}

#[test]
fn a_twin_that_hears_late_stays_within_what_came_since() {
    let pairs = pairs(&config(400));
    let agreeing = |differs: fn(&EngineLoad, &EngineLoad) -> bool| {
        let agree = pairs.iter().filter(|(shown, load)| !differs(&shown.twin.unwrap().0, load)).count();
        agree as f64 / pairs.len() as f64
    };
    assert!(agreeing(|twin, load| twin.running.abs_diff(load.running) > 1) > 0.99);
    assert!(
        agreeing(|twin, load| twin.used_blocks.abs_diff(load.used_blocks) * 10 > load.used_blocks) > 0.95
    );
}

#[test]
fn a_twin_learns_that_engines_are_slower_than_their_profile() {
    let factor = 1.4;
    let slow = |instance| Slow { instance, factor: Scale::new(factor).unwrap(), at: Picos::ZERO, down: None };
    let config = RunConfig { slow: (0..3).map(slow).collect(), ..config(600) };
    let (_, entries) = run(&config, "central_fcfs", &workload(600));
    let speeds = entries.iter().rev().find_map(|entry| match entry {
        Entry::Dispatched { shown, .. } => Some(shown.iter().map(|shown| shown.twin.unwrap().1)),
        _ => None,
    });
    for speed in speeds.unwrap() {
        assert!((speed / factor - 1.0).abs() < 0.1, "learned {speed}, true {factor}");
    }
}
