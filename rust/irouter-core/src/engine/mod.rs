//! One instance of a continuous-batching engine, iteration by iteration.
//!
//! Two executors behind one trait: [`Stepwise`] runs every iteration with a loop over its requests and is written to be
//! read; [`FastForward`] keeps sums over the residents and jumps over runs of decode-only steps. They agree bit for bit.

mod blocks;
mod config;
mod fast_forward;
mod observer;
mod pace;
mod prefix_cache;
mod stepwise;

pub use config::{EngineConfig, Noise};
pub use fast_forward::FastForward;
pub use observer::{NoObserver, Observer};
pub use stepwise::Stepwise;

use std::sync::Arc;

use crate::error::Result;
use crate::time::Picos;

/// A request as the engine sees it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Number that the owner knows it by; handed to the [`Observer`].
    pub tag: u64,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Tokens it will produce, at least 1. In a twin, which does not know, its `max_tokens`.
    pub output_tokens: u32,
    /// Hashes of its full prompt blocks, when a prefix cache can use them. As in vLLM each stands for the whole prompt up
    /// to the end of its block: equal hashes mean equal blocks before them.
    pub prompt_blocks: Option<Arc<[u64]>>,
}

/// Handle of a job in its engine, valid until it finished or was cancelled; then the number may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobSlot(pub u32);

/// What an engine holds at the end of its last completed step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Requests in the engine's own queue, arrivals up to its clock included.
    pub waiting: u32,
    /// Requests admitted to the batch.
    pub running: u32,
    /// Prompt (and recomputed) tokens not yet computed, of waiting and running requests.
    pub queued_prefill_tokens: u64,
    /// KV blocks held by running requests (a shared prefix block counts once).
    pub used_blocks: u32,
    /// Sum of the contexts of the decoding requests, in tokens.
    pub decode_context_tokens: u64,
}

/// An engine that can be advanced in time.
///
/// A step begins with admissions and preemptions and ends with tokens; it begins when the clock has passed its start.
/// Calls are in order of time: [`Executor::submit`] and [`Executor::cancel`] take effect at the first step boundary at
/// or after `at`, and `at` never lies before the clock.
pub trait Executor {
    /// Adds a request that reaches the engine at `at`. Requests are queued in the order of their times, equal times in
    /// the order of the calls.
    ///
    /// # Errors
    /// [`crate::Error::TimeWentBack`] when `at` lies before the engine's clock or an earlier call's `at`;
    /// [`crate::Error::TooLong`] when prompt and output can never fit the KV cache.
    fn submit(&mut self, at: Picos, job: Job) -> Result<JobSlot>;

    /// Takes a request out at the first step boundary at or after `at`, wherever it is by then; nothing happens when it
    /// has finished before.
    ///
    /// # Errors
    /// [`crate::Error::TimeWentBack`] as for [`Executor::submit`].
    fn cancel(&mut self, at: Picos, slot: JobSlot) -> Result<()>;

    /// Completes every step that ends at or before `until`, and sets the clock to `until`. A step that would end later
    /// is left for the next call: a step sees the arrivals up to its start and no others, so nothing depends on where
    /// the calls cut the time.
    ///
    /// # Errors
    /// [`crate::Error::TimeWentBack`] and [`crate::Error::TimeOverflow`].
    fn advance(&mut self, until: Picos, observer: &mut impl Observer) -> Result<()>;

    /// A time before which no request gets its first token or finishes, if no further call is made: the end of the step
    /// or of the run of decode steps that is going on. `None` when there is nothing to compute and no arrival to come.
    ///
    /// A step that would start at the clock or later is not decided yet, since it still may get arrivals; then it is the
    /// first instant after its start. Advancing to it and asking again gives the step's end.
    fn next_event(&mut self) -> Option<Picos>;

    /// What the engine holds.
    fn load(&self) -> EngineLoad;

    /// Tokens that the request has produced by the end of the last completed step.
    fn produced(&self, slot: JobSlot) -> u32;
}
