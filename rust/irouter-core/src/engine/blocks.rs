//! The KV blocks of one instance.

use super::config::EngineConfig;
use super::prefix_cache::PrefixCache;

/// Counts blocks, and with a prefix cache knows which of them hold what.
#[derive(Clone, Debug)]
pub(super) struct BlockPool {
    total: u32,
    free: u32,
    /// Blocks given out beyond the capacity; only a twin that is corrected by events does so.
    overdraft: u32,
    /// The fewest that were free at a time, since last asked to forget.
    least_free: u32,
    cache: Option<PrefixCache>,
}

/// What a prefix cache has of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hits {
    /// Leading blocks found.
    pub(super) blocks: u32,
    /// How many of them are in use, so that they cost no free block.
    pub(super) in_use: u32,
}

impl BlockPool {
    pub(super) fn new(config: &EngineConfig) -> Self {
        let total = config.kv.blocks;
        let cache = config.kv.prefix_cache.then(|| PrefixCache::new(total));
        Self { total, free: total, overdraft: 0, least_free: total, cache }
    }

    pub(super) fn free(&self) -> u32 {
        self.free
    }

    pub(super) fn used(&self) -> u32 {
        self.total - self.free + self.overdraft
    }

    /// The most that were in use at a time, beyond the capacity not counted, since [`Self::forget_peak`].
    pub(super) fn peak(&self) -> u32 {
        self.total - self.least_free
    }

    pub(super) fn forget_peak(&mut self) {
        self.least_free = self.free;
    }

    /// Takes `count` blocks. More than are free are booked as overdraft.
    #[inline]
    pub(super) fn allocate(&mut self, count: u32) {
        let taken = count.min(self.free);
        self.free -= taken;
        self.least_free = self.least_free.min(self.free);
        self.overdraft += count - taken;
        if let Some(cache) = &mut self.cache {
            cache.take(taken);
        }
    }

    /// Gives back `count` blocks without a hash.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        let repaid = count.min(self.overdraft);
        self.overdraft -= repaid;
        self.free += count - repaid;
        if let Some(cache) = &mut self.cache {
            cache.give(count - repaid);
        }
    }

    pub(super) fn hits(&self, hashes: &[u64]) -> Hits {
        let (blocks, in_use) = self.cache.as_ref().map_or((0, 0), |cache| cache.hits(hashes));
        Hits { blocks, in_use }
    }

    /// Takes the blocks with these hashes, all of which [`BlockPool::hits`] found.
    pub(super) fn hold(&mut self, hashes: &[u64], held: &mut Vec<u32>) {
        if let Some(cache) = &mut self.cache {
            for &hash in hashes {
                self.free -= u32::from(cache.hold(hash, held));
            }
        }
    }

    /// Gives hashes to blocks of a request that hold its leading prompt blocks, `held` of which have theirs.
    ///
    /// A hash that another block has stops it: that request's blocks are not shared from there on.
    pub(super) fn name(&mut self, hashes: &[u64], held: &mut Vec<u32>) {
        if let Some(cache) = &mut self.cache {
            for &hash in &hashes[held.len().min(hashes.len())..] {
                if !cache.name(hash, held) {
                    break;
                }
            }
        }
    }

    /// Gives back all of a request: `unnamed` blocks without a hash, which are its last, then `held` from the last to
    /// the first.
    pub(super) fn release_all(&mut self, unnamed: u32, held: &mut Vec<u32>) {
        self.release(unnamed);
        let Some(cache) = &mut self.cache else { return };
        while let Some(node) = held.pop() {
            self.free += u32::from(cache.release(node));
        }
        // The debt is paid with whatever would be taken next.
        let repaid = self.overdraft.min(self.free);
        self.overdraft -= repaid;
        self.free -= repaid;
        cache.take(repaid);
    }
}
