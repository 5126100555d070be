//! Where a run's requests come from in time: arrivals that are known before it, or requests that follow the ends of others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use irouter_core::Picos;
use irouter_core::hash::mix;

use super::RunConfig;
use crate::random::{Purpose, exponential, generator};
use crate::workload::Workload;

/// The rows of a workload by the times at which they arrive.
pub(super) enum Arrivals<'a> {
    /// At the workload's own times.
    Open {
        /// Ascending.
        times: &'a [Picos],
        /// The next row.
        next: usize,
    },
    /// Most rows arrive some time after another has ended.
    Following(Sequels),
}

/// Which row follows which, and after what pause.
///
/// A conversation's turns follow one another. With clients, conversation (or single request) number `i` belongs to client
/// `i` modulo their number, and each client goes through its own one after the other: what it asks next does not
/// depend on the policy, only when.
pub(super) struct Sequels {
    upcoming: BinaryHeap<Reverse<(Picos, usize)>>,
    sequel: Vec<Option<usize>>,
    /// Pause before each row, from the end of the one that it follows.
    pause: Vec<Picos>,
}

impl<'a> Arrivals<'a> {
    pub(super) fn new(config: &RunConfig, workload: &'a Workload) -> Self {
        if config.clients.is_none() && !workload.is_conversations() {
            return Self::Open { times: workload.arrival(), next: 0 };
        }
        Self::Following(Sequels::new(config, workload))
    }

    /// When the next row arrives, as far as that is known.
    pub(super) fn next(&self) -> Option<Picos> {
        match self {
            Self::Open { times, next } => times.get(*next).copied(),
            Self::Following(sequels) => sequels.upcoming.peek().map(|&Reverse((at, _))| at),
        }
    }

    /// Takes the next row that arrives up to `now`, with its time.
    pub(super) fn pop(&mut self, now: Picos) -> Option<(usize, Picos)> {
        let at = self.next().filter(|&at| at <= now)?;
        match self {
            Self::Open { next, .. } => {
                *next += 1;
                Some((*next - 1, at))
            }
            Self::Following(sequels) => sequels.upcoming.pop().map(|Reverse((at, row))| (row, at)),
        }
    }

    /// Whether the end of a request may bring another.
    pub(super) fn follow_ends(&self) -> bool {
        matches!(self, Self::Following(_))
    }

    /// The client of `row` learns at `at` that it has ended, however it did.
    pub(super) fn ended(&mut self, row: usize, at: Picos) {
        if let Self::Following(Sequels { upcoming, sequel, pause }) = self
            && let Some(row) = sequel[row]
        {
            upcoming.push(Reverse((at.saturating_add(pause[row]), row)));
        }
    }
}

impl Sequels {
    fn new(config: &RunConfig, workload: &Workload) -> Self {
        let rows = workload.len();
        let columns = workload.columns();
        let mut sequel = vec![None; rows];
        let mut pause = columns.think_time.clone().unwrap_or_else(|| vec![Picos::ZERO; rows]);
        // First and last row of each conversation, in order of the first.
        let mut conversations: Vec<(usize, usize)> = Vec::new();
        let mut by_session: BTreeMap<u64, usize> = BTreeMap::new();
        for row in 0..rows {
            let session = columns.session.as_ref().filter(|_| workload.is_conversations());
            let Some(session) = session.map(|sessions| sessions[row]) else {
                conversations.push((row, row));
                continue;
            };
            let number = *by_session.entry(session).or_insert(conversations.len());
            match conversations.get_mut(number) {
                Some((_, last)) => {
                    sequel[*last] = Some(row);
                    *last = row;
                }
                None => conversations.push((row, row)),
            }
        }
        let mut upcoming = BinaryHeap::new();
        let Some(clients) = config.clients else {
            let starts = conversations.iter().map(|&(first, _)| Reverse((workload.arrival()[first], first)));
            return Self { upcoming: starts.collect(), sequel, pause };
        };
        for client in 0..(clients.count as usize).min(conversations.len()) {
            let mut generator = generator(mix(config.seed, client as u64), Purpose::Clients);
            let mut before = None;
            for &(first, last) in conversations.iter().skip(client).step_by(clients.count as usize) {
                let seconds = clients.think_time.as_seconds() * exponential(&mut generator);
                pause[first] = Picos::from_seconds(seconds).unwrap_or(Picos::MAX);
                match before {
                    Some(before) => sequel[before] = Some(first),
                    // Clients begin by thinking, so that they do not all ask at once.
                    None => upcoming.push(Reverse((pause[first], first))),
                }
                before = Some(last);
            }
        }
        Self { upcoming, sequel, pause }
    }
}
