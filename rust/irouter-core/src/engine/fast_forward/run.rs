//! Runs of steps that only decode.

use super::FastForward;
use crate::engine::Observer;
use crate::error::{Error, Result};
use crate::profile::DecodeRun;
use crate::time::Picos;

impl FastForward {
    /// Jumps over the decode steps from the boundary on that end by `until`: to the next finish, to the step that lacks
    /// blocks, to the step that sees a message, or to the end of a slice of noise. False when none fits.
    ///
    /// A head of the queue that did not fit at the boundary does not fit at any step of the run, so arrivals behind
    /// it do not end the run. Its budget and the number of residents stay the same, and the free blocks get fewer by
    /// one with every block taken. Blocks taken may drop blocks from the prefix cache that the head would
    /// share. Those in use stay; a free one less makes the head need at most one block less for a chunk that ends
    /// earlier, since a prompt block is dropped before the blocks that lead to it: these are released after it, by
    /// every request.
    pub(super) fn run(&mut self, until: Picos, observer: &mut impl Observer) -> Result<bool> {
        let (run, limit, interrupt) = self.plan_run();
        let span = until - self.boundary;
        let steps = steps_of(run, limit, span, interrupt.saturating_add(-self.boundary));
        if steps == 0 {
            let end = self.boundary.checked_add(run.step(0));
            return if end.is_some() { Ok(false) } else { Err(Error::TimeOverflow { at: self.boundary }) };
        }
        let end = self.boundary + run.total(steps);
        self.pool.allocate(self.decoding.growth_over(steps));
        self.give_run_gaps(run, steps, observer);
        if self.decoding.progress.is_some() {
            for ahead in 1..=steps {
                self.decoding.give_progress(&self.slots, ahead, self.boundary + run.total(ahead), observer);
            }
        }
        self.decoding.advance(steps, end);
        self.boundary = end;
        if steps == limit {
            self.give_finishes(observer);
        }
        Ok(true)
    }

    /// The end of the run of decode steps at the boundary; `None` beyond the clock's range.
    pub(super) fn run_end(&mut self) -> Option<Picos> {
        let (run, limit, interrupt) = self.plan_run();
        let span = Picos::MAX.saturating_add(-self.boundary);
        let steps = steps_of(run, limit, span, interrupt.saturating_add(-self.boundary));
        self.boundary.checked_add(run.total(steps.max(1)))
    }

    /// The end of the first step of that run.
    pub(super) fn step_end(&mut self) -> Picos {
        let (run, ..) = self.plan_run();
        self.boundary.saturating_add(run.step(0))
    }

    /// The time of the first progress in the run of decode steps at the boundary, were it to go on for so long; `None`
    /// when nobody is to tell.
    pub(super) fn run_progress(&mut self) -> Option<Picos> {
        let steps = self.decoding.progress.as_ref()?.steps_to_next(self.decoding.steps)?;
        let (run, ..) = self.plan_run();
        self.boundary.checked_add(run.total(steps))
    }

    /// Step times of the run, its steps at most, and the time at or after which the first step must be looked at.
    fn plan_run(&mut self) -> (DecodeRun, u64, Picos) {
        let (scale, slice_end) = self.pace.at(self.boundary);
        let decoding = &mut self.decoding;
        let run = self.config.steps.decode_run(
            decoding.count,
            decoding.computed + u64::from(decoding.count),
            scale,
        );
        let limit = decoding.steps_to_finish(&self.slots).unwrap_or(u64::from(u32::MAX));
        let limit = decoding.steps_with(self.pool.free(), limit);
        let message = if self.waiting.length == 0 {
            self.inbox.front()
        } else if self.cancellations > 0 {
            self.inbox.iter().find(|message| message.cancels)
        } else {
            None
        };
        (run, limit, message.map_or(slice_end, |message| message.at.min(slice_end)))
    }

    fn give_run_gaps(&mut self, run: DecodeRun, steps: u64, observer: &mut impl Observer) {
        let mut done = 0;
        if !self.late.is_empty() {
            let end = self.boundary + run.step(0);
            self.give_gaps(self.boundary, end, observer);
            done = 1;
        }
        let floored = run.floored_steps().clamp(done, steps);
        let count = self.decoding.count;
        if floored > done {
            observer.gaps(count, run.step(done), Picos::ZERO, floored - done);
        }
        if steps > floored {
            let first = run.step(floored);
            observer.gaps(count, first, run.step(floored + 1) - first, steps - floored);
        }
    }
}

/// Steps of a run, at most `limit`, that end within `span`, and of which all but the last end before `interrupt`: the
/// step that starts at or after it is not part of the run.
fn steps_of(run: DecodeRun, limit: u64, span: Picos, interrupt: Picos) -> u64 {
    let before = interrupt.saturating_add(Picos(-1));
    if span <= before {
        return run.steps_within(span, limit);
    }
    let started = run.steps_within(before, limit);
    let steps = (started + 1).min(limit);
    if run.total(steps) <= span { steps } else { started }
}
