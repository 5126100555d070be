//! The rules of the schedulers, on examples worked out by hand, for both executors.
//!
//! A step takes 5 ms, plus 1 ms per prefill token, plus 1 ms per decode. Blocks have 4 tokens.

use std::collections::BTreeMap;

use irouter_core::Error;
use irouter_core::engine::{EngineLoad, Executor, FastForward, Job, Stepwise};
use irouter_core::profile::{Profile, Scale, SchedulerMode};
use irouter_core::time::Picos;

use crate::support::{Recorder, Told, config, job, millis, profile};

/// Runs `jobs`, given with their arrival in milliseconds, to the end. Both executors tell the same.
fn run(profile: &Profile, jobs: &[(i64, Job)]) -> Recorder {
    fn serve(mut engine: impl Executor, jobs: &[(i64, Job)]) -> Recorder {
        let mut recorder = Recorder::default();
        for (at, job) in jobs {
            engine.submit(millis(*at), job.clone()).unwrap();
        }
        engine.advance(Picos::SECOND * 1000, &mut recorder).unwrap();
        assert_eq!(engine.load(), EngineLoad::default());
        recorder
    }
    let fast = serve(FastForward::new(config(profile), None), jobs);
    assert_eq!(serve(Stepwise::new(config(profile), None), jobs).told(), fast.told());
    fast
}

/// Tags and milliseconds.
type Times = Vec<(u64, i64)>;

/// When first tokens and finishes came.
fn tokens(recorder: &Recorder) -> (Times, Times) {
    let (mut first, mut finished) = (Vec::new(), Vec::new());
    for told in recorder.told() {
        match told {
            Told::First { tag, at } => first.push((tag, at.0 / Picos::MILLISECOND.0)),
            Told::Finished { tag, at } => finished.push((tag, at.0 / Picos::MILLISECOND.0)),
            _ => {}
        }
    }
    (first, finished)
}

/// How often each gap, in ms, occurred.
fn gaps(recorder: &Recorder) -> BTreeMap<i64, u64> {
    let mut counts = BTreeMap::new();
    for told in recorder.told() {
        if let Told::Gaps(gaps) = told {
            for (gap, count) in gaps {
                *counts.entry(gap.0 / Picos::MILLISECOND.0).or_default() += count;
            }
        }
    }
    counts
}

fn admissions(recorder: &Recorder) -> Vec<(u64, i64, u32)> {
    let told = recorder.told().into_iter();
    told.filter_map(|told| match told {
        Told::Admitted { tag, at, cached } => Some((tag, at.0 / Picos::MILLISECOND.0, cached)),
        _ => None,
    })
    .collect()
}

fn hashed(tag: u64, prompt_tokens: u32, output_tokens: u32, hashes: &[u64]) -> Job {
    Job { prompt_blocks: Some(hashes.into()), ..job(tag, prompt_tokens, output_tokens) }
}

#[test]
fn vllm_v1_fills_the_budget_with_chunks_behind_running_requests() {
    let jobs = [(0, job(0, 40, 3)), (0, job(1, 10, 2))];
    let recorder = run(&profile(SchedulerMode::VllmV1), &jobs);
    // 32 tokens of the first; then its last 8 and all 10 of the second; then two decodes, then one.
    assert_eq!(tokens(&recorder), (vec![(0, 60), (1, 60)], vec![(1, 67), (0, 73)]));
    assert_eq!(gaps(&recorder), BTreeMap::from([(7, 2), (6, 1)]));
}

#[test]
fn vllm_v0_prefills_whole_inputs_in_steps_of_their_own() {
    let jobs = [(0, job(0, 40, 3)), (0, job(1, 10, 2)), (50, job(2, 5, 1))];
    let recorder = run(&profile(SchedulerMode::VllmV0), &jobs);
    // An input beyond the budget alone, then the second; the third is seen at 60 ms and delays two decodes by 10 ms.
    assert_eq!(tokens(&recorder), (vec![(0, 45), (1, 60), (2, 70)], vec![(2, 70), (1, 77), (0, 83)]));
    assert_eq!(gaps(&recorder), BTreeMap::from([(32, 1), (17, 1), (6, 1)]));
}

