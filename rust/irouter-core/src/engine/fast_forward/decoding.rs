//! The requests that decode, as sums: all of them advance together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::progress::ProgressWheel;
use super::slots::{Place, Slots};
use crate::engine::Observer;
use crate::time::Picos;

/// Sums over the requests that decode, and the order in which they will end.
///
/// `steps` counts the decode steps of the engine. A request that has `c` tokens computed when `s` steps are counted takes
/// a new block in the step in which `c` is a multiple of the block size; since `c - s` stays the same, so does
/// its *phase* `(c - s) mod block size`, and the blocks that a step takes are one entry of a table of counts by phase.
#[derive(Clone, Debug)]
pub(super) struct Decoding {
    /// How many requests.
    pub(super) count: u32,
    /// Tokens computed, of all of them.
    pub(super) computed: u64,
    /// Decode steps completed so far.
    pub(super) steps: u64,
    /// End of the last of them.
    pub(super) last_step: Picos,
    phases: Vec<u32>,
    /// The phase that takes blocks in the coming step.
    cursor: u32,
    /// (steps at its end, order of admission, slot); entries of requests that have left or moved are stale.
    finishes: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// Who is to tell of progress in which step, when anybody is.
    pub(super) progress: Option<ProgressWheel>,
}

impl Decoding {
    pub(super) fn new(block_tokens: u32) -> Self {
        Self {
            count: 0,
            computed: 0,
            steps: 0,
            last_step: Picos::ZERO,
            phases: vec![0; block_tokens as usize],
            cursor: 0,
            finishes: BinaryHeap::new(),
            progress: None,
        }
    }

