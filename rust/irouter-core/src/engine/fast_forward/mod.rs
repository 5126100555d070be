//! Sums over the residents, and jumps over runs of decode steps.
//!
//! A request is touched when it is admitted, computes a chunk of its prompt, finishes, is preempted or cancelled; never
//! because a step passes. What makes that possible:
//!
//! * all decoding requests advance together, so a step needs their number, the sum of their contexts, and how many take
//!   a new block ([`decoding`]);
//! * a step without prefill changes none of the things that decide about admission, except that blocks get
//!   fewer: a head of the queue that cannot be admitted now cannot be until a request leaves ([`run`]);
//! * preemption takes the newest requests until the others fit, so it only looks at those it takes ([`schedule`]).

mod decoding;
mod progress;
mod run;
mod schedule;
mod slots;
mod twin;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use self::decoding::Decoding;
use self::progress::ProgressWheel;
use self::schedule::Step;
use self::slots::{Chain, Place, Slots};
use super::blocks::BlockPool;
use super::pace::Pace;
use super::{EngineConfig, EngineLoad, Executor, Job, JobSlot, Noise, Observer};
use crate::error::{Error, Result};
use crate::time::Picos;

/// One instance of an engine, advanced by sums: its cost does not grow with the number of steps or residents.
#[derive(Clone, Debug)]
pub struct FastForward {
    config: Arc<EngineConfig>,
    pace: Pace,
    /// Where [`Executor::advance`] has got to.
    clock: Picos,
    /// End of the last completed step, or when the engine last stopped having nothing to do.
    boundary: Picos,
    /// Submissions and cancellations that no step has seen, in order of time.
    inbox: VecDeque<Message>,
    /// How many of them are cancellations.
    cancellations: usize,
    /// Time of the latest call.
    latest: Picos,
    slots: Slots,
    waiting: Chain,
    /// Tokens that the waiting requests have to compute.
    waiting_tokens: u64,
    /// Every admitted request, in order of admission.
    running: Chain,
    admissions: u64,
    decoding: Decoding,
    /// The request whose prompt is partly computed.
    ///
    /// There is at most one, and it is the last that was admitted: a request is left with a part only when it took the
    /// rest of the step's budget, so nothing is admitted after it in that step, nor in a later one while its rest
    /// takes the whole budget.
    partial: Option<u32>,
    pool: BlockPool,
    /// The head of the queue was found not to fit, and since then nothing has happened that could let it in.
    blocked: bool,
    /// A step with more to it than decoding, once it has begun.
    step: Option<Step>,
    /// Requests whose input that step completes, in order of admission.
    joining: Vec<u32>,
    /// Decoding requests that got no token in the last step, as (time of their last token, how many).
    late: Vec<(Picos, u32)>,
    /// In a twin a request that has produced its output stays.
    open_ended: bool,
}

/// A call that waits for the step boundary at which it takes effect.
#[derive(Clone, Copy, Debug)]
struct Message {
    at: Picos,
    slot: u32,
    generation: u32,
    cancels: bool,
}

impl FastForward {
    /// An idle engine at time zero.
    pub fn new(config: Arc<EngineConfig>, noise: Option<Noise>) -> Self {
        Self {
            pace: Pace::new(noise),
            clock: Picos::ZERO,
            boundary: Picos::ZERO,
            inbox: VecDeque::new(),
            cancellations: 0,
            latest: Picos::ZERO,
            slots: Slots::new(config.kv.prefix_cache),
            waiting: Chain::EMPTY,
            waiting_tokens: 0,
            running: Chain::EMPTY,
            admissions: 0,
            decoding: Decoding::new(config.kv.block_tokens),
            partial: None,
            pool: BlockPool::new(&config),
            blocked: false,
            step: None,
            joining: Vec::new(),
            late: Vec::new(),
            open_ended: false,
            config,
        }
    }

    /// The same engine, idle as it is, that tells of every multiple of `cadence` tokens ([`Observer::progress`]).
    #[must_use]
    pub fn with_progress(mut self, cadence: NonZeroU32) -> Self {
        self.decoding.progress = Some(ProgressWheel::new(cadence));
        self
    }

    /// A time before which no request has progress to tell, gets its first token or finishes, if no further call is made.
    pub fn next_report(&mut self) -> Option<Picos> {
        let event = self.next_event()?;
        let progress = if self.step.is_none() && self.only_decodes() { self.run_progress() } else { None };
        Some(progress.map_or(event, |progress| progress.min(event)))
    }

    /// A time before which neither its load nor what a request has produced changes, if no further call is made.
    pub fn next_change(&mut self) -> Picos {
        let soon = self.clock.saturating_add(Picos(1));
        let front = self.inbox.front().map(|message| message.at);
        let computed = if let Some(step) = self.step {
            step.end
        } else if self.rests() {
            if front.is_some_and(|at| at <= self.clock) { soon } else { Picos::MAX }
        } else if self.boundary < self.clock
            && front.is_none_or(|at| at > self.boundary)
            && self.only_decodes()
        {
            self.step_end()
        } else {
            soon
        };
        let arrival = self.inbox.iter().map(|message| message.at).find(|&at| at > self.clock);
        arrival.map_or(computed, |at| at.min(computed))
    }

