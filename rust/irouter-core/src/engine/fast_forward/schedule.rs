//! Steps with more to them than decoding: admissions, prefill chunks, preemptions.

use super::FastForward;
use super::slots::{Place, Prefix};
use crate::engine::{EngineLoad, Observer};
use crate::error::{Error, Result};
use crate::profile::{SchedulerMode, StepShape};
use crate::time::Picos;

/// A step that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) end: Picos,
    /// Whether the decoding requests get a token.
    pub(super) decodes: bool,
    /// What the engine held when it began.
    pub(super) load_before: EngineLoad,
}

/// How the head of the queue would be admitted.
#[derive(Clone, Copy, Debug)]
struct Fit {
    /// Blocks that the prefix cache has.
    hits: u32,
    /// Tokens computed in this step.
    chunk: u32,
    /// Blocks it holds then.
    blocks: u32,
}

impl FastForward {
    /// Begins the step at the boundary, unless it only decodes: then [`FastForward::run`] does it, with those after it.
    pub(super) fn begin(&mut self, observer: &mut impl Observer) -> Result<bool> {
        let prefill_first = self.config.scheduler.mode == SchedulerMode::VllmV0;
        let fits = self.decoding.growth() <= self.pool.free();
        let mut admits = false;
        if self.waiting.length > 0 && self.partial.is_none() && !self.blocked && (fits || prefill_first) {
            // A head that does not fit before the decoding requests have taken their blocks does not fit after.
            admits = self.fit_head(self.budget()).is_some();
            self.blocked = !admits;
            if self.rests() {
                return Ok(true);
            }
        }
        if prefill_first && admits {
            self.begin_prefill(observer)?;
        } else if fits && !admits && self.partial_chunk() == 0 {
            return Ok(false);
        } else {
            self.begin_mixed(observer)?;
        }
        Ok(true)
    }

    /// Whether the coming step, as things stand, is known to only decode.
    pub(super) fn only_decodes(&self) -> bool {
        (self.waiting.length == 0 || self.blocked)
            && self.partial_chunk() == 0
            && self.decoding.growth() <= self.pool.free()
    }

    /// Tokens that prefill may have in a step in which all decoding requests get theirs.
    fn budget(&self) -> u32 {
        let scheduler = &self.config.scheduler;
        match scheduler.mode {
            SchedulerMode::VllmV0 => scheduler.max_num_batched_tokens,
            SchedulerMode::VllmV1 | SchedulerMode::Sarathi => {
                scheduler.max_num_batched_tokens.saturating_sub(self.decoding.count)
            }
        }
    }

    /// Tokens that the partly computed request gets in the coming step.
    fn partial_chunk(&self) -> u32 {
        self.partial.map_or(0, |index| {
            let slot = &self.slots[index];
            (slot.input() - slot.computed).min(self.budget())
        })
    }

    /// A step of `vllm-v0` that admits whole inputs and decodes nothing.
    fn begin_prefill(&mut self, observer: &mut impl Observer) -> Result<()> {
        let load_before = self.present_load();
        let late: u32 = self.late.iter().map(|&(_, count)| count).sum();
        if self.decoding.count > late {
            // They got a token at the boundary, and the next one is delayed.
            self.late.push((self.boundary, self.decoding.count - late));
        }
        let mut shape = StepShape::default();
        self.admit(self.budget(), &mut shape, observer);
        self.set_step(shape, load_before)
    }

    /// A step of all decoding requests, with a prefill chunk or a lack of blocks.
    fn begin_mixed(&mut self, observer: &mut impl Observer) -> Result<()> {
        let load_before = self.present_load();
        let preempted = self.make_room(observer);
        let chunk = self.partial_chunk();
        let mut budget = self.budget();
        let mut shape = StepShape {
            decodes: self.decoding.count,
            decode_context: self.decoding.computed + u64::from(self.decoding.count),
            ..StepShape::default()
        };
        self.pool.allocate(self.decoding.growth());
        if let Some(index) = self.partial.filter(|_| chunk > 0) {
            self.pool.allocate(self.partial_growth());
            self.compute(index, chunk, &mut shape);
            budget -= chunk;
        }
        let prefill_first = self.config.scheduler.mode == SchedulerMode::VllmV0;
        if !preempted && !prefill_first {
            self.admit(budget, &mut shape, observer);
        }
        self.set_step(shape, load_before)
    }

