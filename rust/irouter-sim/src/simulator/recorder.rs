//! Writes down what engines do.

use std::ops::Range;

use irouter_core::engine::Observer;
use irouter_core::{InstanceId, Picos};

use crate::metrics::{GapHistogram, Outcome, RequestRecords};
use crate::workload::Workload;

use super::Tally;

/// Something that the router is to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) at: Picos,
    pub(super) row: usize,
    pub(super) news: News,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum News {
    /// Its first token is out.
    Started,
    /// It has produced so many tokens.
    Produced(u32),
    /// Its last token is out.
    Finished,
}

/// Records, gaps and notes of all engines of a run.
pub(super) struct Recorder {
    pub(super) records: RequestRecords,
    pub(super) gaps: GapHistogram,
    pub(super) notes: Vec<Note>,
    /// The engine that is being advanced.
    pub(super) instance: u32,
    /// Measured requests that have not ended.
    pub(super) open_measured: usize,
    pub(super) tally: Tally,
    measured: Range<usize>,
    /// Prompt tokens from the prefix cache at the first admission, when the workload has block hashes.
    cached: Option<Vec<u32>>,
}

impl Recorder {
    pub(super) fn new(workload: &Workload, measured: Range<usize>) -> Self {
        Self {
            records: RequestRecords::new(&vec![RequestRecords::NEVER; workload.len()]),
            gaps: GapHistogram::new(),
            notes: Vec::new(),
            instance: 0,
            open_measured: measured.len(),
            tally: Tally::default(),
            cached: workload.columns().prefix.is_some().then(|| vec![0; workload.len()]),
            measured,
        }
    }

    pub(super) fn cached(&self, row: usize) -> Option<u32> {
        self.cached.as_ref().map(|cached| cached[row])
    }

    pub(super) fn arrived(&mut self, row: usize, at: Picos) {
        self.records.arrival[row] = at;
        self.tally.arrived(row, at);
    }

    pub(super) fn dispatched(&mut self, row: usize, at: Picos, reached: Picos, instance: InstanceId) {
        self.records.dispatched[row] = at;
        self.records.reached_engine[row] = reached;
        self.records.instance[row] = instance.0;
    }

    /// Notes what the router is to be told, unless the request has ended: an aborted one may get tokens before the engine
    /// hears of it, when the router has forgotten it.
    fn note(&mut self, tag: u64, at: Picos, news: News) {
        let row = row(tag);
        if self.records.outcome[row] == Outcome::Open {
            self.notes.push(Note { at, row, news });
        }
    }

    /// The request has ended, once.
    pub(super) fn ended(&mut self, row: usize, at: Picos, outcome: Outcome) {
        if self.records.outcome[row] == Outcome::Open {
            self.records.outcome[row] = outcome;
            self.records.finished[row] = at;
            let first = Some(self.records.first_token[row]).filter(|&first| first < at);
            self.tally.ended(row, first, at, outcome == Outcome::Completed);
            self.open_measured -= usize::from(self.measured.contains(&row));
        }
    }
}

fn row(tag: u64) -> usize {
    usize::try_from(tag).unwrap_or(usize::MAX)
}

impl Observer for Recorder {
    fn admitted(&mut self, tag: u64, at: Picos, cached_tokens: u32) {
        let admitted = &mut self.records.admitted[row(tag)];
        if *admitted == RequestRecords::NEVER {
            *admitted = at;
            if let Some(cached) = &mut self.cached {
                cached[row(tag)] = cached_tokens;
            }
        }
    }

    fn first_token(&mut self, tag: u64, at: Picos) {
        self.records.first_token[row(tag)] = at;
        self.note(tag, at, News::Started);
    }

    fn progress(&mut self, tag: u64, at: Picos, tokens: u32) {
        self.note(tag, at, News::Produced(tokens));
    }

    fn gap(&mut self, count: u32, gap: Picos) {
        self.gaps.record(count, gap);
    }

    fn gaps(&mut self, count: u32, first: Picos, increment: Picos, steps: u64) {
        self.gaps.record_run(count, first, increment, steps);
    }

    fn preempted(&mut self, tag: u64, _at: Picos) {
        self.records.preemptions[row(tag)] += 1;
    }

    fn finished(&mut self, tag: u64, at: Picos) {
        self.note(tag, at, News::Finished);
        self.ended(row(tag), at, Outcome::Completed);
    }
}
