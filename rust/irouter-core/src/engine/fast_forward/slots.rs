//! Where the requests of an engine live, and the queues that chain them.

use std::sync::Arc;

use crate::engine::Job;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: the slot is free.
    Vacant,
    /// Submitted, not yet seen by the engine.
    Arriving,
    /// In the engine's queue.
    Waiting,
    /// Admitted, its input not computed to the end.
    Prefilling,
    /// Admitted, one token per step.
    Decoding,
    /// In a twin: at its assumed length, waiting for the event that ends it.
    Spent,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) tag: u64,
    /// Number of its admission; requests that run are ordered by it.
    pub(super) order: u64,
    /// While decoding: the engine's count of decode steps minus the tokens produced, which stays the same.
    pub(super) base: u64,
    /// Time of its last token, while that was not given by a decode step.
    pub(super) last_token: i64,
    pub(super) prompt: u32,
    pub(super) output: u32,
    /// Tokens produced, except while decoding.
    pub(super) produced: u32,
    /// While prefilling: tokens of its input that are computed or being computed.
    pub(super) computed: u32,
    pub(super) previous: u32,
    pub(super) next: u32,
    /// Tells one request of this slot from the next.
    pub(super) generation: u32,
    pub(super) place: Place,
}

impl Slot {
    /// Tokens to compute before the next one comes out.
    pub(super) fn input(&self) -> u32 {
        self.prompt + self.produced
    }
}

/// What the prefix cache has to do with a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefix {
    /// Hashes of its full prompt blocks.
    pub(super) hashes: Option<Arc<[u64]>>,
    /// Its blocks that carry them, the leading ones.
    pub(super) held: Vec<u32>,
}

/// All requests of an engine, in slots that are used again.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    vacant: Vec<u32>,
    /// One per slot; none at all without a prefix cache.
    prefixes: Vec<Prefix>,
    caching: bool,
}

impl std::ops::Index<u32> for Slots {
    type Output = Slot;
    #[inline]
    fn index(&self, slot: u32) -> &Slot {
        &self.all[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Slots {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.all[slot as usize]
    }
}

impl Slots {
    /// No requests; `caching` says whether block hashes are of use.
    pub(super) fn new(caching: bool) -> Self {
        Self { caching, ..Self::default() }
    }

    /// What the prefix cache has to do with a request; `None` without a prefix cache.
    pub(super) fn prefix(&mut self, index: u32) -> Option<&mut Prefix> {
        self.prefixes.get_mut(index as usize)
    }

    /// Hashes of the leading full prompt blocks, at most `limit`.
    pub(super) fn hashes(&self, index: u32, limit: u32) -> &[u64] {
        let hashes = self.prefixes.get(index as usize).and_then(|prefix| prefix.hashes.as_deref());
        hashes.map_or(&[], |hashes| &hashes[..hashes.len().min(limit as usize)])
    }

    /// Requests in the engine.
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.vacant.len()
    }

    /// The slot, unless it is vacant.
    pub(super) fn get(&self, slot: u32) -> Option<&Slot> {
        self.all.get(slot as usize).filter(|slot| slot.place != Place::Vacant)
    }

    /// Puts a request into a vacant slot.
    pub(super) fn insert(&mut self, job: Job) -> u32 {
        let index = self.vacant.pop().unwrap_or_else(|| {
            let vacant = Slot {
                tag: 0,
                order: 0,
                base: 0,
                last_token: 0,
                prompt: 0,
                output: 0,
                produced: 0,
                computed: 0,
                previous: NONE,
                next: NONE,
                generation: 0,
                place: Place::Vacant,
            };
            self.all.push(vacant);
            #[expect(clippy::cast_possible_truncation, reason = "requests in an engine fit 32 bits")]
            {
                (self.all.len() - 1) as u32
            }
        });
        if self.caching {
            self.prefixes.resize_with(self.all.len(), Prefix::default);
            self.prefixes[index as usize].hashes = job.prompt_blocks;
        }
        let slot = &mut self[index];
        (slot.tag, slot.prompt, slot.output) = (job.tag, job.prompt_tokens, job.output_tokens);
        slot.produced = 0;
        slot.place = Place::Arriving;
        index
    }

    /// Makes the slot vacant. Its blocks have been given back.
    pub(super) fn remove(&mut self, index: u32) {
        let slot = &mut self[index];
        slot.place = Place::Vacant;
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(prefix) = self.prefixes.get_mut(index as usize) {
            prefix.hashes = None;
        }
        self.vacant.push(index);
    }
}

/// A queue of slots, chained through them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) length: u32,
}

impl Chain {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE, length: 0 };

    pub(super) fn push_back(&mut self, slots: &mut Slots, index: u32) {
        (slots[index].previous, slots[index].next) = (self.last, NONE);
        match self.last {
            NONE => self.first = index,
            last => slots[last].next = index,
        }
        self.last = index;
        self.length += 1;
    }

    pub(super) fn push_front(&mut self, slots: &mut Slots, index: u32) {
        (slots[index].previous, slots[index].next) = (NONE, self.first);
        match self.first {
            NONE => self.last = index,
            first => slots[first].previous = index,
        }
        self.first = index;
        self.length += 1;
    }

    pub(super) fn unlink(&mut self, slots: &mut Slots, index: u32) {
        let (previous, next) = (slots[index].previous, slots[index].next);
        match previous {
            NONE => self.first = next,
            previous => slots[previous].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => slots[next].previous = previous,
        }
        self.length -= 1;
    }
}
