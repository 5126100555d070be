//! KV blocks of the requests in flight on an instance, as Dynamo's router counts them.

use std::collections::BTreeMap;
use std::hash::BuildHasherDefault;

use hashbrown::HashMap;

use crate::request::Request;
use crate::state::BlockHasher;

/// Weights are in millionths: integers, so that the sums of an empty instance are zero.
const WHOLE: u32 = 1_000_000;

/// Blocks in use, each once however many requests share it.
///
/// A block weighs 1. When a request with an expected length grows by a block, every block that it alone uses weighs
/// `1 - produced / expected` from then on, until the block goes or its last user grows again: the nearer its end, the
/// sooner its blocks are free.
#[derive(Clone, Debug, Default)]
pub(super) struct ActiveBlocks {
    hashed: HashMap<u64, Block, BuildHasherDefault<BlockHasher>>,
    /// Sum of the weights of `hashed`.
    hashed_weight: u64,
    /// Prompt tokens of requests without hashes, by weight.
    private_weight: u64,
    /// Requests that have grown, by the caller's number.
    grown: BTreeMap<u64, Growth>,
    /// Output blocks of `grown`, by weight.
    output_weight: u64,
}

/// A block with a hash.
#[derive(Clone, Copy, Debug)]
struct Block {
    users: u32,
    weight: u32,
}

/// Output blocks of a request, and the weight of each, and of its prompt when that has no hashes.
#[derive(Clone, Copy, Debug)]
struct Growth {
    blocks: u32,
    weight: u32,
}

impl ActiveBlocks {
    pub(super) fn add(&mut self, request: &Request) {
        let Some(blocks) = &request.prompt_blocks else {
            self.private_weight += weigh(request.prompt_tokens, WHOLE);
            return;
        };
        for &hash in blocks.iter() {
            let block = self.hashed.entry(hash).or_insert_with(|| {
                self.hashed_weight += u64::from(WHOLE);
                Block { users: 0, weight: WHOLE }
            });
            block.users += 1;
        }
    }

    pub(super) fn remove(&mut self, request: &Request) {
        let growth = self.grown.remove(&request.id).unwrap_or(Growth { blocks: 0, weight: WHOLE });
        self.output_weight -= weigh(growth.blocks, growth.weight);
        let Some(blocks) = &request.prompt_blocks else {
            self.private_weight =
                self.private_weight.saturating_sub(weigh(request.prompt_tokens, growth.weight));
            return;
        };
        for hash in blocks.iter() {
            if let Some(block) = self.hashed.get_mut(hash) {
                block.users -= 1;
                if block.users == 0 {
                    self.hashed_weight -= u64::from(block.weight);
                    self.hashed.remove(hash);
                }
            }
        }
    }

    /// The request has produced `tokens` so far; `expected` is how many it is expected to produce, if that is known.
    pub(super) fn grow(&mut self, request: &Request, tokens: u32, block_tokens: u32, expected: Option<f64>) {
        let prompt = request.prompt_tokens;
        let blocks = prompt.saturating_add(tokens).div_ceil(block_tokens) - prompt.div_ceil(block_tokens);
        let before = self.grown.get(&request.id).copied().unwrap_or(Growth { blocks: 0, weight: WHOLE });
        if blocks <= before.blocks {
            return;
        }
        let growth = match expected {
            None => Growth { blocks, weight: before.weight },
            Some(expected) => Growth { blocks, weight: remaining(tokens, expected) },
        };
        self.grown.insert(request.id, growth);
        self.output_weight =
            self.output_weight - weigh(before.blocks, before.weight) + weigh(blocks, growth.weight);
        let Some(hashes) = request.prompt_blocks.as_deref().filter(|_| expected.is_some()) else {
            if request.prompt_blocks.is_none() {
                self.private_weight = (self.private_weight + weigh(prompt, growth.weight))
                    .saturating_sub(weigh(prompt, before.weight));
            }
            return;
        };
        // A block covers its whole prefix: what it alone uses is the end of its prompt.
        for hash in hashes.iter().rev() {
            match self.hashed.get_mut(hash) {
                Some(block) if block.users == 1 => {
                    self.hashed_weight =
                        self.hashed_weight - u64::from(block.weight) + u64::from(growth.weight);
                    block.weight = growth.weight;
                }
                _ => break,
            }
        }
    }

