//! The messages of the protocol, version 1: `docs/external-policies.md` is their specification.

use irouter_core::length::LEVELS;
use irouter_core::policy::{ClusterView, End};
use irouter_core::state::InstanceState;
use irouter_core::{InstanceId, Picos, Request};
use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub(crate) const PROTOCOL: u32 = 1;

/// What the router says.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message<'a> {
    /// Once, before everything else.
    Hello { protocol: u32, seed: u64, quantile_levels: [f64; LEVELS.len()], instances: Vec<InstanceFacts> },
    /// For each decision.
    Route {
        now_s: f64,
        request: RequestView<'a>,
        instances: Vec<InstanceView>,
        /// What has happened since the last message, in order.
        events: &'a [EventView],
    },
}

/// The answer to the greeting.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Greeting {
    pub(crate) protocol: u32,
}

/// The answer to a question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    pub(crate) instance: u32,
}

/// What does not change about an instance, as the router believes it to be.
#[derive(Serialize)]
pub(crate) struct InstanceFacts {
    instance: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    kv_capacity_tokens: u64,
    kv_block_tokens: u32,
    prefill_seconds_per_token: f64,
    decode_seconds_per_token: f64,
}

/// The request that has to go somewhere.
#[derive(Serialize)]
pub(crate) struct RequestView<'a> {
    id: u64,
    arrival_s: f64,
    prompt_tokens: u32,
    max_tokens: u32,
    predicted_tokens: f64,
    predicted_quantiles: [f64; LEVELS.len()],
    prompt_blocks: Option<&'a [u64]>,
    priority: i32,
    tenant: u32,
    session: Option<u64>,
}

/// An instance that takes requests.
#[derive(Serialize)]
pub(crate) struct InstanceView {
    instance: u32,
    in_flight: u32,
    awaiting_first_token: u32,
    queued_prefill_tokens: u64,
    prompt_tokens: u64,
    produced_tokens: u64,
    remaining_output_tokens: f64,
    work_seconds: f64,
    kv_capacity_tokens: u64,
    cached_tokens: u32,
}

/// Something that the router has learned.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum EventView {
    Dispatched { at_s: f64, request: u64, instance: u32 },
    FirstToken { at_s: f64, request: u64, instance: u32 },
    Ended { at_s: f64, request: u64, instance: u32, tokens: u32, completed: bool },
    Left { instance: u32 },
}

impl<'a> Message<'a> {
    pub(crate) fn hello(seed: u64, view: &ClusterView<'_>) -> Self {
        let instances = view.ready().map(InstanceFacts::new).collect();
        Self::Hello { protocol: PROTOCOL, seed, quantile_levels: LEVELS, instances }
    }

    pub(crate) fn route(view: &ClusterView<'_>, request: &'a Request, events: &'a [EventView]) -> Self {
        let instances = view.ready().map(|instance| InstanceView::new(instance, request)).collect();
        Self::Route { now_s: view.now.as_seconds(), request: RequestView::new(request), instances, events }
    }
}

impl InstanceFacts {
    fn new(instance: &InstanceState) -> Self {
        let (config, rates) = (instance.config(), instance.rates());
        Self {
            instance: instance.id().0,
            max_num_seqs: config.scheduler.max_num_seqs,
            max_num_batched_tokens: config.scheduler.max_num_batched_tokens,
            max_model_len: config.max_model_len,
            kv_capacity_tokens: instance.kv_capacity_tokens(),
            kv_block_tokens: config.kv.block_tokens,
            prefill_seconds_per_token: rates.prefill_seconds_per_token,
            decode_seconds_per_token: rates.decode_seconds_per_token,
        }
    }
}

impl<'a> RequestView<'a> {
    fn new(request: &'a Request) -> Self {
        let most = f64::from(request.max_tokens);
        Self {
            id: request.id,
            arrival_s: request.arrival.as_seconds(),
            prompt_tokens: request.prompt_tokens,
            max_tokens: request.max_tokens,
            predicted_tokens: request.predicted.mean(request.max_tokens),
            predicted_quantiles: LEVELS.map(|level| request.predicted.quantile(level).min(most)),
            prompt_blocks: request.prompt_blocks.as_deref(),
            priority: request.priority,
            tenant: request.tenant.0,
            session: request.session,
        }
    }
}

impl InstanceView {
    fn new(instance: &InstanceState, request: &Request) -> Self {
        Self {
            instance: instance.id().0,
            in_flight: instance.in_flight(),
            awaiting_first_token: instance.awaiting_first_token(),
            queued_prefill_tokens: instance.queued_prefill_tokens(),
            prompt_tokens: instance.prompt_tokens(),
            produced_tokens: instance.produced_tokens(),
            remaining_output_tokens: instance.remaining_output_tokens(),
            work_seconds: instance.work_seconds(),
            kv_capacity_tokens: instance.kv_capacity_tokens(),
            cached_tokens: instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref()),
        }
    }
}

impl EventView {
    pub(crate) fn dispatched(request: &Request, instance: InstanceId, now: Picos) -> Self {
        Self::Dispatched { at_s: now.as_seconds(), request: request.id, instance: instance.0 }
    }

    pub(crate) fn first_token(request: &Request, instance: InstanceId, now: Picos) -> Self {
        Self::FirstToken { at_s: now.as_seconds(), request: request.id, instance: instance.0 }
    }

    pub(crate) fn ended(request: &Request, instance: InstanceId, end: End) -> Self {
        let End { at, tokens, completed } = end;
        Self::Ended { at_s: at.as_seconds(), request: request.id, instance: instance.0, tokens, completed }
    }

    pub(crate) fn left(instance: InstanceId) -> Self {
        Self::Left { instance: instance.0 }
    }
}
