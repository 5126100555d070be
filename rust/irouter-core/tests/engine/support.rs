//! Profiles, recordings and workloads for the engine tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use irouter_core::engine::{EngineConfig, Job, Observer};
use irouter_core::profile::{Form, KvCache, Profile, Scheduler, SchedulerMode, Source, StepTime};
use irouter_core::time::Picos;

/// A profile whose steps take whole milliseconds.
pub(crate) fn profile(mode: SchedulerMode) -> Profile {
    Profile {
        name: "test".into(),
        model: "test".into(),
        accelerator: "test".into(),
        tensor_parallel: 1,
        max_model_len: 256,
        scheduler: Scheduler {
            mode,
            max_num_seqs: 8,
            max_num_batched_tokens: 32,
            reserve_full_input: false,
            watermark: 0.0,
        },
        kv: KvCache { block_tokens: 4, blocks: 64, prefix_cache: false },
        step_time: StepTime {
            form: Form::A { constant_ms: 5.0 },
            prefill_token_ms: 1.0,
            prefill_attention_ms: 0.0,
            decode_sequence_ms: 1.0,
            decode_context_token_ms: 0.0,
            mixed_decode_sequence: 1.0,
            mixed_decode_context: 1.0,
            overhead_ms: 0.0,
            launch_floor_ms: 0.0,
        },
        source: Source {
            data: "made up".into(),
            fitted_tokens: 1,
            fitted_sequences: 1,
            fitted_context_tokens: 1,
            held_out_error_percent: None,
        },
    }
}

pub(crate) fn config(profile: &Profile) -> Arc<EngineConfig> {
    Arc::new(EngineConfig::new(profile).unwrap())
}

pub(crate) fn job(tag: u64, prompt_tokens: u32, output_tokens: u32) -> Job {
    Job { tag, prompt_tokens, output_tokens, prompt_blocks: None }
}

pub(crate) fn millis(count: i64) -> Picos {
    Picos::MILLISECOND * count
}

/// What an engine told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Admitted {
        tag: u64,
        at: Picos,
        cached: u32,
    },
    First {
        tag: u64,
        at: Picos,
    },
    Preempted {
        tag: u64,
        at: Picos,
    },
    Finished {
        tag: u64,
        at: Picos,
    },
    Cancelled {
        tag: u64,
        at: Picos,
        tokens: u32,
    },
    /// How often each gap occurred since the event before, whatever the order.
    Gaps(BTreeMap<Picos, u64>),
}

/// Writes everything down.
#[derive(Default)]
pub(crate) struct Recorder {
    told: Vec<Told>,
    gaps: BTreeMap<Picos, u64>,
    /// Tag, time and tokens of each report of progress.
    pub(crate) progress: Vec<(u64, Picos, u32)>,
}

impl Recorder {
    /// All of it, the gaps after the last event included.
    pub(crate) fn told(&self) -> Vec<Told> {
        let mut told = self.told.clone();
        told.push(Told::Gaps(self.gaps.clone()));
        told
    }

    /// Times of first tokens and finishes.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Picos> + '_ {
        self.told.iter().filter_map(|told| match *told {
            Told::First { at, .. } | Told::Finished { at, .. } => Some(at),
            _ => None,
        })
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Told) -> bool) -> usize {
        self.told.iter().filter(|told| wanted(told)).count()
    }

    /// Tags and times of the finishes.
    pub(crate) fn finishes(&self) -> impl Iterator<Item = (u64, Picos)> + '_ {
        self.told.iter().filter_map(|told| match *told {
            Told::Finished { tag, at } => Some((tag, at)),
            _ => None,
        })
    }

    /// Number of gaps told.
    pub(crate) fn gap_count(&self) -> u64 {
        self.told().iter().map(|told| if let Told::Gaps(gaps) = told { gaps.values().sum() } else { 0 }).sum()
    }

    pub(crate) fn finish(&self, wanted: u64) -> Option<Picos> {
        self.finishes().find_map(|(tag, at)| (tag == wanted).then_some(at))
    }

    fn push(&mut self, told: Told) {
        self.told.push(Told::Gaps(std::mem::take(&mut self.gaps)));
        self.told.push(told);
    }
}

impl Observer for Recorder {
    fn admitted(&mut self, tag: u64, at: Picos, cached: u32) {
        self.push(Told::Admitted { tag, at, cached });
    }
    fn first_token(&mut self, tag: u64, at: Picos) {
        self.push(Told::First { tag, at });
    }
    fn progress(&mut self, tag: u64, at: Picos, tokens: u32) {
        self.progress.push((tag, at, tokens));
    }
    fn gap(&mut self, count: u32, gap: Picos) {
        if count > 0 {
            *self.gaps.entry(gap).or_default() += u64::from(count);
        }
    }
    fn preempted(&mut self, tag: u64, at: Picos) {
        self.push(Told::Preempted { tag, at });
    }
    fn finished(&mut self, tag: u64, at: Picos) {
        self.push(Told::Finished { tag, at });
    }
    fn cancelled(&mut self, tag: u64, at: Picos, tokens: u32) {
        self.push(Told::Cancelled { tag, at, tokens });
    }
}