    fn set_step(&mut self, shape: StepShape, load_before: EngineLoad) -> Result<()> {
        if shape == StepShape::default() {
            // A twin whose requests were all preempted: nothing to compute in this step, and the next one admits.
            return Ok(());
        }
        let (scale, _) = self.pace.at(self.boundary);
        let duration = self.config.steps.step(&shape, scale);
        let end = self.boundary.checked_add(duration).ok_or(Error::TimeOverflow { at: self.boundary })?;
        self.step = Some(Step { end, decodes: shape.decodes > 0, load_before });
        Ok(())
    }

    /// Preempts the newest requests until the others have the blocks that the step takes.
    ///
    /// Going through the requests in order of admission, and preempting the last whenever one finds no block, takes the
    /// same: it stops at the first request, seen from the end, without which the remaining ones fit.
    fn make_room(&mut self, observer: &mut impl Observer) -> bool {
        let mut preempted = false;
        while self.decoding.growth() + self.partial_growth() > self.pool.free() && self.running.length > 0 {
            let index = self.running.last;
            let tag = self.slots[index].tag;
            self.evict(index);
            if self.slots[index].place == Place::Spent {
                // A twin's request that had no more to give computes its last token again.
                self.slots[index].produced -= 1;
            }
            self.enter_queue(index, true);
            observer.preempted(tag, self.boundary);
            preempted = true;
        }
        preempted
    }

    /// Blocks that the next chunk of the partly computed request takes.
    fn partial_growth(&self) -> u32 {
        // Sarathi reserved them at admission.
        if self.config.scheduler.mode == SchedulerMode::Sarathi {
            return 0;
        }
        self.partial.map_or(0, |index| {
            let computed = self.slots[index].computed;
            self.config.blocks_for(computed + self.partial_chunk()) - self.config.blocks_for(computed)
        })
    }

    /// How the head of the queue can be admitted now with `budget` tokens, if at all.
    fn fit_head(&self, budget: u32) -> Option<Fit> {
        let free = self.pool.free();
        let scheduler = &self.config.scheduler;
        if self.running.length >= scheduler.max_num_seqs || budget == 0 {
            return None;
        }
        let index = self.waiting.first;
        let (input, prompt) = (self.slots[index].input(), self.slots[index].prompt);
        // The last token is computed in any case, since the next one comes from it.
        let full = (input - 1).min(prompt) / self.config.kv.block_tokens;
        let hits = self.pool.hits(self.slots.hashes(index, full));
        let rest = input - hits.blocks * self.config.kv.block_tokens;
        let whole = self.config.blocks_for(input);
        let (chunk, blocks) = match scheduler.mode {
            SchedulerMode::VllmV0 => {
                // Alone in its step, an input may exceed the budget.
                if rest > budget && budget < scheduler.max_num_batched_tokens {
                    return None;
                }
                (rest, whole)
            }
            SchedulerMode::VllmV1 => {
                let chunk = rest.min(budget);
                (chunk, self.config.blocks_for(input - rest + chunk))
            }
            SchedulerMode::Sarathi => (rest.min(budget), whole),
        };
        let taken = blocks - hits.in_use;
        let needed = if scheduler.reserve_full_input { whole - hits.in_use } else { taken };
        // Whatever the watermark, an engine with nothing else to do takes the head: waiting would not help.
        let kept = if self.running.length == 0 { 0 } else { self.config.watermark_blocks() };
        (needed <= free && taken + kept <= free).then_some(Fit { hits: hits.blocks, chunk, blocks })
    }

