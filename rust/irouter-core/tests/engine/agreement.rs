//! `Stepwise` and `FastForward` agree to the last bit.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use irouter_core::engine::{EngineConfig, EngineLoad, Executor, FastForward, Job, JobSlot, Noise, Stepwise};
use irouter_core::profile::{Profile, SchedulerMode};
use irouter_core::time::Picos;
use proptest::prelude::*;

use crate::support::{Recorder, Told, config, millis, profile};

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Submit(Job),
    /// Of the n-th request from the latest back.
    Cancel(usize),
    Advance,
}

#[derive(Clone, Debug)]
struct Case {
    profile: Profile,
    noise: Option<Noise>,
    /// Tokens between reports of progress.
    cadence: NonZeroU32,
    calls: Vec<(Picos, Call)>,
}

fn modes() -> impl Strategy<Value = SchedulerMode> {
    prop_oneof![Just(SchedulerMode::VllmV1), Just(SchedulerMode::VllmV0), Just(SchedulerMode::Sarathi)]
}

prop_compose! {
    pub(crate) fn profiles()(
        mode in modes(),
        max_num_seqs in 1_u32..12,
        tokens in 1_u32..80,
        (reserve_full_input, prefix_cache) in any::<(bool, bool)>(),
        watermark in prop_oneof![Just(0.0), 0.0..0.6_f64],
        block_tokens in prop_oneof![Just(1_u32), Just(4), Just(16), 2_u32..20],
        kv_tokens in prop_oneof![90_u32..140, 100_u32..800],
        // Whole milliseconds make steps end exactly when requests arrive; odd numbers make them end anywhere.
        whole in any::<bool>(),
        coefficients in prop::array::uniform7(0.0..3.0_f64),
        floor in prop_oneof![Just(0.0), 0.0..20.0_f64],
    ) -> Profile {
        let mut profile = profile(mode);
        profile.scheduler.max_num_seqs = max_num_seqs;
        let least = if mode == SchedulerMode::VllmV1 { max_num_seqs } else { 1 };
        profile.scheduler.max_num_batched_tokens = tokens.max(least);
        profile.scheduler.reserve_full_input = reserve_full_input;
        profile.scheduler.watermark = watermark;
        profile.kv.block_tokens = block_tokens;
        profile.kv.blocks = kv_tokens.div_ceil(block_tokens);
        profile.kv.prefix_cache = prefix_cache;
        let time = &mut profile.step_time;
        let round = |value: f64| if whole { value.round() } else { value };
        time.prefill_token_ms = round(coefficients[0]);
        time.prefill_attention_ms = if whole { 0.0 } else { coefficients[1] * 0.0003 };
        time.decode_sequence_ms = round(coefficients[2]);
        time.decode_context_token_ms = if whole { 0.0 } else { coefficients[3] * 0.03 };
        time.mixed_decode_sequence = 1.0 + round(coefficients[4]);
        time.mixed_decode_context = 1.0 + round(coefficients[5]);
        time.overhead_ms = round(coefficients[6]);
        time.launch_floor_ms = round(floor);
        profile
    }
}

/// Hashes of the first blocks of one of a few prompts, which share their first `at` blocks. A hash stands for all of the
/// prompt up to its block, so what follows the branch has hashes of its own.
fn hashes(family: u64, branch: u64, at: u64, blocks: u32) -> Arc<[u64]> {
    let own = 1000 + family * 100 + branch * 10 + at;
    let hash = |block: u64| if block < at { family * 1000 + block } else { own * 1000 + block };
    (0..u64::from(blocks)).map(hash).collect()
}

prop_compose! {
    fn jobs()(
        prompt_tokens in 1_u32..60,
        output_tokens in prop_oneof![1_u32..30, Just(1)],
        family in 0_u64..3,
        branch in 0_u64..3,
        at in 0_u64..10,
        hashed in 0_u32..40,
    ) -> Job {
        Job { tag: 0, prompt_tokens, output_tokens, prompt_blocks: Some(hashes(family, branch, at, hashed)) }
    }
}

