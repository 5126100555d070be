//! Events: the only way that state changes.

use std::sync::Arc;

use crate::engine::EngineConfig;
use crate::ids::{InstanceId, RequestKey};
use crate::time::Picos;

/// What happened, told to [`crate::Router::observe`] with the time at which the router learns of it.
#[derive(Clone, Debug)]
pub enum Event {
    /// An instance takes requests from now on: a new one, or one that left before and starts clean.
    Joined {
        /// Its number: the next free one, or that of an instance that has left.
        instance: InstanceId,
        /// What the router believes its engine to be.
        config: Arc<EngineConfig>,
    },
    /// An instance takes no more requests, and finishes those it has.
    Draining {
        /// Which.
        instance: InstanceId,
    },
    /// An instance that was draining takes requests again.
    Resumed {
        /// Which.
        instance: InstanceId,
    },
    /// An instance is gone, and every request on it is lost.
    Left {
        /// Which.
        instance: InstanceId,
    },
    /// A request's first token came.
    FirstToken {
        /// Which request.
        request: RequestKey,
        /// Prompt tokens that the engine took from its prefix cache, when it says so.
        cached_tokens: Option<u32>,
    },
    /// A request has produced this many tokens so far.
    Progress {
        /// Which request.
        request: RequestKey,
        /// Tokens produced since its start.
        tokens: u32,
    },
    /// A request is complete.
    Finished {
        /// Which request.
        request: RequestKey,
        /// Its output length, when the caller counted; otherwise the progress known is taken.
        tokens: Option<u32>,
    },
    /// A request broke on its instance.
    Failed {
        /// Which request.
        request: RequestKey,
    },
    /// The client went away; the request may still wait at the router.
    Cancelled {
        /// Which request.
        request: RequestKey,
    },
    /// An engine's own metrics.
    EngineReport {
        /// Which instance.
        instance: InstanceId,
        /// What it reports.
        report: EngineReport,
    },
}

/// Metrics of an engine, as its `/metrics` page gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineReport {
    /// When the engine measured them.
    pub at: Picos,
    /// Requests in the engine's queue.
    pub waiting: u32,
    /// Requests in its batch.
    pub running: u32,
    /// Share of its KV blocks in use, 0 to 1.
    pub kv_usage: f64,
    /// Prompt tokens waiting or partly computed.
    pub queued_prefill_tokens: u64,
}