#[test]
fn sarathi_reserves_the_whole_input_and_never_delays_a_decode() {
    let mut profile = profile(SchedulerMode::Sarathi);
    profile.scheduler.max_num_batched_tokens = 2;
    let jobs = [(0, job(0, 2, 4)), (7, job(1, 9, 1))];
    let mut engine = FastForward::new(config(&profile), None);
    for (at, job) in &jobs {
        engine.submit(millis(*at), job.clone()).unwrap();
    }
    engine.advance(millis(14), &mut Recorder::default()).unwrap();
    let EngineLoad { used_blocks, queued_prefill_tokens, running, .. } = engine.load();
    assert_eq!((used_blocks, queued_prefill_tokens, running), (1 + 3, 8, 2));
    // Chunks of one token beside each decode (7 ms), of two afterwards: 28 + 7 + 7 + 7.
    assert_eq!(tokens(&run(&profile, &jobs)), (vec![(0, 7), (1, 49)], vec![(0, 28), (1, 49)]));
}

#[test]
fn a_lack_of_blocks_preempts_the_newest_which_is_computed_again() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.blocks = 10;
    let recorder = run(&profile, &[(0, job(0, 12, 10)), (0, job(1, 12, 10))]);
    // After 8 decodes each has 20 tokens in 5 blocks, and both want a sixth.
    assert_eq!(admissions(&recorder), [(0, 0, 0), (1, 0, 0), (1, 91, 0)]);
    assert_eq!(recorder.count(|told| *told == Told::Preempted { tag: 1, at: millis(85) }), 1);
    // 12 + 9 tokens again.
    assert_eq!(tokens(&recorder), (vec![(0, 29), (1, 29)], vec![(0, 91), (1, 117)]));
    assert_eq!(gaps(&recorder), BTreeMap::from([(7, 16), (6, 1), (32, 1)]));
}

#[test]
fn a_step_sees_the_arrivals_up_to_its_start() {
    let profile = profile(SchedulerMode::VllmV1);
    let first = |late: Picos| {
        let mut engine = FastForward::new(config(&profile), None);
        let mut recorder = Recorder::default();
        engine.submit(Picos::ZERO, job(0, 5, 9)).unwrap();
        engine.submit(millis(10) + late, job(1, 5, 1)).unwrap();
        engine.advance(Picos::SECOND, &mut recorder).unwrap();
        tokens(&recorder).0[1]
    };
    assert_eq!(first(Picos::ZERO), (1, 21), "with the decode of the other: 5 + 5 + 1 ms");
    assert_eq!(first(Picos(1)), (1, 27), "one decode step later");
}

#[test]
fn a_request_leaves_at_the_first_boundary_after_its_cancellation() {
    let mut engine = FastForward::new(config(&profile(SchedulerMode::VllmV1)), None);
    let mut recorder = Recorder::default();
    let slot = engine.submit(Picos::ZERO, job(7, 5, 100)).unwrap();
    engine.cancel(millis(17), slot).unwrap();
    engine.advance(millis(30), &mut recorder).unwrap();
    assert_eq!(recorder.count(|told| *told == Told::Cancelled { tag: 7, at: millis(22), tokens: 3 }), 1);
    assert_eq!(engine.load(), EngineLoad::default());
    engine.cancel(millis(31), slot).unwrap();
    engine.advance(millis(40), &mut recorder).unwrap();
    assert_eq!(recorder.count(|told| matches!(told, Told::Cancelled { .. })), 1);
}

#[test]
fn full_prompt_blocks_are_computed_once_and_the_last_token_always() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.prefix_cache = true;
    let jobs = [
        (0, hashed(0, 18, 1, &[1, 2, 3, 4])),
        (100, hashed(1, 18, 1, &[1, 2, 3, 4])),
        (200, hashed(2, 16, 1, &[1, 2, 3, 4])),
        (300, hashed(3, 18, 1, &[1, 2, 9, 4])),
    ];
    let recorder = run(&profile, &jobs);
    assert_eq!(admissions(&recorder), [(0, 0, 0), (1, 100, 16), (2, 200, 12), (3, 300, 8)]);
    assert_eq!(tokens(&recorder).0, [(0, 23), (1, 107), (2, 209), (3, 315)]);
}

#[test]
fn a_shared_block_counts_once() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.prefix_cache = true;
    let mut engine = FastForward::new(config(&profile), None);
    for tag in 0..3 {
        engine.submit(Picos::ZERO, hashed(tag, 9, 50, &[1, 2])).unwrap();
    }
    engine.advance(millis(16), &mut Recorder::default()).unwrap();
    assert_eq!(engine.load().used_blocks, 2 + 3);
}