    /// Tokens that the decoding request has produced.
    #[inline]
    pub(super) fn produced(&self, slots: &Slots, index: u32) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below the request's output")]
        {
            self.steps.wrapping_sub(slots[index].base) as u32
        }
    }

    /// Tokens of the decoding request that are computed: all but the one that came out last.
    #[inline]
    pub(super) fn computed(&self, slots: &Slots, index: u32) -> u32 {
        slots[index].prompt + self.produced(slots, index) - 1
    }

    /// The request, which has produced less than its output, decodes from the next step on.
    pub(super) fn join(&mut self, slots: &mut Slots, index: u32) {
        let slot = &mut slots[index];
        slot.place = Place::Decoding;
        slot.base = self.steps.wrapping_sub(u64::from(slot.produced));
        let (computed, produced) = (slot.prompt + slot.produced - 1, slot.produced);
        self.expect_finish(slots, index);
        if let Some(wheel) = &mut self.progress {
            wheel.join(self.steps, produced, index);
        }
        self.count += 1;
        self.computed += u64::from(computed);
        *self.phase(computed) += 1;
    }

    /// Notes when the decoding request will have produced its output.
    pub(super) fn expect_finish(&mut self, slots: &Slots, index: u32) {
        let slot = &slots[index];
        let end = slot.base.wrapping_add(u64::from(slot.output));
        self.finishes.push(Reverse((end, slot.order, index)));
    }

    /// The request decodes no more; its slot gets back what it has produced.
    pub(super) fn leave(&mut self, slots: &mut Slots, index: u32) {
        let computed = self.computed(slots, index);
        let produced = self.produced(slots, index);
        slots[index].produced = produced;
        if let Some(wheel) = &mut self.progress {
            wheel.leave(self.steps, produced, index);
        }
        self.count -= 1;
        self.computed -= u64::from(computed);
        *self.phase(computed) -= 1;
        // Stale entries go when they come to the top, or when they are the most.
        if self.finishes.len() > 64 + 4 * self.count as usize {
            let mut finishes = std::mem::take(&mut self.finishes);
            finishes.retain(|&Reverse(entry)| is_current(slots, entry));
            self.finishes = finishes;
        }
    }

    /// The count of the phase in which a request with `computed` tokens is now.
    fn phase(&mut self, computed: u32) -> &mut u32 {
        let size = self.size();
        // `cursor` is `-steps mod size`.
        let phase = (computed % size + self.cursor) % size;
        &mut self.phases[phase as usize]
    }

    #[expect(clippy::cast_possible_truncation, reason = "made from a u32")]
    fn size(&self) -> u32 {
        self.phases.len() as u32
    }

    /// Blocks that the coming step takes.
    #[inline]
    pub(super) fn growth(&self) -> u32 {
        self.phases[self.cursor as usize]
    }

    /// Blocks that the next `steps` steps take.
    pub(super) fn growth_over(&self, steps: u64) -> u32 {
        let size = u64::from(self.size());
        let (cycles, rest) = if steps < size { (0, steps) } else { (steps / size, steps % size) };
        let part: u32 = self.upcoming().take(usize::try_from(rest).unwrap_or(usize::MAX)).sum();
        #[expect(clippy::cast_possible_truncation, reason = "the caller knows that so many are free")]
        {
            (cycles * u64::from(self.count)) as u32 + part
        }
    }

    /// Steps that `free` blocks allow, at most `limit`.
    pub(super) fn steps_with(&self, free: u32, limit: u64) -> u64 {
        let size = u64::from(self.size());
        if u64::from(self.count) * limit.div_ceil(size) <= u64::from(free) {
            return limit;
        }
        // Every `size` steps take one block each, so the rest lasts less than `size` steps.
        let mut rest = free % self.count;
        let part = self.upcoming().take_while(|&blocks| {
            let enough = blocks <= rest;
            rest = rest.saturating_sub(blocks);
            enough
        });
        (u64::from(free / self.count) * size + part.count() as u64).min(limit)
    }

    /// Blocks taken by the coming steps, one after the other.
    fn upcoming(&self) -> impl Iterator<Item = u32> {
        let (before, after) = self.phases.split_at(self.cursor as usize + 1);
        before.iter().rev().chain(after.iter().rev()).copied()
    }

    /// Every request gets `steps` tokens; the last at `at`.
    pub(super) fn advance(&mut self, steps: u64, at: Picos) {
        self.steps += steps;
        self.computed += u64::from(self.count) * steps;
        self.last_step = at;
        let size = self.size();
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of a u32")]
        let back = if steps < u64::from(size) { steps as u32 } else { (steps % u64::from(size)) as u32 };
        self.cursor = if self.cursor >= back { self.cursor - back } else { self.cursor + size - back };
    }

    /// Tells of the requests that reach a multiple of the reporting cadence in the step that is `ahead` of the last one
    /// counted, and that ends at `at`.
    pub(super) fn give_progress(&self, slots: &Slots, ahead: u64, at: Picos, observer: &mut impl Observer) {
        let Some(wheel) = &self.progress else { return };
        for &index in wheel.at(self.steps + ahead) {
            #[expect(clippy::cast_possible_truncation, reason = "at most the request's output")]
            let produced = self.produced(slots, index) + ahead as u32;
            if produced < slots[index].output {
                observer.progress(slots[index].tag, at, produced);
            }
        }
    }

    /// Steps until a request has produced its output.
    pub(super) fn steps_to_finish(&mut self, slots: &Slots) -> Option<u64> {
        while let Some(&Reverse(entry)) = self.finishes.peek() {
            if is_current(slots, entry) {
                return Some(entry.0 - self.steps);
            }
            self.finishes.pop();
        }
        None
    }

    /// The next request that has produced its output, in the order of admission.
    pub(super) fn pop_finished(&mut self, slots: &Slots) -> Option<u32> {
        while let Some(&Reverse(entry)) = self.finishes.peek() {
            let current = is_current(slots, entry);
            if current && entry.0 > self.steps {
                return None;
            }
            self.finishes.pop();
            if current {
                return Some(entry.2);
            }
        }
        None
    }
}

fn is_current(slots: &Slots, (end, order, index): (u64, u64, u32)) -> bool {
    let slot = &slots[index];
    slot.place == Place::Decoding
        && slot.order == order
        && slot.base.wrapping_add(u64::from(slot.output)) == end
}
