//! Rules of other routers, written again from their published formulas. One file each.
//!
//! Every rule has the defaults, the information and the staleness with which its router ships it. Where it reads polled
//! metrics or has a place for output lengths, its options also offer what this router knows: its own events and predicted
//! lengths. [`super::Configurable::EQUALISED`] names those options and [`super::Configurable::TUNABLE`] the constants that a
//! search may set, so that a comparison can show a rule both as shipped and at its best.

mod affinity;
pub(super) mod dynamo_kv;
pub(super) mod llmd_predicted_latency;
pub(super) mod llmd_token_load;
pub(super) mod lmetric;
pub(super) mod smg_least_load;