pub(crate) fn calls() -> impl Strategy<Value = Vec<(Picos, Call)>> {
    let call = prop_oneof![
        6 => jobs().prop_map(Call::Submit),
        1 => (0_usize..12).prop_map(Call::Cancel),
        4 => Just(Call::Advance),
    ];
    let wait = prop_oneof![
        3 => Just(Picos::ZERO),
        4 => (0_i64..60).prop_map(millis),
        2 => (0_i64..60_000_000_000).prop_map(Picos),
        1 => (0_i64..2_000).prop_map(millis),
    ];
    prop::collection::vec((wait, call), 1..70).prop_map(|calls| {
        let mut now = Picos::ZERO;
        calls
            .into_iter()
            .enumerate()
            .map(|(tag, (wait, mut call))| {
                now += wait;
                if let Call::Submit(job) = &mut call {
                    job.tag = tag as u64;
                }
                (now, call)
            })
            .collect()
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let noise =
        prop_oneof![Just(None), any::<u64>().prop_map(|seed| Some(Noise::new(seed, 3, 0.2, 0.1).unwrap()))];
    let cadence = (1_u32..20).prop_map(|tokens| NonZeroU32::new(tokens).unwrap());
    (profiles(), noise, cadence, calls()).prop_map(|(profile, noise, cadence, calls)| Case {
        profile,
        noise,
        cadence,
        calls,
    })
}

/// An engine under test, and what it told.
struct Run<E> {
    engine: E,
    slots: Vec<(u64, JobSlot)>,
    recorder: Recorder,
}

impl<E: Executor> Run<E> {
    fn new(engine: E) -> Self {
        Self { engine, slots: Vec::new(), recorder: Recorder::default() }
    }

    fn call(&mut self, at: Picos, call: &Call) {
        match call {
            Call::Submit(job) => {
                if let Ok(slot) = self.engine.submit(at, job.clone()) {
                    self.slots.push((job.tag, slot));
                }
            }
            Call::Cancel(back) => {
                let live = self.live();
                if let Some(&(_, slot)) = live.iter().rev().nth(*back) {
                    self.engine.cancel(at, slot).unwrap();
                }
            }
            Call::Advance => self.engine.advance(at, &mut self.recorder).unwrap(),
        }
    }

    /// Requests whose slots are valid.
    fn live(&self) -> Vec<(u64, JobSlot)> {
        let told = self.recorder.told();
        let gone = |wanted: u64| {
            told.iter().any(|told| {
                matches!(told, Told::Finished { tag, .. } | Told::Cancelled { tag, .. } if *tag == wanted)
            })
        };
        self.slots.iter().filter(|&&(tag, _)| !gone(tag)).copied().collect()
    }

    fn state(&self) -> (EngineLoad, BTreeMap<u64, u32>) {
        let produced = self.live().into_iter().map(|(tag, slot)| (tag, self.engine.produced(slot)));
        (self.engine.load(), produced.collect())
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let config: Arc<EngineConfig> = config(&case.profile);
    let slow = Stepwise::new(Arc::clone(&config), case.noise.clone());
    let fast = FastForward::new(Arc::clone(&config), case.noise.clone());
    let (mut slow, mut fast) =
        (Run::new(slow.with_progress(case.cadence)), Run::new(fast.with_progress(case.cadence)));
    for (at, call) in &case.calls {
        slow.call(*at, call);
        let expected = fast.engine.next_event();
        let expected_news = fast.engine.next_report();
        let (before, news) = (fast.recorder.tokens().count(), fast.recorder.progress.len());
        let (change, shown) = (fast.engine.next_change(), fast.state());
        fast.call(*at, call);
        if matches!(call, Call::Advance) && *at < change {
            prop_assert_eq!(&shown, &fast.state(), "a change at {} before {}", at, change);
        }
        prop_assert_eq!(slow.state(), fast.state(), "after {:?} at {}", call, at);
        for told in fast.recorder.tokens().skip(before) {
            prop_assert!(expected.is_some_and(|expected| told >= expected), "{} before {:?}", told, expected);
        }
        prop_assert!(expected_news <= expected);
        for (_, at, _) in &fast.recorder.progress[news..] {
            prop_assert!(
                expected_news.is_some_and(|expected| *at >= expected),
                "{} before {:?}",
                at,
                expected_news
            );
        }
    }
    let end = Picos::SECOND * 1_000_000;
    slow.call(end, &Call::Advance);
    fast.call(end, &Call::Advance);
    prop_assert_eq!(slow.state(), fast.state());
    prop_assert_eq!(slow.recorder.told(), fast.recorder.told());
    prop_assert_eq!(&slow.recorder.progress, &fast.recorder.progress);
    prop_assert_eq!(fast.engine.load(), EngineLoad::default(), "an idle engine holds nothing");
    let firsts = fast.recorder.count(|told| matches!(told, Told::First { .. })) as u64;
    prop_assert_eq!(
        firsts + fast.recorder.gap_count(),
        tokens(case, &fast.recorder),
        "every token comes once"
    );
    prop_assert_eq!(fast.engine.next_event(), None);
    Ok(())
}

/// Tokens of the requests that finished, and of the cancelled ones up to then.
fn tokens(case: &Case, recorder: &Recorder) -> u64 {
    let output = |wanted: u64| {
        case.calls.iter().find_map(|(_, call)| match call {
            Call::Submit(job) if job.tag == wanted => Some(job.output_tokens),
            _ => None,
        })
    };
    let told = recorder.told().into_iter();
    told.map(|told| match told {
        Told::Finished { tag, .. } => output(tag).unwrap().into(),
        Told::Cancelled { tokens, .. } => tokens.into(),
        _ => 0,
    })
    .sum()
}

/// What an engine tells does not depend on where calls of `advance` cut the time.
fn check_cuts(case: &Case) -> Result<(), TestCaseError> {
    let config = config(&case.profile);
    let engine = FastForward::new(config, case.noise.clone()).with_progress(case.cadence);
    let (mut cut, mut whole) = (Run::new(engine.clone()), Run::new(engine));
    for (at, call) in &case.calls {
        match call {
            Call::Submit(_) => {
                cut.call(*at, call);
                whole.call(*at, call);
            }
            Call::Advance => cut.call(*at, call),
            Call::Cancel(_) => {}
        }
    }
    cut.call(Picos::SECOND * 1_000_000, &Call::Advance);
    whole.call(Picos::SECOND * 1_000_000, &Call::Advance);
    prop_assert_eq!(cut.recorder.told(), whole.recorder.told());
    prop_assert_eq!(cut.recorder.progress, whole.recorder.progress);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000.max(ProptestConfig::default().cases), ..ProptestConfig::default() })]

    #[test]
    fn executors_tell_the_same_of_every_workload(case in cases()) {
        check(&case)?;
    }

    #[test]
    fn cuts_of_the_time_change_nothing(case in cases()) {
        check_cuts(&case)?;
    }
}
