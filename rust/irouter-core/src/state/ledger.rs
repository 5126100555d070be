//! The requests known to the router, each in exactly one place.

use crate::engine::JobSlot;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, RequestKey};
use crate::request::Request;

use super::work::Effort;

/// A request known to the router.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) request: Request,
    /// Predicted as of its arrival.
    pub(super) effort: Effort,
    pub(super) place: Place,
}

/// Where a request is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the central queue.
    Waiting,
    /// On an instance.
    Dispatched(Lease),
}

/// What a dispatched request holds on its instance.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) instance: InstanceId,
    /// Position in the instance's list.
    pub(super) position: u32,
    /// Prompt tokens expected to be computed.
    pub(super) uncached_tokens: u32,
    pub(super) started: bool,
    /// Tokens known to have been produced.
    pub(super) produced: u32,
    pub(super) remaining_millitokens: u64,
    pub(super) twin: Option<TwinLease>,
}

/// A request's place in the twin.
#[derive(Clone, Copy, Debug)]
pub(super) struct TwinLease {
    pub(super) slot: JobSlot,
    /// What the twin thought when it was last looked at, after the correction.
    pub(super) produced: u32,
    /// Tokens that the twin has produced since the last event, those included that were taken back: a twin that is too fast
    /// is held back at every look, and would seem right if it were not for them.
    pub(super) modelled: u32,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

/// Slab of requests: memory is bounded by the most that were known at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Ledger {
    pub(super) fn insert(&mut self, entry: Entry) -> RequestKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            // Four billion requests in flight do not fit into memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.slots[slot as usize];
        place.entry = Some(entry);
        RequestKey { slot, generation: place.generation }
    }

    pub(super) fn remove(&mut self, key: RequestKey) -> Result<Entry> {
        let unknown = Error::UnknownRequest { request: key };
        let slot = self.slots.get_mut(key.index()).filter(|slot| slot.generation == key.generation);
        let entry = slot.and_then(|slot| {
            slot.generation = slot.generation.wrapping_add(1);
            slot.entry.take()
        });
        entry.ok_or(unknown).inspect(|_| self.free.push(key.slot))
    }

    pub(super) fn get(&self, key: RequestKey) -> Result<&Entry> {
        self.slots
            .get(key.index())
            .filter(|slot| slot.generation == key.generation)
            .and_then(|slot| slot.entry.as_ref())
            .ok_or(Error::UnknownRequest { request: key })
    }

    pub(super) fn get_mut(&mut self, key: RequestKey) -> Result<&mut Entry> {
        self.slots
            .get_mut(key.index())
            .filter(|slot| slot.generation == key.generation)
            .and_then(|slot| slot.entry.as_mut())
            .ok_or(Error::UnknownRequest { request: key })
    }

    /// The key of a slot in use.
    pub(super) fn key(&self, slot: u32) -> RequestKey {
        RequestKey { slot, generation: self.slots[slot as usize].generation }
    }

    /// The request and lease of a dispatched request by its slot.
    pub(super) fn lease(&self, slot: u32) -> Option<(&Request, &Lease)> {
        match self.slots.get(slot as usize)?.entry.as_ref()? {
            Entry { request, place: Place::Dispatched(lease), .. } => Some((request, lease)),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn lease_mut(&mut self, slot: u32) -> Option<(&Request, &mut Lease)> {
        match self.slots.get_mut(slot as usize)?.entry.as_mut()? {
            Entry { request, place: Place::Dispatched(lease), .. } => Some((request, lease)),
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
