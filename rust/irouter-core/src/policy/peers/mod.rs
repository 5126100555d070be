//! Rules of other routers, written again from their published formulas. One file each.
//!
//! Every rule has the defaults, the information and the staleness with which its router ships it. Where it reads polled
//! metrics or has a place for output lengths, its options also offer what this router knows: its own events and predicted
//! lengths. [`super::Configurable::EQUALISED`] names those options and [`super::Configurable::TUNABLE`] the constants that a
//! search may set, so that a comparison can show a rule both as shipped and at its best.

mod active_blocks;
mod affinity;
pub(super) mod aibrix_drain_rate;
pub(super) mod aibrix_least_latency;
pub(super) mod aibrix_prefix;
pub(super) mod cache_aware;
pub(super) mod cache_aware_smg;
pub(super) mod consistent_hash;
pub(super) mod dynamo_kv;
pub(super) mod dynamo_kv_osl;
mod hash_ring;
pub(super) mod least_kv;
pub(super) mod litellm_latency;
pub(super) mod litellm_least_busy;
pub(super) mod llmd_default;
pub(super) mod llmd_predicted_latency;
pub(super) mod llmd_token_load;
pub(super) mod llumnix;
pub(super) mod lmetric;
mod load;
pub(super) mod power_of_two_stale;
pub(super) mod power_of_two_tokens;
pub(super) mod prefix_hash;
mod prefix_tree;
pub(super) mod production_stack_load;
pub(super) mod ray_prefix_affinity;
pub(super) mod smg_least_load;
mod spread;
pub(super) mod vllm_dp;
