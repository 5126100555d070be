//! A small cluster for the unit tests of policies: a real state, to which events are applied by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::EngineConfig;
use crate::error::Result;
use crate::event::EngineReport;
use crate::ids::{InstanceId, RequestKey};
use crate::length::LengthDistribution;
use crate::profile::{Form, KvCache, Profile, Scheduler, SchedulerMode, Source, StepTime};
use crate::queue::Queue;
use crate::request::{Request, TenantId};
use crate::state::{Effort, InstanceState, State, StateOptions};
use crate::time::Picos;

use super::{ClusterView, End, Needs, Policy, QueueView, Verdict};

/// Batch slots of an instance.
pub(super) const SLOTS: u32 = 8;
/// KV blocks of an instance, 16 tokens each.
pub(super) const BLOCKS: u32 = 1024;

/// Instances that take 0.1 ms per prompt token and 1 ms per decoding sequence and step, and nothing else.
pub(super) fn engine() -> Arc<EngineConfig> {
    let profile = Profile {
        name: "test".into(),
        model: "test".into(),
        accelerator: "test".into(),
        tensor_parallel: 1,
        max_model_len: 16_384,
        scheduler: Scheduler {
            mode: SchedulerMode::VllmV1,
            max_num_seqs: SLOTS,
            max_num_batched_tokens: 2048,
            reserve_full_input: true,
            watermark: 0.0,
        },
        kv: KvCache { block_tokens: 16, blocks: BLOCKS, prefix_cache: true },
        step_time: StepTime {
            form: Form::A { constant_ms: 0.0 },
            prefill_token_ms: 0.1,
            prefill_attention_ms: 0.0,
            decode_sequence_ms: 1.0,
            decode_context_token_ms: 0.0,
            mixed_decode_sequence: 1.0,
            mixed_decode_context: 1.0,
            overhead_ms: 0.0,
            launch_floor_ms: 0.0,
        },
        source: Source {
            data: "made up".into(),
            fitted_tokens: 2048,
            fitted_sequences: SLOTS,
            fitted_context_tokens: 16_384,
            held_out_error_percent: None,
        },
    };
    Arc::new(EngineConfig::new(&profile).unwrap())
}

/// A time in seconds.
pub(super) fn at(seconds: f64) -> Picos {
    Picos::from_seconds(seconds).unwrap()
}

/// Requires that each number is as expected, but for rounding errors.
#[track_caller]
pub(super) fn assert_close<const N: usize>(actual: [f64; N], expected: [f64; N]) {
    let close = actual.iter().zip(&expected).all(|(actual, expected)| (actual - expected).abs() < 1e-9);
    assert!(close, "{actual:?} is not {expected:?}");
}

/// A request at time zero, predicted exactly.
pub(super) fn request(prompt_tokens: u32, output_tokens: u32) -> Request {
    Request {
        id: 0,
        arrival: Picos::ZERO,
        prompt_tokens,
        max_tokens: 8192,
        predicted: Arc::new(LengthDistribution::exact(output_tokens)),
        prompt_blocks: None,
        priority: 0,
        deadline: None,
        tenant: TenantId(0),
        session: None,
        true_output_tokens: None,
    }
}

/// The same with block hashes: requests of one `family` have their common length as common prefix.
pub(super) fn with_blocks(prompt_tokens: u32, output_tokens: u32, family: u64) -> Request {
    let blocks: Vec<u64> = (0..u64::from(prompt_tokens / 16)).map(|block| family * 1000 + block).collect();
    Request { prompt_blocks: Some(blocks.into()), ..request(prompt_tokens, output_tokens) }
}

/// A state and a queue that a policy is asked about.
pub(super) struct Cluster {
    state: State,
    queue: Queue,
    now: Picos,
    last_prompt_tokens: u32,
}

impl Cluster {
    pub(super) fn new(needs: Needs, instances: usize) -> Self {
        let options = StateOptions { needs, dispatch_delay: Picos::ZERO, progress_tokens: 16 };
        let mut cluster = Self {
            state: State::new(options),
            queue: Queue::new(f64::INFINITY, BTreeMap::new()).unwrap(),
            now: Picos::ZERO,
            last_prompt_tokens: 0,
        };
        (0..instances).for_each(|_| cluster.join());
        cluster
    }

