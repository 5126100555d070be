//! KV blocks that are known by what they hold.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

/// The free blocks in the order in which they will be taken, and the blocks with a hash, free or in use.
///
/// As in vLLM, a block that is given back goes to the end of the queue and keeps its content until it is taken from
/// the front; before that a request with the same hash can have it back. Blocks without a hash are
/// interchangeable, so the queue holds runs of them.
#[derive(Clone, Debug)]
pub(super) struct PrefixCache {
    by_hash: HashMap<u64, u32, BuildHasherDefault<HashOfHash>>,
    /// `nodes[0]` closes the queue to a ring: its `next` is the front and its `previous` the end.
    nodes: Vec<Node>,
    spare: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    previous: u32,
    next: u32,
    /// Blocks without a hash in this run; 0 for a block with a hash.
    run: u32,
    /// Requests that hold the block; 0 in the queue.
    holders: u32,
    hash: u64,
}

const RING: u32 = 0;

impl PrefixCache {
    /// `blocks` free blocks without a hash.
    pub(super) fn new(blocks: u32) -> Self {
        let mut cache = Self { by_hash: HashMap::default(), nodes: vec![Node::default()], spare: Vec::new() };
        cache.give(blocks);
        cache
    }

    /// How many of the leading `hashes` are here, and how many of those somebody holds.
    pub(super) fn hits(&self, hashes: &[u64]) -> (u32, u32) {
        let (mut found, mut held) = (0, 0);
        for hash in hashes {
            let Some(&node) = self.by_hash.get(hash) else { break };
            found += 1;
            held += u32::from(self.nodes[node as usize].holders > 0);
        }
        (found, held)
    }

    /// One more request holds the block with `hash`; true when the block was free.
    pub(super) fn hold(&mut self, hash: u64, held: &mut Vec<u32>) -> bool {
        let Some(&node) = self.by_hash.get(&hash) else { return false };
        let was_free = self.nodes[node as usize].holders == 0;
        if was_free {
            self.unlink(node);
        }
        self.nodes[node as usize].holders += 1;
        held.push(node);
        was_free
    }

    /// Gives a block in use a hash; false when another block has it.
    pub(super) fn name(&mut self, hash: u64, held: &mut Vec<u32>) -> bool {
        if self.by_hash.contains_key(&hash) {
            return false;
        }
        let node = self.insert(Node { hash, holders: 1, ..Node::default() });
        self.by_hash.insert(hash, node);
        held.push(node);
        true
    }

    /// One request less holds the block; true when it was the last, and the block goes to the end of the queue.
    pub(super) fn release(&mut self, node: u32) -> bool {
        let holders = &mut self.nodes[node as usize].holders;
        *holders -= 1;
        let free = *holders == 0;
        if free {
            self.append(node);
        }
        free
    }

    /// Puts `count` blocks without a hash at the end of the queue.
    pub(super) fn give(&mut self, count: u32) {
        let last = self.nodes[RING as usize].previous;
        if count == 0 {
            return;
        }
        if last != RING && self.nodes[last as usize].run > 0 {
            self.nodes[last as usize].run += count;
            return;
        }
        let node = self.insert(Node { run: count, ..Node::default() });
        self.append(node);
    }

    /// Takes `count` blocks from the front of the queue; what they held is forgotten.
    pub(super) fn take(&mut self, mut count: u32) {
        while count > 0 {
            let front = self.nodes[RING as usize].next;
            debug_assert_ne!(front, RING, "the pool counts the free blocks");
            let Node { run, hash, .. } = self.nodes[front as usize];
            if run > count {
                self.nodes[front as usize].run -= count;
                return;
            }
            if run == 0 {
                self.by_hash.remove(&hash);
            }
            count -= run.max(1);
            self.unlink(front);
            self.spare.push(front);
        }
    }

    fn insert(&mut self, node: Node) -> u32 {
        if let Some(index) = self.spare.pop() {
            self.nodes[index as usize] = node;
            return index;
        }
        self.nodes.push(node);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most two nodes per block, counted in 32 bits"
        )]
        {
            (self.nodes.len() - 1) as u32
        }
    }

    fn append(&mut self, node: u32) {
        let last = self.nodes[RING as usize].previous;
        self.nodes[last as usize].next = node;
        self.nodes[RING as usize].previous = node;
        let links = &mut self.nodes[node as usize];
        (links.previous, links.next) = (last, RING);
    }

    fn unlink(&mut self, node: u32) {
        let Node { previous, next, .. } = self.nodes[node as usize];
        self.nodes[previous as usize].next = next;
        self.nodes[next as usize].previous = previous;
    }
}

/// Block hashes may be small numbers from a trace, and the map wants its entropy in the high bits.
#[derive(Clone, Copy, Debug, Default)]
struct HashOfHash(u64);

impl Hasher for HashOfHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes blocks named `hashes` into use.
    fn named(cache: &mut PrefixCache, hashes: &[u64]) -> Vec<u32> {
        let mut held = Vec::new();
        cache.take(u32::try_from(hashes.len()).unwrap());
        for &hash in hashes {
            assert!(cache.name(hash, &mut held));
        }
        held
    }

    #[test]
    fn the_block_released_first_is_taken_first() {
        let mut cache = PrefixCache::new(4);
        let first = named(&mut cache, &[1, 2]);
        let second = named(&mut cache, &[3, 4]);
        for node in second.into_iter().rev().chain(first.into_iter().rev()) {
            assert!(cache.release(node));
        }
        // The queue is 4, 3, 2, 1: what was released first, tail before head.
        cache.take(1);
        assert_eq!(cache.hits(&[3, 4]), (1, 0));
        cache.take(2);
        assert_eq!((cache.hits(&[3]), cache.hits(&[1, 2])), ((0, 0), (1, 0)));
    }

    #[test]
    fn a_held_block_is_shared_and_stays() {
        let mut cache = PrefixCache::new(3);
        let first = named(&mut cache, &[7]);
        let mut second = Vec::new();
        assert!(!cache.hold(7, &mut second), "the block was in use");
        assert_eq!(cache.hits(&[7, 8]), (1, 1));
        assert!(!cache.release(first[0]) && cache.release(second[0]));
        assert!(cache.hold(7, &mut second), "the block was free");
        cache.take(2);
        assert_eq!(cache.hits(&[7]), (1, 1));
    }

    #[test]
    fn runs_of_blocks_without_a_hash_are_split_and_merged() {
        let mut cache = PrefixCache::new(5);
        cache.take(3);
        cache.give(1);
        cache.give(2);
        assert_eq!(cache.nodes.len(), 2, "one run");
        cache.take(5);
        assert_eq!(cache.nodes[RING as usize].next, RING);
    }

    #[test]
    fn a_hash_names_one_block() {
        let mut cache = PrefixCache::new(2);
        let mut held = named(&mut cache, &[9]);
        assert!(!cache.name(9, &mut held));
        assert_eq!(held.len(), 1);
    }
}
