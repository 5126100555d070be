//! Prompts as text, for callers that have no tokens.

use crate::hash::mix;

/// Bytes of text that are taken as one token: what the tokenizers of current models need of English text, roughly.
pub const BYTES_PER_TOKEN: usize = 4;

/// Tokens that a text is taken to have, at least 1.
pub fn text_tokens(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX).max(1)
}

/// Hashes of the full blocks of a text, each of `block_tokens` tokens of [`BYTES_PER_TOKEN`] bytes and each covering the
/// whole text up to its end: texts that begin alike have their first hashes in common.
pub fn text_blocks(text: &str, block_tokens: u32) -> Vec<u64> {
    let block_bytes = (block_tokens.max(1) as usize).saturating_mul(BYTES_PER_TOKEN);
    let chained = |hash: &mut u64, block: &[u8]| {
        for word in block.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            *hash = mix(*hash, u64::from_le_bytes(bytes));
        }
        Some(*hash)
    };
    text.as_bytes().chunks_exact(block_bytes).scan(0, chained).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_begin_alike_have_their_first_blocks_in_common() {
        let common = "You are a helpful assistant. ".repeat(10);
        let (left, right) = (common.clone() + &"left".repeat(40), common.clone() + &"right".repeat(40));
        let (left, right) = (text_blocks(&left, 16), text_blocks(&right, 16));
        let shared = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
        assert_eq!(shared, common.len() / 64);
        assert!(left[shared..].iter().all(|hash| !right.contains(hash)));
    }

    #[test]
    fn a_block_stands_for_everything_before_it() {
        let blocks = text_blocks(&"a".repeat(64 * 5), 16);
        let distinct: std::collections::BTreeSet<u64> = blocks.iter().copied().collect();
        assert_eq!((blocks.len(), distinct.len()), (5, 5));
    }

    #[test]
    fn a_text_has_as_many_tokens_as_its_bytes_say() {
        assert_eq!(["", "abcd", "abcde", "\u{20ac}\u{20ac}"].map(text_tokens), [1, 1, 2, 2]);
        assert!(text_blocks("too short for a block", 16).is_empty());
    }
}