    /// Admits requests from the head of the queue while they fit.
    fn admit(&mut self, mut budget: u32, shape: &mut StepShape, observer: &mut impl Observer) {
        while self.waiting.length > 0 {
            let Some(Fit { hits, chunk, blocks }) = self.fit_head(budget) else { break };
            debug_assert!(self.partial.is_none(), "a partly computed input has taken the whole budget");
            let index = self.waiting.first;
            self.leave_queue(index);
            self.enter_batch(index);
            let slot = &mut self.slots[index];
            slot.computed = hits * self.config.kv.block_tokens;
            slot.place = Place::Prefilling;
            observer.admitted(slot.tag, self.boundary, slot.computed);
            if let Some(prefix) = self.slots.prefix(index) {
                let hashes = prefix.hashes.as_deref().unwrap_or(&[]);
                self.pool.hold(&hashes[..hits as usize], &mut prefix.held);
            }
            self.pool.allocate(blocks - hits);
            self.compute(index, chunk, shape);
            // A whole input beyond the budget of `vllm-v0` ends its step.
            budget = budget.saturating_sub(chunk);
        }
    }

    /// Adds a prefill chunk of an admitted request, which has its blocks, to the step.
    fn compute(&mut self, index: u32, chunk: u32, shape: &mut StepShape) {
        let slot = &mut self.slots[index];
        shape.prefill_sequences += 1;
        shape.prefill_tokens += chunk;
        shape.prefill_pairs += u64::from(chunk) * (2 * u64::from(slot.computed) + u64::from(chunk));
        slot.computed += chunk;
        let computed = slot.computed;
        if computed == slot.input() {
            self.partial = None;
            self.joining.push(index);
        } else {
            self.partial = Some(index);
        }
        // As in vLLM the blocks can be shared from the step on that fills them.
        let full = computed.min(self.slots[index].prompt) / self.config.kv.block_tokens;
        if let Some(Prefix { hashes: Some(hashes), held }) = self.slots.prefix(index) {
            self.pool.name(&hashes[..hashes.len().min(full as usize)], held);
        }
    }

    /// Ends the step that has begun.
    pub(super) fn complete(&mut self, step: Step, observer: &mut impl Observer) {
        let start = self.boundary;
        self.step = None;
        self.boundary = step.end;
        if step.decodes {
            self.give_gaps(start, step.end, observer);
            self.decoding.advance(1, step.end);
        }
        for &index in &self.joining {
            let slot = &self.slots[index];
            if slot.produced > 0 {
                observer.gap(1, step.end - Picos(slot.last_token));
            }
        }
        self.give_progress(step, observer);
        self.give_finishes(observer);
        let mut joining = std::mem::take(&mut self.joining);
        for index in joining.drain(..) {
            self.join(index, observer);
        }
        self.joining = joining;
    }

    /// Tells the progress of a step that has ended, of the requests that decoded and then of those preempted before that
    /// have their input computed again.
    fn give_progress(&self, step: Step, observer: &mut impl Observer) {
        let Some(wheel) = &self.decoding.progress else { return };
        if step.decodes {
            self.decoding.give_progress(&self.slots, 0, step.end, observer);
        }
        for &index in &self.joining {
            let slot = &self.slots[index];
            let produced = slot.produced + 1;
            if slot.produced > 0 && produced < slot.output && wheel.tells(produced) {
                observer.progress(slot.tag, step.end, produced);
            }
        }
    }

    /// Tells the gaps of a decode step.
    pub(super) fn give_gaps(&mut self, start: Picos, end: Picos, observer: &mut impl Observer) {
        let mut count = self.decoding.count;
        for (last_token, late) in self.late.drain(..) {
            // A twin's request may have come into the batch, and left, without being one of the late ones.
            let late = late.min(count);
            observer.gap(late, end - last_token);
            count -= late;
        }
        if count > 0 {
            observer.gap(count, end - start);
        }
    }

    /// Takes out, in order of admission, the decoding requests that have produced their output.
    pub(super) fn give_finishes(&mut self, observer: &mut impl Observer) {
        while let Some(index) = self.decoding.pop_finished(&self.slots) {
            if self.open_ended {
                self.decoding.leave(&mut self.slots, index);
                self.slots[index].place = Place::Spent;
                continue;
            }
            let tag = self.slots[index].tag;
            self.take_out(index);
            observer.finished(tag, self.boundary);
        }
    }

