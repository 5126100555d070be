//! Where a run's requests come from in time: arrivals that are known before it, or requests that follow the ends of others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use irouter_core::Picos;

use crate::workload::{Sequels, Workload};

/// The rows of a workload by the times at which they arrive.
pub(super) enum Arrivals {
    /// At the workload's own times.
    Open {
        /// The next row.
        next: usize,
    },
    /// Some time after another has ended.
    Following {
        /// Rows whose time is known.
        upcoming: BinaryHeap<Reverse<(Picos, usize)>>,
        /// What follows them.
        sequels: Arc<Sequels>,
    },
}

impl Arrivals {
    pub(super) fn new(sequels: Option<Arc<Sequels>>) -> Self {
        match sequels {
            None => Self::Open { next: 0 },
            Some(sequels) => Self::Following {
                upcoming: sequels.starts().iter().map(|&start| Reverse(start)).collect(),
                sequels,
            },
        }
    }

    /// When the next row arrives, as far as that is known.
    pub(super) fn next(&self, workload: &Workload) -> Option<Picos> {
        match self {
            Self::Open { next } => workload.arrival().get(*next).copied(),
            Self::Following { upcoming, .. } => upcoming.peek().map(|&Reverse((at, _))| at),
        }
    }

    /// Takes the next row that arrives up to `now`, with its time.
    pub(super) fn pop(&mut self, workload: &Workload, now: Picos) -> Option<(usize, Picos)> {
        let at = self.next(workload).filter(|&at| at <= now)?;
        match self {
            Self::Open { next } => {
                *next += 1;
                Some((*next - 1, at))
            }
            Self::Following { upcoming, .. } => upcoming.pop().map(|Reverse((at, row))| (row, at)),
        }
    }

    /// Whether the end of a request may bring another.
    pub(super) fn follow_ends(&self) -> bool {
        matches!(self, Self::Following { .. })
    }

    /// The client of `row` learns at `at` that it has ended, however it did.
    pub(super) fn ended(&mut self, row: usize, at: Picos) {
        if let Self::Following { upcoming, sequels } = self
            && let Some((pause, next)) = sequels.after(row)
        {
            upcoming.push(Reverse((at.saturating_add(pause), next)));
        }
    }
}
