//! What the router decided.

use crate::ids::{InstanceId, RequestKey};
use crate::impact::Impact;
use crate::time::Picos;

/// The answer of [`crate::Router::decide`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Send this request.
    Dispatch(Decision),
    /// Send nothing until the next event, or until this time.
    Hold {
        /// The earliest timer.
        until: Option<Picos>,
    },
    /// Nothing waits.
    Idle,
}

/// A request's dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Names the request in events.
    pub key: RequestKey,
    /// The caller's number of the request.
    pub id: u64,
    /// Where it goes.
    pub instance: InstanceId,
    /// When it was decided.
    pub at: Picos,
    /// How long the request had waited at the router.
    pub waited: Picos,
    /// Prompt tokens expected in the instance's prefix cache.
    pub cached_tokens: u32,
    /// Whether the policy failed and the least predicted work decided.
    pub fallback: bool,
    /// The latency impact expected of it, where the router estimates it.
    pub impact: Option<Impact>,
}