    /// What it was built from.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Where [`Executor::advance`] has got to.
    pub fn clock(&self) -> Picos {
        self.clock
    }

    /// Whether it holds no request and expects none.
    pub fn is_idle(&self) -> bool {
        self.slots.len() == 0
    }

    /// Requests that it holds, those included that are still to arrive.
    pub fn requests(&self) -> usize {
        self.slots.len()
    }

    fn check_time(&mut self, at: Picos) -> Result<()> {
        if at < self.latest {
            return Err(Error::TimeWentBack { from: self.latest, to: at });
        }
        self.latest = at;
        Ok(())
    }

    /// Whether the engine has nothing to compute until something happens to it.
    fn rests(&self) -> bool {
        self.decoding.count == 0 && self.partial.is_none() && (self.waiting.length == 0 || self.blocked)
    }

    /// Applies the messages that the step at the boundary sees.
    fn receive(&mut self, observer: &mut impl Observer) {
        while let Some(&Message { at, slot, generation, cancels }) = self.inbox.front() {
            if at > self.boundary {
                break;
            }
            self.inbox.pop_front();
            self.cancellations -= usize::from(cancels);
            if self.slots[slot].generation != generation {
                continue;
            }
            if cancels {
                let (tag, tokens) = (self.slots[slot].tag, self.produced(JobSlot(slot)));
                self.take_out(slot);
                observer.cancelled(tag, self.boundary, tokens);
            } else if self.slots[slot].place == Place::Arriving {
                self.enter_queue(slot, false);
            }
        }
    }

    /// Removes a request from wherever it is.
    fn take_out(&mut self, index: u32) {
        match self.slots[index].place {
            Place::Vacant | Place::Arriving => {}
            Place::Waiting => self.leave_queue(index),
            Place::Prefilling | Place::Decoding | Place::Spent => self.evict(index),
        }
        self.slots.remove(index);
    }

    /// What the engine holds now, without the messages it has not seen.
    fn present_load(&self) -> EngineLoad {
        let partial = self.partial.map_or(0, |index| self.slots[index].input() - self.slots[index].computed);
        EngineLoad {
            waiting: self.waiting.length,
            running: self.running.length,
            queued_prefill_tokens: self.waiting_tokens + u64::from(partial),
            used_blocks: self.pool.used(),
            decode_context_tokens: self.decoding.computed + u64::from(self.decoding.count),
        }
    }
}

impl Executor for FastForward {
    fn submit(&mut self, at: Picos, job: Job) -> Result<JobSlot> {
        self.config.check(&job)?;
        self.check_time(at)?;
        let slot = self.slots.insert(job);
        let generation = self.slots[slot].generation;
        self.inbox.push_back(Message { at, slot, generation, cancels: false });
        Ok(JobSlot(slot))
    }

    fn cancel(&mut self, at: Picos, slot: JobSlot) -> Result<()> {
        self.check_time(at)?;
        if let Some(generation) = self.slots.get(slot.0).map(|slot| slot.generation) {
            self.cancellations += 1;
            self.inbox.push_back(Message { at, slot: slot.0, generation, cancels: true });
        }
        Ok(())
    }

    fn advance(&mut self, until: Picos, observer: &mut impl Observer) -> Result<()> {
        if until < self.clock {
            return Err(Error::TimeWentBack { from: self.clock, to: until });
        }
        self.latest = self.latest.max(until);
        loop {
            if let Some(step) = self.step {
                if step.end > until {
                    break;
                }
                self.complete(step, observer);
                continue;
            }
            if self.rests() {
                let Some(message) = self.inbox.front() else { break };
                self.boundary = self.boundary.max(message.at);
            }
            // A step at `until` itself may still get arrivals.
            if self.boundary >= until {
                break;
            }
            self.receive(observer);
            if self.rests() {
                continue;
            }
            if !self.begin(observer)? && !self.run(until, observer)? {
                break;
            }
        }
        self.clock = until;
        Ok(())
    }

    fn next_event(&mut self) -> Option<Picos> {
        if let Some(step) = self.step {
            return Some(step.end);
        }
        let front = self.inbox.front().map(|message| message.at);
        if self.rests() {
            return Some(front?.max(self.boundary).saturating_add(Picos(1)));
        }
        let decided = front.is_none_or(|at| at > self.boundary) && self.only_decodes();
        let end = decided.then(|| self.run_end()).flatten();
        Some(end.unwrap_or_else(|| self.boundary.max(self.clock).saturating_add(Picos(1))))
    }

    fn load(&self) -> EngineLoad {
        let mut load = self.step.map_or_else(|| self.present_load(), |step| step.load_before);
        for message in self.inbox.iter().take_while(|message| message.at <= self.clock) {
            let slot = &self.slots[message.slot];
            if !message.cancels && slot.generation == message.generation && slot.place == Place::Arriving {
                load.waiting += 1;
                load.queued_prefill_tokens += u64::from(slot.input());
            }
        }
        load
    }

    fn produced(&self, slot: JobSlot) -> u32 {
        match self.slots.get(slot.0) {
            Some(request) if request.place == Place::Decoding => self.decoding.produced(&self.slots, slot.0),
            Some(request) => request.produced,
            None => 0,
        }
    }
}
