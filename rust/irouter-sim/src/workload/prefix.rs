//! Hashes of prompt prefixes: a few per request, as in the trace, and the engine's blocks derived from them.

use std::sync::Arc;

use irouter_core::hash::mix;

use crate::error::{Result, SimError};

/// Prefix hashes of all requests, one after the other.
///
/// Each hash covers the prompt from its start to the end of one block of `hash_block_tokens` tokens (512 in the Mooncake
/// traces); the last one of a prompt may cover a part of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixColumn {
    /// Tokens of the prompt per hash.
    pub hash_block_tokens: u32,
    /// Where the hashes of each request start, and the end of the last: one more than there are requests, ascending from
    /// 0 to the number of hashes.
    pub offsets: Vec<usize>,
    /// The hashes.
    pub hashes: Vec<u64>,
}

impl PrefixColumn {
    /// Number of requests.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether it covers no request.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hashes of request `row`.
    pub fn row(&self, row: usize) -> &[u64] {
        &self.hashes[self.offsets[row]..self.offsets[row + 1]]
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [u64] {
        &mut self.hashes[self.offsets[row]..self.offsets[row + 1]]
    }

    /// Hashes of the full blocks of `block_tokens` tokens in the prompt of request `row`, as an engine's prefix cache wants
    /// them. Block `j` under hash `h` is named by a mix of `h` and `j`, so two prompts share it exactly when they share `h`.
    ///
    /// # Errors
    /// [`SimError::Field`] unless `hash_block_tokens` is a multiple of `block_tokens`.
    pub fn engine_blocks(&self, row: usize, prompt_tokens: u32, block_tokens: u32) -> Result<Arc<[u64]>> {
        if block_tokens == 0 || !self.hash_block_tokens.is_multiple_of(block_tokens) {
            let expected = format!("a multiple of the engine's block of {block_tokens} tokens");
            return Err(SimError::field("hash_block_tokens", self.hash_block_tokens, expected));
        }
        let hashes = self.row(row);
        let per_hash = (self.hash_block_tokens / block_tokens) as usize;
        let blocks = ((prompt_tokens / block_tokens) as usize).min(hashes.len() * per_hash);
        let name = |block: usize| mix(hashes[block / per_hash], (block % per_hash) as u64);
        Ok((0..blocks).map(name).collect())
    }

    /// Checks the shape, and that each request has one hash per full block of its prompt, and one more at most.
    pub(super) fn validate(&self, prompt_tokens: &[u32]) -> Result<()> {
        if self.hash_block_tokens == 0 {
            return Err(SimError::field("hash_block_tokens", 0, "at least 1 token"));
        }
        let ascending = self.offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        let ends = (self.offsets.first(), self.offsets.last());
        if !ascending || ends != (Some(&0), Some(&self.hashes.len())) {
            let expected = format!("ascending from 0 to the number of hashes, {}", self.hashes.len());
            return Err(SimError::field("prefix.offsets", format!("{ends:?}"), expected));
        }
        for (row, &tokens) in prompt_tokens.iter().enumerate() {
            let (full, all) = (tokens / self.hash_block_tokens, tokens.div_ceil(self.hash_block_tokens));
            let found = self.row(row).len();
            if found != full as usize && found != all as usize {
                let value = format!("{found} hashes");
                let expected =
                    format!("{all} for a prompt of {tokens} tokens in blocks of {}", self.hash_block_tokens);
                return Err(SimError::row(row, "prefix", value, expected));
            }
        }
        Ok(())
    }

    pub(super) fn gather(&self, rows: &[usize]) -> Self {
        let mut offsets = vec![0];
        let mut hashes = Vec::new();
        for &row in rows {
            hashes.extend_from_slice(self.row(row));
            offsets.push(hashes.len());
        }
        Self { hash_block_tokens: self.hash_block_tokens, offsets, hashes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column() -> PrefixColumn {
        // Two prompts of 1100 and 600 tokens that share their first 512 tokens.
        PrefixColumn { hash_block_tokens: 512, offsets: vec![0, 3, 5], hashes: vec![1, 2, 3, 1, 9] }
    }

    #[test]
    fn prompts_share_exactly_the_blocks_under_their_common_hashes() {
        let column = column();
        column.validate(&[1100, 600]).unwrap();
        let (long, short) =
            (column.engine_blocks(0, 1100, 16).unwrap(), column.engine_blocks(1, 600, 16).unwrap());
        assert_eq!((long.len(), short.len()), (1100 / 16, 600 / 16));
        assert_eq!(long[..32], short[..32]);
        assert!(short[32..].iter().all(|block| !long.contains(block)));
        let mut distinct = long.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), long.len());
    }

    #[test]
    fn hashes_that_do_not_fit_the_prompt_or_the_engine_are_refused() {
        assert_eq!(
            column().validate(&[1100, 2000]).unwrap_err().to_string(),
            "row 1 (counted from 0): `prefix` is 2 hashes, expected 4 for a prompt of 2000 tokens in blocks of 512"
        );
        assert!(column().engine_blocks(0, 1100, 24).is_err());
        let torn = PrefixColumn { offsets: vec![0, 3, 4], ..column() };
        assert!(torn.validate(&[1100, 600]).is_err());
    }

    #[test]
    fn gathered_rows_keep_their_hashes() {
        let gathered = column().gather(&[1, 0, 1]);
        assert_eq!((gathered.len(), gathered.row(0), gathered.row(1)), (3, &[1, 9][..], &[1, 2, 3][..]));
    }
}