#[test]
fn the_watermark_keeps_blocks_free_unless_nothing_runs() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.blocks = 10;
    profile.scheduler.watermark = 0.5;
    let recorder = run(&profile, &[(0, job(0, 24, 4)), (0, job(1, 4, 1)), (0, job(2, 4, 1))]);
    // 6 of 10 blocks for the first in an empty engine; the others wait for its end at 47 ms.
    assert_eq!(admissions(&recorder), [(0, 0, 0), (1, 47, 0), (2, 47, 0)]);
}

#[test]
fn a_reserved_input_is_not_admitted_by_its_first_chunk() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.blocks = 15;
    let jobs = [(0, job(0, 24, 4)), (1, job(1, 40, 1))];
    assert_eq!(admissions(&run(&profile, &jobs))[1], (1, 29, 0));
    profile.scheduler.reserve_full_input = true;
    assert_eq!(admissions(&run(&profile, &jobs))[1], (1, 47, 0));
}

#[test]
fn what_can_never_fit_and_what_comes_too_late_is_refused() {
    let mut profile = profile(SchedulerMode::VllmV1);
    profile.kv.blocks = 10;
    let mut engine = FastForward::new(config(&profile), None);
    let error = engine.submit(Picos::ZERO, job(3, 30, 11)).unwrap_err();
    assert_eq!(error.to_string(), "request 3: prompt 30 + output 11 tokens exceed `kv.blocks` = 40 tokens");
    assert!(matches!(engine.submit(Picos::ZERO, job(3, 200, 57)), Err(Error::TooLong { tokens: 256, .. })));
    assert!(matches!(engine.submit(Picos::ZERO, job(3, 0, 57)), Err(Error::Field { .. })));
    engine.advance(millis(5), &mut Recorder::default()).unwrap();
    let back = Error::TimeWentBack { from: millis(5), to: millis(4) };
    assert_eq!(engine.submit(millis(4), job(3, 1, 1)).unwrap_err(), back);
    assert_eq!(engine.advance(millis(4), &mut Recorder::default()).unwrap_err(), back);
}

#[test]
fn a_clock_at_the_end_of_its_range_is_an_error() {
    let end = Picos::MAX + -millis(3);
    let mut fast = FastForward::new(config(&profile(SchedulerMode::VllmV1)), None);
    fast.submit(end, job(0, 1, 1)).unwrap();
    assert_eq!(fast.advance(Picos::MAX, &mut Recorder::default()), Err(Error::TimeOverflow { at: end }));
    let decoding = Picos::MAX + -millis(10);
    let mut fast = FastForward::new(config(&profile(SchedulerMode::VllmV1)), None);
    fast.submit(decoding, job(0, 1, 9)).unwrap();
    let at = decoding + millis(6);
    assert_eq!(fast.advance(Picos::MAX, &mut Recorder::default()), Err(Error::TimeOverflow { at }));
}

/// Thirty equal jobs, faster than the engine serves them.
fn burst() -> Vec<(i64, Job)> {
    (0_i64..30).map(|tag| (tag * 5, job(tag.unsigned_abs(), 12, 20))).collect()
}

#[test]
fn more_blocks_never_mean_more_preemptions() {
    let mut profile = profile(SchedulerMode::VllmV1);
    let preemptions: Vec<usize> = [16, 20, 24, 32, 48, 96]
        .into_iter()
        .map(|blocks| {
            profile.kv.blocks = blocks;
            run(&profile, &burst()).count(|told| matches!(told, Told::Preempted { .. }))
        })
        .collect();
    assert!(preemptions.is_sorted_by(|more, fewer| more >= fewer), "{preemptions:?}");
    assert!(preemptions[0] > 0 && preemptions[5] == 0, "{preemptions:?}");
}

#[test]
fn slower_steps_never_finish_a_request_earlier() {
    let profile = profile(SchedulerMode::VllmV1);
    let finishes = |speed: f64| {
        let mut engine = FastForward::new(config(&profile), None);
        engine.set_speed(Scale::new(speed).unwrap());
        let mut recorder = Recorder::default();
        for (at, job) in burst() {
            engine.submit(millis(at), job).unwrap();
        }
        engine.advance(Picos::SECOND * 1000, &mut recorder).unwrap();
        (0..30).map(|tag| recorder.finish(tag).unwrap()).collect::<Vec<_>>()
    };
    let [fast, exact, slow] = [0.8, 1.0, 1.25].map(finishes);
    assert!(fast.iter().zip(&exact).chain(exact.iter().zip(&slow)).all(|(left, right)| left < right));
}
