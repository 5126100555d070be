//! What a router needs of an engine that mirrors a real one.

use std::sync::Arc;

use super::FastForward;
use super::slots::{Place, Prefix};
use crate::engine::{EngineConfig, JobSlot};
use crate::profile::Scale;
use crate::time::Picos;

impl FastForward {
    /// An engine that finishes nothing by itself: a request that has produced its `output_tokens` keeps its place and its
    /// blocks, and gets no more tokens, until [`FastForward::remove`].
    pub fn twin(config: Arc<EngineConfig>) -> Self {
        Self { open_ended: true, ..Self::new(config, None) }
    }

    /// A copy that finishes requests at their `output_tokens`, to run ahead with assumed lengths.
    ///
    /// A request that has produced all that was assumed of it produces one token more there.
    #[must_use]
    pub fn forecast(&self) -> Self {
        let mut forecast = Self { open_ended: false, ..self.clone() };
        forecast.pool.forget_peak();
        let mut index = forecast.running.first;
        while let Some((place, next)) = forecast.slots.get(index).map(|slot| (slot.place, slot.next)) {
            if place == Place::Spent {
                forecast.set_output_tokens(JobSlot(index), 0);
            }
            index = next;
        }
        forecast
    }

    /// The most KV blocks in use at a time, since the copy was made where it is a [`Self::forecast`].
    pub fn peak_blocks(&self) -> u32 {
        self.pool.peak()
    }

    /// Sets the factor on step times, on top of any noise, for steps that have not begun.
    pub fn set_speed(&mut self, speed: Scale) {
        self.pace.set_speed(speed);
    }

    /// Takes a request out at the clock; nothing happens when it is not there.
    pub fn remove(&mut self, slot: JobSlot) {
        if self.slots.get(slot.0).is_some() {
            self.wake();
            self.take_out(slot.0);
            self.refresh_load();
        }
    }

    /// Says that a request has produced `produced` tokens at the clock.
    ///
    /// With at least one token it decodes from now on, even when the model still had it waiting, and holds the blocks of
    /// its context, even when the model has none free: the model is then short of blocks until some are given back,
    /// and preempts as it would. With 0 tokens it stays as it is, unless the model had it decode. A context beyond the
    /// whole KV cache of the model, which so is smaller than the real one, is taken as the whole of it.
    pub fn correct(&mut self, slot: JobSlot, produced: u32) {
        let index = slot.0;
        let Some(place) = self.slots.get(index).map(|slot| slot.place) else { return };
        let produced = produced.min(self.longest_output(index));
        let batched = matches!(place, Place::Decoding | Place::Spent);
        if !batched && produced == 0
            || place == Place::Decoding && self.decoding.produced(&self.slots, index) == produced
        {
            return;
        }
        self.wake();
        let held = self.held_blocks(index);
        match place {
            Place::Vacant | Place::Arriving => {}
            Place::Waiting => self.leave_queue(index),
            Place::Prefilling | Place::Decoding | Place::Spent => self.leave_batch(index),
        }
        if matches!(place, Place::Arriving | Place::Waiting) {
            self.enter_batch(index);
        }
        self.slots[index].produced = produced;
        self.settle(index, held);
        self.refresh_load();
    }

    /// Sets the number of tokens at which a request ends: at least one more than it has produced, and no more than fit
    /// the KV cache.
    pub fn set_output_tokens(&mut self, slot: JobSlot, tokens: u32) {
        let index = slot.0;
        let Some(place) = self.slots.get(index).map(|slot| slot.place) else { return };
        let least = super::Executor::produced(self, slot) + 1;
        if place == Place::Spent {
            self.wake();
        }
        let held = self.held_blocks(index);
        self.slots[index].output = tokens.min(self.longest_output(index)).max(least);
        match place {
            Place::Decoding => self.decoding.expect_finish(&self.slots, index),
            Place::Spent => self.settle(index, held),
            Place::Vacant | Place::Arriving | Place::Waiting | Place::Prefilling => {}
        }
    }