    /// The input of the request is computed: it gets a token and decodes from now on.
    fn join(&mut self, index: u32, observer: &mut impl Observer) {
        let slot = &mut self.slots[index];
        slot.last_token = self.boundary.0;
        slot.produced += 1;
        if slot.produced == 1 {
            observer.first_token(slot.tag, self.boundary);
        }
        if slot.produced < slot.output {
            self.decoding.join(&mut self.slots, index);
        } else if self.open_ended {
            slot.place = Place::Spent;
        } else {
            let tag = slot.tag;
            self.take_out(index);
            observer.finished(tag, self.boundary);
        }
    }

    /// Takes an admitted request out of the batch, and its blocks back.
    pub(super) fn evict(&mut self, index: u32) {
        let blocks = self.held_blocks(index);
        self.leave_batch(index);
        self.running.unlink(&mut self.slots, index);
        self.release_blocks(index, blocks);
        // Another may fit now.
        self.blocked = false;
    }

    /// Takes an admitted request out of what the coming steps compute.
    pub(super) fn leave_batch(&mut self, index: u32) {
        match self.slots[index].place {
            Place::Decoding => self.leave_decoding(index),
            Place::Prefilling if self.partial == Some(index) => self.partial = None,
            // Only a twin takes out a request in the middle of a step.
            Place::Prefilling => self.joining.retain(|&other| other != index),
            Place::Vacant | Place::Arriving | Place::Waiting | Place::Spent => {}
        }
    }

    /// Puts a request at the end of the batch.
    pub(super) fn enter_batch(&mut self, index: u32) {
        self.running.push_back(&mut self.slots, index);
        self.slots[index].order = self.admissions;
        self.admissions += 1;
    }

    /// Puts a request into the engine's queue: a new one at its end, a preempted one at its head.
    pub(super) fn enter_queue(&mut self, index: u32, preempted: bool) {
        self.slots[index].place = Place::Waiting;
        self.waiting_tokens += u64::from(self.slots[index].input());
        if preempted {
            self.waiting.push_front(&mut self.slots, index);
        } else {
            self.waiting.push_back(&mut self.slots, index);
        }
    }

    /// Takes a request out of the engine's queue.
    pub(super) fn leave_queue(&mut self, index: u32) {
        self.waiting_tokens -= u64::from(self.slots[index].input());
        self.waiting.unlink(&mut self.slots, index);
        // Another head may fit where this one did not.
        self.blocked = false;
    }

    /// Gives back the `blocks` that a request holds.
    fn release_blocks(&mut self, index: u32, blocks: u32) {
        match self.slots.prefix(index) {
            #[expect(clippy::cast_possible_truncation, reason = "blocks are counted in 32 bits")]
            Some(Prefix { held, .. }) => self.pool.release_all(blocks - held.len() as u32, held),
            None => self.pool.release(blocks),
        }
    }

    /// Blocks that an admitted request holds.
    pub(super) fn held_blocks(&self, index: u32) -> u32 {
        let slot = &self.slots[index];
        let reserved = self.config.scheduler.mode == SchedulerMode::Sarathi && self.partial == Some(index);
        match slot.place {
            Place::Vacant | Place::Arriving | Place::Waiting => 0,
            Place::Prefilling if reserved => self.config.blocks_for(slot.input()),
            Place::Prefilling => self.config.blocks_for(slot.computed),
            Place::Decoding => {
                // The block of the token that the step in progress computes has been taken.
                let now = u32::from(self.step.is_some_and(|step| step.decodes));
                self.config.blocks_for(self.decoding.computed(&self.slots, index) + now)
            }
            Place::Spent => self.config.blocks_for(slot.input() - 1),
        }
    }

    fn leave_decoding(&mut self, index: u32) {
        let slot = &mut self.slots[index];
        let last_token = slot.last_token.max(self.decoding.last_step.0);
        slot.last_token = last_token;
        if let Some((_, count)) = self.late.iter_mut().find(|(time, _)| time.0 == last_token) {
            *count = count.saturating_sub(1);
        }
        self.decoding.leave(&mut self.slots, index);
    }
}
