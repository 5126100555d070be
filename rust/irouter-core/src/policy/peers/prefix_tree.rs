//! Which prompts went to which instance, for the rules that keep an approximate prefix tree.

use std::collections::VecDeque;
use std::hash::BuildHasherDefault;

use hashbrown::HashMap;

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::policy::ClusterView;
use crate::policy::estimate::PerInstance;
use crate::request::Request;
use crate::state::{BlockHasher, InstanceState};
use crate::time::Picos;

/// Tokens of a block in every shipped profile. With another size, only the blocks of prompts without hashes are off.
const BLOCK_TOKENS: u32 = 16;

/// A prefix tree per instance, whose nodes are the blocks of the prompts that were dispatched to it.
///
/// Routers keep such trees over characters or tokens; a block stands for 16 tokens or, at 4 characters a token, for 64
/// characters. A block's hash covers its whole prefix, so that a set of hashes holds what a tree would. The tail of a
/// prompt behind its last full block is left out. A prompt without hashes takes up its blocks and matches nothing.
///
/// A tree that is full, or whose nodes have been idle for too long, loses the least recently used nodes, ends of prompts
/// before their beginnings.
#[derive(Clone, Debug)]
pub(super) struct PrefixTree {
    most_blocks: u64,
    most_idle: Picos,
    trees: PerInstance<Tree>,
}

/// What a request finds in the trees of the ready instances.
#[derive(Clone, Debug)]
pub(super) struct LongestMatch<'a> {
    /// The instances with the longest match, by number; none when nothing matches.
    pub(super) instances: Vec<&'a InstanceState>,
    /// Its share of the prompt's full blocks, 0 to 1.
    pub(super) rate: f64,
}

impl PrefixTree {
    /// Trees of at most so many blocks each that forget what was idle for longer than `most_idle`.
    ///
    /// # Errors
    /// [`Error::Field`] for no block, by the name that the option has in every rule with a tree.
    pub(super) fn new(max_tree_blocks: u32, most_idle: Picos) -> Result<Self> {
        if max_tree_blocks == 0 {
            return Err(Error::field("max_tree_blocks", 0, "at least 1"));
        }
        Ok(Self { most_blocks: u64::from(max_tree_blocks), most_idle, trees: PerInstance::default() })
    }

    /// Notes that the request went to the instance.
    pub(super) fn insert(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        if let Some(blocks) = &request.prompt_blocks {
            return self.insert_blocks(blocks.iter().copied(), instance, now);
        }
        let tree = self.trees.entry(instance);
        tree.add_private(request.prompt_tokens.div_ceil(BLOCK_TOKENS), now);
        tree.evict(self.most_blocks, self.most_idle, now);
    }

    /// The same for a prompt that is given by its block hashes.
    pub(super) fn insert_blocks(
        &mut self,
        blocks: impl DoubleEndedIterator<Item = u64>,
        instance: InstanceId,
        now: Picos,
    ) {
        let tree = self.trees.entry(instance);
        tree.touch(blocks, now);
        tree.evict(self.most_blocks, self.most_idle, now);
    }

    /// How many leading blocks are in the instance's tree.
    pub(super) fn matched(
        &mut self,
        blocks: impl Iterator<Item = u64>,
        instance: InstanceId,
        now: Picos,
    ) -> usize {
        let tree = self.trees.entry(instance);
        tree.evict(self.most_blocks, self.most_idle, now);
        blocks.take_while(|block| tree.uses.contains_key(block)).count()
    }

    /// The longest match of the request among the ready instances.
    pub(super) fn longest_match<'a>(
        &mut self,
        view: &ClusterView<'a>,
        request: &Request,
    ) -> LongestMatch<'a> {
        let blocks = request.prompt_blocks.as_deref().unwrap_or_default();
        let (mut longest, mut instances) = (1, Vec::new());
        for instance in view.ready() {
            let matched = self.matched(blocks.iter().copied(), instance.id(), view.now);
            if matched > longest {
                longest = matched;
                instances.clear();
            }
            if matched == longest {
                instances.push(instance);
            }
        }
        let rate = if instances.is_empty() { 0.0 } else { longest as f64 / blocks.len() as f64 };
        LongestMatch { instances, rate }
    }

    /// Blocks in the instance's tree.
    pub(super) fn blocks(&self, instance: InstanceId) -> u64 {
        self.trees.get(instance).map_or(0, |tree| tree.blocks)
    }

    /// Forgets an instance that left.
    pub(super) fn remove(&mut self, instance: InstanceId) {
        *self.trees.entry(instance) = Tree::default();
    }
}

/// The tree of one instance.
#[derive(Clone, Debug, Default)]
struct Tree {
    /// Number of the last use of each block.
    uses: HashMap<u64, u64, BuildHasherDefault<BlockHasher>>,
    /// Uses from the oldest to the newest; one that is not the last of its block is void.
    order: VecDeque<Use>,
    /// Blocks with and without hashes.
    blocks: u64,
    next_use: u64,
    private_prompts: usize,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    node: Node,
    at: Picos,
}

#[derive(Clone, Copy, Debug)]
enum Node {
    Block {
        hash: u64,
        number: u64,
    },
    /// Blocks of a prompt without hashes.
    Private(u32),
}

/// Void uses that are not worth clearing away.
const FEW_USES: usize = 64;

