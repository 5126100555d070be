//! Which prefix blocks an instance probably caches, from what was dispatched to it.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

/// Hasher for block hashes, which are hashes already. Small consecutive numbers are legal, and the table takes its tag
/// from the upper bits, so one multiplication spreads them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    newer: u32,
    older: u32,
}

/// Least-recently-used set of block hashes: of an instance, as many as it has KV blocks.
#[derive(Clone, Debug)]
pub struct PrefixIndex {
    map: HashMap<u64, u32, BuildHasherDefault<BlockHasher>>,
    entries: Vec<Entry>,
    newest: u32,
    oldest: u32,
    capacity: usize,
}

impl PrefixIndex {
    /// An empty index for `capacity` blocks, at least one.
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            map: HashMap::default(),
            entries: Vec::new(),
            newest: NONE,
            oldest: NONE,
            capacity: capacity.max(1) as usize,
        }
    }

    /// How many leading blocks are in the index.
    pub fn matched_blocks(&self, blocks: &[u64]) -> u32 {
        let matched = blocks.iter().take_while(|hash| self.map.contains_key(*hash)).count();
        u32::try_from(matched).unwrap_or(u32::MAX)
    }

    /// Notes that a request with these blocks went to the instance. Its first blocks are the last to be forgotten.
    pub(crate) fn touch(&mut self, blocks: &[u64]) {
        for &hash in blocks.iter().rev() {
            let slot = if let Some(&slot) = self.map.get(&hash) {
                self.unlink(slot);
                slot
            } else {
                let slot = self.free_slot();
                self.entries[slot as usize].hash = hash;
                self.map.insert(hash, slot);
                slot
            };
            self.push_newest(slot);
        }
    }

    /// Notes that the engine did not have these blocks: they become the first to be forgotten.
    pub(super) fn disprove(&mut self, blocks: &[u64]) {
        for hash in blocks {
            if let Some(&slot) = self.map.get(hash) {
                self.unlink(slot);
                self.push_oldest(slot);
            }
        }
    }

    /// A slot outside the list: a new one, or that of the oldest block, which is forgotten.
    fn free_slot(&mut self) -> u32 {
        if self.entries.len() < self.capacity {
            self.entries.push(Entry { hash: 0, newer: NONE, older: NONE });
            return u32::try_from(self.entries.len() - 1).unwrap_or(NONE);
        }
        let slot = self.oldest;
        self.unlink(slot);
        self.map.remove(&self.entries[slot as usize].hash);
        slot
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { newer, older, .. } = self.entries[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn push_newest(&mut self, slot: u32) {
        let older = std::mem::replace(&mut self.newest, slot);
        self.entries[slot as usize].newer = NONE;
        self.entries[slot as usize].older = older;
        match older {
            NONE => self.oldest = slot,
            older => self.entries[older as usize].newer = slot,
        }
    }

    fn push_oldest(&mut self, slot: u32) {
        let newer = std::mem::replace(&mut self.oldest, slot);
        self.entries[slot as usize].older = NONE;
        self.entries[slot as usize].newer = newer;
        match newer {
            NONE => self.newest = slot,
            newer => self.entries[newer as usize].older = slot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_least_recent_prefix_is_forgotten_first() {
        let mut index = PrefixIndex::new(4);
        index.touch(&[1, 2, 3]);
        index.touch(&[1, 9]);
        assert_eq!(index.matched_blocks(&[1, 2, 3]), 3);
        index.touch(&[7]);
        assert_eq!(index.matched_blocks(&[1, 2, 3]), 2, "block 3 made room for block 7");
        assert_eq!(index.matched_blocks(&[1, 9]), 2);
    }

    #[test]
    fn memory_is_bounded_by_the_capacity() {
        let mut index = PrefixIndex::new(8);
        for start in 0..1000 {
            index.touch(&[start, start + 1, start + 2]);
        }
        assert_eq!((index.entries.len(), index.map.len()), (8, 8));
    }

    #[test]
    fn a_disproved_block_goes_first() {
        let mut index = PrefixIndex::new(2);
        index.touch(&[1]);
        index.touch(&[2]);
        index.disprove(&[2]);
        index.touch(&[3]);
        assert_eq!(index.matched_blocks(&[1]), 1);
        assert_eq!(index.matched_blocks(&[2]), 0);
    }
}
