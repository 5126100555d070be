//! What bounds a batch: the scheduler and the KV cache.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::at_least_one;

/// Batching rules of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// Which scheduler.
    pub mode: SchedulerMode,
    /// Most requests running at a time.
    pub max_num_seqs: u32,
    /// Most tokens in a step; for `sarathi` the chunk size.
    pub max_num_batched_tokens: u32,
    /// Admit a request only when the blocks of its whole input are free, though a chunk would do.
    #[serde(default)]
    pub reserve_full_input: bool,
    /// Share of the KV blocks kept free when a request is admitted.
    #[serde(default)]
    pub watermark: f64,
}

/// The schedulers that the engine model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerMode {
    /// Token budget shared by running requests first, then chunks of waiting prompts.
    VllmV1,
    /// Whole prompts first, in steps of their own; no chunks.
    VllmV0,
    /// Every decode, then prompt chunks up to a fixed number of tokens.
    Sarathi,
}

/// KV cache of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvCache {
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Blocks of the instance.
    pub blocks: u32,
    /// Whether full prompt blocks with hashes are kept for later requests.
    #[serde(default)]
    pub prefix_cache: bool,
}

impl Scheduler {
    pub(super) fn validate(&self) -> Result<()> {
        at_least_one("scheduler.max_num_seqs", self.max_num_seqs)?;
        at_least_one("scheduler.max_num_batched_tokens", self.max_num_batched_tokens)?;
        if self.mode == SchedulerMode::VllmV1 && self.max_num_batched_tokens < self.max_num_seqs {
            return Err(Error::field(
                "scheduler.max_num_batched_tokens",
                self.max_num_batched_tokens,
                format!("at least max_num_seqs = {}", self.max_num_seqs),
            ));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(Error::field("scheduler.watermark", self.watermark, "a share in [0, 1)"));
        }
        Ok(())
    }
}

impl KvCache {
    pub(super) fn validate(&self) -> Result<()> {
        at_least_one("kv.block_tokens", self.block_tokens)?;
        at_least_one("kv.blocks", self.blocks)
    }
}