impl Tree {
    fn touch(&mut self, blocks: impl DoubleEndedIterator<Item = u64>, now: Picos) {
        for hash in blocks.rev() {
            let number = self.next_use;
            self.next_use += 1;
            self.order.push_back(Use { node: Node::Block { hash, number }, at: now });
            if self.uses.insert(hash, number).is_none() {
                self.blocks += 1;
            }
        }
        // Void uses are at most half of what is kept, so that clearing them costs a constant per use.
        if self.order.len() > FEW_USES + 2 * (self.uses.len() + self.private_prompts) {
            let uses = &self.uses;
            self.order.retain(|used| match used.node {
                Node::Block { hash, number } => uses.get(&hash) == Some(&number),
                Node::Private(_) => true,
            });
        }
    }

    fn add_private(&mut self, blocks: u32, now: Picos) {
        self.order.push_back(Use { node: Node::Private(blocks), at: now });
        self.blocks += u64::from(blocks);
        self.private_prompts += 1;
    }

    fn evict(&mut self, most_blocks: u64, most_idle: Picos, now: Picos) {
        while let Some(oldest) = self.order.front() {
            let idle = now.0.saturating_sub(oldest.at.0) > most_idle.0;
            if !idle && self.blocks <= most_blocks {
                return;
            }
            match oldest.node {
                Node::Block { hash, number } if self.uses.get(&hash) == Some(&number) => {
                    self.uses.remove(&hash);
                    self.blocks -= 1;
                }
                Node::Block { .. } => {}
                Node::Private(blocks) => {
                    self.blocks -= u64::from(blocks);
                    self.private_prompts -= 1;
                }
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Needs;
    use crate::policy::testing::{Cluster, at, request, with_blocks};

    const FIRST: InstanceId = InstanceId(0);
    const SECOND: InstanceId = InstanceId(1);

    fn matched(tree: &mut PrefixTree, blocks: &[u64], seconds: f64) -> usize {
        tree.matched(blocks.iter().copied(), FIRST, at(seconds))
    }

    fn insert(tree: &mut PrefixTree, blocks: &[u64], seconds: f64) {
        tree.insert_blocks(blocks.iter().copied(), FIRST, at(seconds));
    }

    #[test]
    fn a_full_tree_loses_the_end_of_the_least_recent_prompt() {
        let mut tree = PrefixTree::new(4, Picos::MAX).unwrap();
        insert(&mut tree, &[1, 2, 3], 0.0);
        insert(&mut tree, &[1, 9], 1.0);
        assert_eq!((tree.blocks(FIRST), matched(&mut tree, &[1, 2, 3], 1.0)), (4, 3));
        insert(&mut tree, &[7], 2.0);
        assert_eq!((tree.blocks(FIRST), matched(&mut tree, &[1, 2, 3], 2.0)), (4, 2));
        assert_eq!(matched(&mut tree, &[1, 9], 2.0), 2);
    }

    #[test]
    fn what_is_idle_for_too_long_is_forgotten() {
        let mut tree = PrefixTree::new(100, at(10.0)).unwrap();
        insert(&mut tree, &[1, 2], 0.0);
        insert(&mut tree, &[1, 3], 5.0);
        assert_eq!(matched(&mut tree, &[1, 2], 10.0), 2);
        assert_eq!(matched(&mut tree, &[1, 2], 10.5), 1, "block 1 was used at 5 s");
        assert_eq!(matched(&mut tree, &[1, 3], 15.0), 2);
        assert_eq!((matched(&mut tree, &[1, 3], 15.5), tree.blocks(FIRST)), (0, 0));
    }

    #[test]
    fn a_prompt_without_hashes_takes_room_and_matches_nothing() {
        let mut tree = PrefixTree::new(10, Picos::MAX).unwrap();
        tree.insert(&request(33, 1), FIRST, at(0.0));
        assert_eq!(tree.blocks(FIRST), 3);
        tree.insert(&with_blocks(160, 1, 1), FIRST, at(1.0));
        assert_eq!(tree.blocks(FIRST), 10, "the oldest made room");
        let cluster = Cluster::new(Needs::default(), 1);
        assert!(tree.longest_match(&cluster.view(), &request(33, 1)).instances.is_empty());
    }

    #[test]
    fn the_longest_match_names_its_instances_and_its_share() {
        let mut tree = PrefixTree::new(100, Picos::MAX).unwrap();
        let mut cluster = Cluster::new(Needs::default(), 3);
        tree.insert(&with_blocks(32, 1, 1), FIRST, at(0.0));
        for instance in [1, 2] {
            tree.insert(&with_blocks(48, 1, 1), InstanceId(instance), at(0.0));
        }
        let names = |found: &LongestMatch<'_>| -> Vec<u32> {
            found.instances.iter().map(|instance| instance.id().0).collect()
        };
        let found = tree.longest_match(&cluster.view(), &with_blocks(70, 1, 1));
        assert_eq!((names(&found), found.rate), (vec![1, 2], 0.75));
        cluster.drain(2);
        tree.remove(SECOND);
        let found = tree.longest_match(&cluster.view(), &with_blocks(70, 1, 1));
        assert_eq!((names(&found), found.rate), (vec![0], 0.5));
        let found = tree.longest_match(&cluster.view(), &with_blocks(70, 1, 2));
        assert_eq!((names(&found), found.rate), (vec![], 0.0));
    }

    #[test]
    fn memory_is_bounded_whatever_is_used_again() {
        let mut tree = PrefixTree::new(8, Picos::MAX).unwrap();
        for round in 0..1000_u64 {
            insert(&mut tree, &[1, 2, 3, 4 + round % 3], 0.0);
        }
        let kept = tree.trees.get(FIRST).unwrap();
        assert_eq!((kept.uses.len(), kept.blocks), (6, 6));
        assert!(kept.order.len() <= FEW_USES + 2 * 6 + 4, "{}", kept.order.len());
    }
}