    /// Forgets every request, as an engine does that starts anew.
    pub fn clear(&mut self) {
        *self = Self {
            pace: self.pace.clone(),
            clock: self.clock,
            boundary: self.clock,
            latest: self.latest,
            open_ended: self.open_ended,
            ..Self::new(Arc::clone(&self.config), None)
        };
    }

    /// The factor on step times that [`Self::set_speed`] set.
    pub fn speed(&self) -> Scale {
        self.pace.speed()
    }

    /// Tokens of the request's input that no step computes yet, what the prefix cache may have included; 0 for one that
    /// decodes, and for one whose input the step in progress completes.
    pub fn uncomputed(&self, slot: JobSlot) -> u32 {
        self.slots.get(slot.0).map_or(0, |slot| match slot.place {
            Place::Arriving | Place::Waiting => slot.input(),
            Place::Prefilling => slot.input() - slot.computed,
            Place::Vacant | Place::Decoding | Place::Spent => 0,
        })
    }

    /// The start of the first step that sees a request which comes at `at`, if steps go on as the next one will: exact
    /// when it is the end of the step in progress, or when there is nothing to compute.
    pub fn seen_at(&self, at: Picos) -> Picos {
        let boundary = self.step.map_or(self.boundary, |step| step.end);
        #[expect(clippy::cast_possible_truncation, reason = "requests in an engine fit 32 bits")]
        let decodes = self.decoding.count + self.joining.len() as u32;
        if boundary >= at || decodes == 0 {
            return boundary.max(at);
        }
        let context = self.decoding.computed + u64::from(decodes);
        let step = self.config.steps.decode_run(decodes, context, self.speed()).step(0).0;
        let late = at.0 - boundary.0;
        Picos(boundary.0.saturating_add((late + step - 1) / step * step))
    }

    fn longest_output(&self, index: u32) -> u32 {
        self.config.longest_request() - self.slots[index].prompt
    }

    /// An engine that has had nothing to do does not make up for the time.
    fn wake(&mut self) {
        if self.step.is_none() && self.rests() {
            self.boundary = self.boundary.max(self.clock);
        }
    }

    /// What the engine held before the step in progress is not what it holds after an event.
    fn refresh_load(&mut self) {
        let load = self.present_load();
        if let Some(step) = &mut self.step {
            step.load_before = load;
        }
    }

    /// Makes a request of the batch, which holds `held` blocks and has produced what its slot says, decode.
    #[expect(clippy::cast_possible_truncation, reason = "blocks are counted in 32 bits")]
    fn settle(&mut self, index: u32, mut held: u32) {
        let block_tokens = self.config.kv.block_tokens;
        let slot = &mut self.slots[index];
        slot.last_token = self.clock.0;
        let (prompt, computed) = (slot.prompt, slot.prompt + slot.produced - 1);
        let spent = slot.produced >= slot.output;
        let now = u32::from(!spent && self.step.is_some_and(|step| step.decodes));
        let full = computed.min(prompt) / block_tokens;
        let hits = if held == 0 { self.pool.hits(self.slots.hashes(index, full)).blocks } else { 0 };
        if let Some(Prefix { hashes, held: nodes }) = self.slots.prefix(index) {
            let hashes = hashes.as_deref().unwrap_or(&[]);
            self.pool.hold(&hashes[..hits as usize], nodes);
            // Back before its first token, the block that its last prompt token had filled is not full.
            let mut surplus = nodes.split_off(nodes.len().min(full as usize));
            held = held + hits - surplus.len() as u32;
            self.pool.release_all(0, &mut surplus);
        }
        let blocks = self.config.blocks_for(computed + now);
        if blocks >= held {
            self.pool.allocate(blocks - held);
        } else {
            self.pool.release(held - blocks);
        }
        if let Some(Prefix { hashes: Some(hashes), held: nodes }) = self.slots.prefix(index) {
            self.pool.name(&hashes[..hashes.len().min(full as usize)], nodes);
        }
        if spent {
            self.slots[index].place = Place::Spent;
        } else {
            self.decoding.join(&mut self.slots, index);
        }
    }
}
