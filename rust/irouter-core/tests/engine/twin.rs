//! What a router relies on when it keeps an engine as a twin.

use std::collections::BTreeMap;
use std::sync::Arc;

use irouter_core::engine::{EngineLoad, Executor, FastForward, JobSlot, NoObserver};
use irouter_core::profile::{Scale, SchedulerMode};
use irouter_core::time::Picos;
use proptest::prelude::*;

use crate::agreement::{Call, calls, profiles};
use crate::support::{Recorder, Told, config, job, millis, profile};

fn twin() -> FastForward {
    FastForward::twin(config(&profile(SchedulerMode::VllmV1)))
}

#[test]
fn a_twin_keeps_a_request_at_its_length_until_it_is_removed() {
    let mut twin = twin();
    let mut recorder = Recorder::default();
    let slot = twin.submit(Picos::ZERO, job(0, 10, 4)).unwrap();
    twin.advance(millis(500), &mut recorder).unwrap();
    assert_eq!((twin.produced(slot), recorder.finish(0)), (4, None));
    assert_eq!((twin.load().running, twin.load().used_blocks), (1, 4));
    assert_eq!(twin.next_event(), None, "nothing to compute");
    twin.remove(slot);
    assert!(twin.is_idle());
    assert_eq!((twin.load(), twin.requests()), (EngineLoad::default(), 0));
}

#[test]
fn a_waiting_or_prefilling_request_that_has_tokens_decodes_at_once() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.scheduler.max_num_seqs = 1;
    let mut twin = FastForward::twin(config(&profile));
    let prefilling = twin.submit(Picos::ZERO, job(0, 40, 30)).unwrap();
    let waiting = twin.submit(Picos::ZERO, job(1, 10, 30)).unwrap();
    let arriving = twin.submit(millis(39), job(2, 6, 30)).unwrap();
    twin.advance(millis(38), &mut NoObserver).unwrap();
    twin.correct(waiting, 0);
    assert_eq!(twin.load().queued_prefill_tokens, 8 + 10, "no token is no news");
    for (slot, produced) in [(waiting, 3), (prefilling, 2), (arriving, 1)] {
        twin.correct(slot, produced);
        assert_eq!(twin.produced(slot), produced);
    }
    let load = twin.load();
    assert_eq!((load.waiting, load.running, load.queued_prefill_tokens), (0, 3, 0));
    assert_eq!(load.decode_context_tokens, 42 + 13 + 7);
    assert_eq!(load.used_blocks, 11 + 3 + 2);
    twin.advance(millis(200), &mut NoObserver).unwrap();
    assert_eq!(twin.produced(prefilling) - 2, twin.produced(waiting) - 3);
}

#[test]
fn a_decoding_request_is_moved_forward_and_back() {
    let mut twin = twin();
    let slot = twin.submit(Picos::ZERO, job(0, 10, 100)).unwrap();
    twin.advance(millis(100), &mut NoObserver).unwrap();
    for produced in [50, 3, 0, 120] {
        twin.correct(slot, produced);
        assert_eq!(twin.produced(slot), produced);
        assert_eq!(twin.load().used_blocks, (10 + produced - 1).div_ceil(4));
    }
    twin.remove(slot);
    assert_eq!(twin.load(), EngineLoad::default());
}

#[test]
fn a_twin_short_of_blocks_preempts_the_newest_and_recovers() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.blocks = 12;
    let mut twin = FastForward::twin(config(&profile));
    let old = twin.submit(Picos::ZERO, job(0, 10, 30)).unwrap();
    let new = twin.submit(Picos::ZERO, job(1, 10, 30)).unwrap();
    twin.advance(millis(30), &mut NoObserver).unwrap();
    twin.correct(new, 25);
    twin.correct(old, 25);
    assert_eq!(twin.load().used_blocks, 18);
    let mut recorder = Recorder::default();
    twin.advance(millis(60), &mut recorder).unwrap();
    assert_eq!(recorder.count(|told| matches!(told, Told::Preempted { tag: 1, .. })), 1);
    assert!(twin.load().used_blocks <= 12);
    twin.remove(old);
    twin.advance(millis(200), &mut NoObserver).unwrap();
    assert_eq!((twin.load().running, twin.load().waiting), (1, 0));
    assert!(twin.produced(new) > 25);
}

