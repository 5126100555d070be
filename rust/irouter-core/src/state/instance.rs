//! What the router knows of one instance.

use std::sync::Arc;

use crate::engine::EngineConfig;
use crate::error::{Error, Result};
use crate::event::EngineReport;
use crate::ids::InstanceId;
use crate::request::Request;

use super::prefix_index::PrefixIndex;
use super::twin::Twin;
use super::work::WorkRates;

/// Thousandths of a token, in which expected lengths are summed: integers, so that a sum returns to zero exactly.
pub(super) const MILLITOKENS: f64 = 1000.0;

/// Whether an instance takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Takes requests.
    Ready,
    /// Finishes what it has.
    Draining,
    /// Not there.
    Left,
}

impl Status {
    /// The status in words, for errors.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Left => "gone",
        }
    }
}

/// What was dispatched to an instance since its last report was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinceReport {
    /// Requests.
    pub requests: u32,
    /// Their uncached prompt tokens.
    pub prompt_tokens: u64,
}

/// One instance as the router knows it from its own events; nothing here needs engine metrics.
#[derive(Clone, Debug)]
pub struct InstanceState {
    pub(super) id: InstanceId,
    pub(super) status: Status,
    pub(super) generation: u32,
    pub(super) version: u64,
    pub(super) config: Arc<EngineConfig>,
    pub(super) rates: WorkRates,
    /// Ledger slots of the requests in flight, in no order.
    pub(super) slots: Vec<u32>,
    pub(super) sums: Sums,
    pub(super) report: Option<EngineReport>,
    pub(super) since_report: SinceReport,
    pub(super) twin: Option<Twin>,
    pub(super) prefix: Option<PrefixIndex>,
}

/// Sums over the requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) awaiting_first_token: u32,
    pub(super) queued_prefill_tokens: u64,
    pub(super) prompt_tokens: u64,
    pub(super) produced_tokens: u64,
    pub(super) remaining_millitokens: u64,
}

impl InstanceState {
    /// Its number.
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// Whether it takes requests, finishes those it has, or is gone.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether it takes requests now.
    pub fn is_ready(&self) -> bool {
        self.status == Status::Ready
    }

    /// How often it has left and come back.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// A number that changes with every event that changes something of the instance. The passing of time does not: until the
    /// next event a twin does what it would have done at the last.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What the router believes its engine to be.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Seconds of its time per token.
    pub fn rates(&self) -> WorkRates {
        self.rates
    }

    /// Requests dispatched to it and not yet finished.
    pub fn in_flight(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Requests in flight whose first token has not come.
    pub fn awaiting_first_token(&self) -> u32 {
        self.sums.awaiting_first_token
    }

    /// Prompt tokens of those, less what the prefix index expects to be cached there.
    pub fn queued_prefill_tokens(&self) -> u64 {
        self.sums.queued_prefill_tokens
    }

    /// Prompt tokens that are probably still to be computed: those that no first token was heard of, or fewer where its twin
    /// is through with some. What is on its way to the twin is not in it yet.
    ///
    /// First tokens may be heard of late, and never where an answer comes in one piece.
    pub fn prefill_backlog_tokens(&self) -> u64 {
        let heard = self.queued_prefill_tokens();
        let load = self.twin.as_ref().map(Twin::load);
        match load.filter(|load| load.waiting + load.running >= self.in_flight()) {
            Some(load) => heard.min(load.queued_prefill_tokens),
            None => heard,
        }
    }

    /// Prompt tokens of all requests in flight.
    pub fn prompt_tokens(&self) -> u64 {
        self.sums.prompt_tokens
    }

    /// Output tokens known to have been produced by the requests in flight
    /// (needs [`crate::policy::Needs::progress`]).
    pub fn produced_tokens(&self) -> u64 {
        self.sums.produced_tokens
    }

    /// Expected output tokens still to come, given what is known to have been produced
    /// (needs [`crate::policy::Needs::progress`]).
    pub fn remaining_output_tokens(&self) -> f64 {
        self.sums.remaining_millitokens as f64 / MILLITOKENS
    }

    /// Predicted seconds of its time that the requests in flight still take.
    pub fn work_seconds(&self) -> f64 {
        self.rates.seconds(self.sums.queued_prefill_tokens as f64, self.remaining_output_tokens())
    }

    /// Tokens in the KV cache as the router counts them: prompts and known output of all requests in flight.
    pub fn context_tokens(&self) -> u64 {
        self.sums.prompt_tokens + self.sums.produced_tokens
    }

    /// Tokens that its KV cache holds.
    pub fn kv_capacity_tokens(&self) -> u64 {
        u64::from(self.config.kv.blocks) * u64::from(self.config.kv.block_tokens)
    }

    /// Checks that it can ever hold the request: prompt and `max_tokens` fit the context, and the prompt with a token more
    /// fits the KV cache.
    ///
    /// # Errors
    /// [`Error::TooLong`] naming the limit.
    pub fn holds(&self, request: &Request) -> Result<()> {
        let (prompt, output) = (u64::from(request.prompt_tokens), u64::from(request.max_tokens));
        let context = u64::from(self.config.max_model_len);
        let (limit, tokens) = if prompt + output > context {
            ("max_model_len", context)
        } else if prompt >= self.kv_capacity_tokens() {
            ("kv.blocks", self.kv_capacity_tokens())
        } else {
            return Ok(());
        };
        Err(Error::TooLong {
            id: request.id,
            prompt_tokens: request.prompt_tokens,
            output_tokens: request.max_tokens,
            limit,
            tokens,
        })
    }

    /// The engine's last report, when reports come.
    pub fn report(&self) -> Option<&EngineReport> {
        self.report.as_ref()
    }

    /// What was dispatched to it since that report.
    pub fn since_report(&self) -> SinceReport {
        self.since_report
    }

    /// Its twin (needs [`crate::policy::Needs::twin`]).
    pub fn twin(&self) -> Option<&Twin> {
        self.twin.as_ref()
    }

    /// Leading prompt tokens that its prefix cache is expected to hold; 0 without block hashes or without an index
    /// (needs [`crate::policy::Needs::prefix`]). At least one prompt token is always computed.
    pub fn cached_tokens(&self, prompt_tokens: u32, prompt_blocks: Option<&[u64]>) -> u32 {
        let (Some(index), Some(blocks)) = (&self.prefix, prompt_blocks) else { return 0 };
        let whole = prompt_tokens.saturating_sub(1) / self.config.kv.block_tokens;
        index.matched_blocks(blocks).min(whole) * self.config.kv.block_tokens
    }
}