    /// Blocks in use if the request came too. Those in use are rounded to a whole number, as in Dynamo, prompts without
    /// hashes aside.
    pub(super) fn with(&self, request: &Request, block_tokens: f64) -> f64 {
        let (new_blocks, new_tokens) = match &request.prompt_blocks {
            // Once one block is new, all that follow are.
            Some(blocks) => {
                let shared = blocks.iter().take_while(|block| self.hashed.contains_key(*block)).count();
                (blocks.len() - shared, 0)
            }
            None => (0, request.prompt_tokens),
        };
        let in_use = libm::round(whole(self.hashed_weight + self.output_weight));
        let private = whole(self.private_weight) + f64::from(new_tokens);
        in_use + new_blocks as f64 + private / block_tokens
    }
}

fn weigh(count: u32, weight: u32) -> u64 {
    u64::from(count) * u64::from(weight)
}

fn whole(weight: u64) -> f64 {
    weight as f64 / f64::from(WHOLE)
}

/// Share of the expected tokens still to come, as a weight.
fn remaining(tokens: u32, expected: f64) -> u32 {
    let share = (1.0 - f64::from(tokens) / expected.max(1.0)).max(0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to WHOLE")]
    {
        libm::round(share * f64::from(WHOLE)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{assert_close, request, with_blocks};

    const BLOCK: u32 = 16;

    /// Blocks in use, seen by a request that adds nothing.
    fn in_use(active: &ActiveBlocks) -> f64 {
        let nothing = Request { prompt_blocks: Some([].into()), ..request(1, 1) };
        active.with(&nothing, f64::from(BLOCK))
    }

    fn numbered(id: u64, request: Request) -> Request {
        Request { id, ..request }
    }

    #[test]
    fn output_blocks_are_counted_as_the_sequence_grows() {
        let mut active = ActiveBlocks::default();
        let turn = with_blocks(40, 100, 1);
        active.add(&turn);
        // 40 tokens are 3 blocks, of which 2 are full and counted; the third takes 8 more.
        let grown = [8, 9, 24, 25].map(|tokens| {
            active.grow(&turn, tokens, BLOCK, None);
            in_use(&active)
        });
        assert_close(grown, [2.0, 3.0, 3.0, 4.0]);
        active.remove(&turn);
        assert_close([in_use(&active)], [0.0]);
    }

    #[test]
    fn blocks_of_its_own_weigh_what_is_left_of_its_expected_length() {
        let mut active = ActiveBlocks::default();
        let (first, second) = (numbered(1, with_blocks(160, 100, 1)), numbered(2, with_blocks(320, 100, 1)));
        active.add(&first);
        active.add(&second);
        // 10 blocks are shared; 10 and the 4 of its output are the second one's own and weigh 0.5 each.
        active.grow(&second, 64, BLOCK, Some(128.0));
        assert_close([in_use(&active)], [17.0]);
        // With the expected length reached they weigh nothing.
        active.grow(&second, 128, BLOCK, Some(128.0));
        assert_close([in_use(&active)], [10.0]);
        active.remove(&first);
        // Its prefix is still used.
        assert_close([in_use(&active)], [10.0]);
        active.grow(&second, 160, BLOCK, Some(128.0));
        // Nobody else uses the prefix any more.
        assert_close([in_use(&active)], [0.0]);
        active.remove(&second);
        assert_eq!((active.hashed_weight, active.output_weight, active.hashed.len()), (0, 0, 0));
    }

    #[test]
    fn a_prompt_without_hashes_weighs_as_its_output_does() {
        let mut active = ActiveBlocks::default();
        let turn = request(160, 100);
        active.add(&turn);
        active.grow(&turn, 32, BLOCK, Some(64.0));
        assert_close([in_use(&active)], [10.0 / 2.0 + 2.0 / 2.0]);
        active.remove(&turn);
        assert_eq!((active.private_weight, active.output_weight), (0, 0));
    }
}