#[test]
fn a_cleared_twin_starts_anew_at_its_clock() {
    let mut twin = twin();
    twin.set_speed(Scale::new(2.0).unwrap());
    twin.submit(Picos::ZERO, job(0, 10, 30)).unwrap();
    twin.advance(millis(70), &mut NoObserver).unwrap();
    twin.clear();
    assert!(twin.is_idle() && twin.load() == EngineLoad::default());
    assert_eq!(twin.clock(), millis(70));
    let slot = twin.submit(millis(70), job(0, 10, 30)).unwrap();
    twin.advance(millis(99), &mut NoObserver).unwrap();
    assert_eq!(twin.produced(slot), 0);
    twin.advance(millis(100), &mut NoObserver).unwrap();
    assert_eq!(twin.produced(slot), 1, "15 ms at half the speed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The twin does not know the lengths; told of each finish when it happens, it is the engine. And from any moment on
    /// its forecast with the true lengths is the future.
    #[test]
    fn a_twin_that_is_told_of_finishes_is_the_engine(profile in profiles(), calls in calls()) {
        let config = config(&profile);
        let mut engine = FastForward::new(Arc::clone(&config), None);
        let mut twin = FastForward::twin(Arc::clone(&config));
        let capacity = config.longest_request();
        let mut slots: BTreeMap<u64, (JobSlot, JobSlot, u32)> = BTreeMap::new();
        for (at, call) in calls {
            if let Call::Submit(job) = call {
                let Ok(slot) = engine.submit(at, job.clone()) else { continue };
                let (tag, output) = (job.tag, job.output_tokens);
                let open = irouter_core::engine::Job { output_tokens: capacity - job.prompt_tokens, ..job };
                slots.insert(tag, (slot, twin.submit(at, open).unwrap(), output));
            }
        }
        let mut recorder = Recorder::default();
        let mut forecast: Option<(FastForward, Recorder)> = None;
        for step in 0.. {
            let Some(next) = engine.next_event() else { break };
            let before = recorder.finishes().count();
            engine.advance(next, &mut recorder).unwrap();
            twin.advance(next, &mut NoObserver).unwrap();
            for (tag, at) in recorder.finishes().skip(before) {
                prop_assert_eq!(at, next);
                twin.remove(slots[&tag].1);
                slots.remove(&tag);
            }
            prop_assert_eq!(engine.load(), twin.load());
            for (slot, mirror, _) in slots.values() {
                prop_assert_eq!(engine.produced(*slot), twin.produced(*mirror));
            }
            if step == 20 {
                let mut ahead = twin.forecast();
                for (_, mirror, output) in slots.values() {
                    ahead.set_output_tokens(*mirror, *output);
                }
                let mut told = Recorder::default();
                ahead.advance(Picos::SECOND * 1_000_000, &mut told).unwrap();
                forecast = Some((ahead, told));
            }
        }
        prop_assert!(twin.is_idle());
        if let Some((ahead, told)) = forecast {
            prop_assert!(ahead.is_idle());
            let all: Vec<_> = recorder.finishes().collect();
            let foreseen: Vec<_> = told.finishes().collect();
            prop_assert_eq!(&all[all.len() - foreseen.len()..], &foreseen[..]);
        }
    }

    /// Whatever a router says of its requests, nothing is lost and nothing hangs.
    #[test]
    fn any_corrections_leave_an_empty_twin_empty(
        mut profile in profiles(),
        calls in calls(),
        hints in prop::collection::vec((0_usize..8, 0_u32..4, 0_u32..60), 70),
    ) {
        // More requests decoding than the token budget has no meaning: the real engine could not run them either.
        profile.scheduler.max_num_batched_tokens = profile.scheduler.max_num_batched_tokens.max(128);
        let mut twin = FastForward::twin(config(&profile));
        let mut slots: Vec<JobSlot> = Vec::new();
        for ((at, call), (back, action, tokens)) in calls.into_iter().zip(hints) {
            if let Call::Submit(job) = call {
                slots.extend(twin.submit(at, job));
            } else {
                twin.advance(at, &mut NoObserver).unwrap();
            }
            if slots.is_empty() {
                continue;
            }
            let position = slots.len() - 1 - back.min(slots.len() - 1);
            let slot = slots[position];
            match action {
                0 => {
                    twin.correct(slot, tokens);
                    // The longest prompt leaves room for 31 tokens in the smallest cache.
                    if tokens > 0 {
                        prop_assert_eq!(twin.produced(slot).min(31), tokens.min(31));
                    }
                }
                1 => {
                    twin.remove(slot);
                    slots.remove(position);
                }
                2 => twin.set_output_tokens(slot, tokens),
                _ => {}
            }
            prop_assert_eq!(twin.requests(), slots.len());
        }
        let mut ahead = twin.forecast();
        ahead.advance(Picos::SECOND * 2_000, &mut NoObserver).unwrap();
        let stuck = ahead.load();
        prop_assert_eq!(stuck.running, 0);
        for slot in slots {
            twin.remove(slot);
        }
        prop_assert!(twin.is_idle());
        prop_assert_eq!(twin.load(), EngineLoad::default());
    }
}