    pub(super) fn view(&self) -> ClusterView<'_> {
        ClusterView::new(self.now, &self.state)
    }

    pub(super) fn instance(&self, instance: u32) -> &InstanceState {
        self.state.instance(InstanceId(instance)).unwrap()
    }

    pub(super) const CAPACITY_TOKENS: u32 = BLOCKS * 16;

    /// Prompt of the request dispatched last.
    pub(super) fn last_prompt_tokens(&self) -> u32 {
        self.last_prompt_tokens
    }

    pub(super) fn set_now(&mut self, seconds: f64) {
        self.now = at(seconds);
        self.state.advance_twins(self.now).unwrap();
    }

    pub(super) fn join(&mut self) {
        let next = u32::try_from(self.state.instances().len()).unwrap();
        self.state.joined(InstanceId(next), engine()).unwrap();
    }

    pub(super) fn drain(&mut self, instance: u32) {
        self.state.draining(InstanceId(instance)).unwrap();
    }

    pub(super) fn report(&mut self, instance: u32, report: EngineReport) {
        self.state.reported(InstanceId(instance), report).unwrap();
    }

    /// Where the policy would place the request, which stays outside.
    pub(super) fn try_place(&self, policy: &mut impl Policy, request: &Request) -> Result<InstanceId> {
        policy.place(&self.view(), request)
    }

    /// The same, where it must not fail.
    pub(super) fn place(&self, policy: &mut impl Policy, request: &Request) -> u32 {
        self.try_place(policy, request).unwrap().0
    }

    /// Places the request where the policy says and dispatches it.
    pub(super) fn route(&mut self, policy: &mut impl Policy, request: Request) -> u32 {
        let instance = self.place(policy, &request);
        self.dispatch(policy, request, instance);
        instance
    }

    /// Dispatches the request to the instance, whatever the policy thinks.
    pub(super) fn dispatch(
        &mut self,
        policy: &mut impl Policy,
        request: Request,
        instance: u32,
    ) -> RequestKey {
        let key = self.state.submitted(request, Effort::default());
        self.send(policy, key, InstanceId(instance));
        key
    }

    fn send(&mut self, policy: &mut impl Policy, key: RequestKey, instance: InstanceId) {
        self.state.dispatched(key, instance, self.now).unwrap();
        let request = self.state.request(key).unwrap();
        self.last_prompt_tokens = request.prompt_tokens;
        policy.dispatched(request, instance, self.now);
    }

    /// Puts the request into the queue.
    pub(super) fn wait(&mut self, policy: &mut impl Policy, request: Request) {
        let effort = self.instance(0).rates().effort(&request, policy.needs());
        let (priority, tenant, order) =
            (request.priority, request.tenant, policy.order_key(&request, effort));
        let key = self.state.submitted(request, effort);
        self.queue.insert(key, priority, tenant, order, policy.overtaking_seconds(effort));
    }

    /// Asks for a decision and carries it out: the instance of a dispatch, and the timer of a hold. An empty queue holds.
    pub(super) fn decide(&mut self, policy: &mut impl Policy, now: Picos) -> (Option<u32>, Option<Picos>) {
        self.now = now;
        self.state.advance_twins(now).unwrap();
        if self.queue.is_empty() {
            return (None, None);
        }
        let queue = QueueView { queue: &self.queue, state: &self.state };
        match policy.decide(&self.view(), &queue).unwrap() {
            Verdict::Hold { until } => (None, until),
            Verdict::Dispatch { request, instance } => {
                self.queue.dispatched(request, 1.0);
                self.send(policy, request, instance);
                (Some(instance.0), None)
            }
        }
    }

    /// The request has produced so many tokens.
    pub(super) fn progress(&mut self, key: RequestKey, tokens: u32) {
        self.state.progress(key, tokens, self.now).unwrap();
    }

    /// The same, and the policy hears of it.
    pub(super) fn progressed(&mut self, policy: &mut impl Policy, key: RequestKey, tokens: u32) {
        if let Some(news) = self.state.progress(key, tokens, self.now).unwrap() {
            policy.progressed(self.state.request(key).unwrap(), news.instance, tokens);
        }
    }

    pub(super) fn first_token(&mut self, policy: &mut impl Policy, key: RequestKey) {
        if let Some(instance) = self.state.first_token(key, None, self.now).unwrap() {
            policy.first_token(self.state.request(key).unwrap(), instance, self.now);
        }
    }

    /// The request is complete.
    pub(super) fn finish(&mut self, policy: &mut impl Policy, key: RequestKey) {
        let released = self.state.released(key, self.now).unwrap();
        if let Some(instance) = released.instance {
            let end = End { at: self.now, tokens: released.tokens, completed: true };
            policy.released(&released.request, instance, end);
        }
    }
}
