//! What the router is told of a request.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::length::LengthDistribution;
use crate::time::Picos;

/// A request as it arrives at the router.
///
/// The names are the same in Python, traces, logs and on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number that the caller knows the request by; the router only hands it back.
    pub id: u64,
    /// When it arrived at the router. Every latency starts here.
    pub arrival: Picos,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Most tokens that it may produce, at least 1.
    pub max_tokens: u32,
    /// What a predictor says of its output length.
    pub predicted: Arc<LengthDistribution>,
    /// Hashes of the full prompt blocks (block size of the profile), each covering the whole prefix up to it.
    pub prompt_blocks: Option<Arc<[u64]>>,
    /// Higher goes first.
    pub priority: i32,
    /// When it should be done.
    pub deadline: Option<Picos>,
    /// Tenants share the central queue by weight.
    pub tenant: TenantId,
    /// Requests of one session are kept together by affinity policies.
    pub session: Option<u64>,
    /// The true output length. Only a simulator sets it, and only for policies that say they are oracles
    /// ([`crate::policy::Needs::truth`]), so that no other policy can see it.
    pub true_output_tokens: Option<u32>,
}

/// Number of a tenant; weights are given in the router's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub u32);
