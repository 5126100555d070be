//! Whether an engine has room for one more request, so that it need not wait there.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::request::Request;
use crate::state::{InstanceState, Twin};

use super::ClusterView;

/// When an engine has room for one more request.
pub(crate) trait Room: Send {
    /// Whether the instance may have the request now.
    fn is_in(&self, view: &ClusterView<'_>, instance: &InstanceState, request: &Request) -> bool;
}

/// Room by the blocks that are free now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FreeBlocks {
    /// Requests that may wait in an engine's own queue for a batch slot: 2.
    pub lookahead_requests: u32,
    /// KV blocks left free for the growth of each request in flight: 1.
    pub growth_blocks: f64,
}

impl Default for FreeBlocks {
    fn default() -> Self {
        Self { lookahead_requests: 2, growth_blocks: 1.0 }
    }
}

impl FreeBlocks {
    pub(super) fn validate(&self) -> Result<()> {
        if !(self.growth_blocks.is_finite() && self.growth_blocks >= 0.0) {
            return Err(Error::field("growth_blocks", self.growth_blocks, "zero or more"));
        }
        Ok(())
    }
}

impl Room for FreeBlocks {
    /// Whether the instance may have the request now.
    ///
    /// ```text
    /// in flight < max_num_seqs + lookahead_requests
    /// and  used + queued + own + growth_blocks x in flight <= KV blocks
    /// ```
    ///
    /// * used: blocks of the running requests in the twin, shared ones once;
    /// * queued: blocks of prompts not yet computed, by the twin; while requests are on their way to the engine, which
    ///   the twin does not count, at least those of all requests without a first token;
    /// * own: blocks of the whole prompt, since cached blocks that nobody uses count as free;
    /// * growth: one block is what a request gains in 16 steps. Without it an engine admits prompts into the last
    ///   blocks, and preempts somebody a few steps later; much more leaves cache unused.
    ///
    /// An idle instance always has room, for no request is longer than the KV cache.
    ///
    /// The look-ahead keeps the engine's own queue supplied when its batch slots run out: a slot that becomes free is
    /// filled at the next step from there. From the router it would stay empty until the event has come and the request
    /// has gone, which costs a whole step. Two, since an engine with 256 slots and outputs of 200 tokens frees 1.3 a
    /// step; more than a step frees would only bind early. There is no look-ahead beyond the KV cache: whatever waits
    /// in the engine's queue is admitted as soon as its prompt fits, growth or not, and the preemptions that follow cost
    /// far more than the round trip.
    fn is_in(&self, _view: &ClusterView<'_>, instance: &InstanceState, request: &Request) -> bool {
        let in_flight = instance.in_flight();
        let config = instance.config();
        let load = instance.twin().map(Twin::load).unwrap_or_default();
        let arrived = load.waiting + load.running >= in_flight;
        let told = if arrived { 0 } else { instance.queued_prefill_tokens() };
        let queued = load.queued_prefill_tokens.max(told);
        let block_tokens = u64::from(config.kv.block_tokens);
        let blocks = u64::from(load.used_blocks)
            + queued.div_ceil(block_tokens)
            + u64::from(request.prompt_tokens).div_ceil(block_tokens);
        in_flight < config.scheduler.max_num_seqs.saturating_add(self.lookahead_requests)
            && self.growth_blocks.mul_add(f64::from(in_flight), blocks as f64) <= f64::from(config.kv.blocks)
    }
}
