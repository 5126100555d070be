//! Helpers shared by the integration tests.

use std::sync::Arc;

use irouter_core::engine::EngineConfig;
use irouter_core::policy::{ClusterView, Needs, Policy, QueueView, Verdict};
use irouter_core::profile::{Form, KvCache, Profile, Scheduler, SchedulerMode, Source, StepTime};
use irouter_core::{
    Event, InstanceId, LengthDistribution, Picos, Request, Result, Router, RouterConfig, TenantId,
};

/// A small engine: 20 ms a step and 0.1 ms a prompt token, `max_num_seqs` requests, `blocks` KV blocks of 16 tokens.
pub(crate) fn profile(max_num_seqs: u32, blocks: u32) -> Profile {
    Profile {
        name: "test".into(),
        model: "test".into(),
        accelerator: "test".into(),
        tensor_parallel: 1,
        max_model_len: 4096,
        scheduler: Scheduler {
            mode: SchedulerMode::VllmV1,
            max_num_seqs,
            max_num_batched_tokens: 2048,
            reserve_full_input: true,
            watermark: 0.0,
        },
        kv: KvCache { block_tokens: 16, blocks, prefix_cache: true },
        step_time: StepTime {
            form: Form::A { constant_ms: 20.0 },
            prefill_token_ms: 0.1,
            prefill_attention_ms: 0.0,
            decode_sequence_ms: 0.05,
            decode_context_token_ms: 0.0001,
            mixed_decode_sequence: 1.0,
            mixed_decode_context: 1.0,
            overhead_ms: 0.0,
            launch_floor_ms: 0.0,
        },
        source: Source {
            data: "made up".into(),
            fitted_tokens: 2048,
            fitted_sequences: 256,
            fitted_context_tokens: 4096,
            held_out_error_percent: None,
        },
    }
}

/// The engine of [`profile`].
pub(crate) fn engine(max_num_seqs: u32, blocks: u32) -> Arc<EngineConfig> {
    Arc::new(EngineConfig::new(&profile(max_num_seqs, blocks)).unwrap())
}

/// A request that arrives at `arrival`.
pub(crate) fn request(id: u64, arrival: Picos, prompt_tokens: u32, output_tokens: u32) -> Request {
    Request {
        id,
        arrival,
        prompt_tokens,
        max_tokens: 1024,
        predicted: Arc::new(LengthDistribution::exact(output_tokens)),
        prompt_blocks: None,
        priority: 0,
        deadline: None,
        tenant: TenantId(0),
        session: None,
        true_output_tokens: None,
    }
}

/// A router over `instances` small engines.
pub(crate) fn router(policy: impl Policy + 'static, config: RouterConfig, instances: u32) -> Router {
    let mut router = Router::new("test", Box::new(policy), config).unwrap();
    for number in 0..instances {
        let event = Event::Joined { instance: InstanceId(number), config: engine(64, 4096) };
        router.observe(event, Picos::ZERO).unwrap();
    }
    router
}

/// Places on the instance with the fewest requests, and needs everything.
pub(crate) struct Fewest;

impl Policy for Fewest {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, twin: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|instance| f64::from(instance.in_flight()))
    }
}

/// Never dispatches of its own accord.
pub(crate) struct Holder;

impl Policy for Holder {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|_| 0.0)
    }

    fn decide(&mut self, _view: &ClusterView<'_>, _queue: &QueueView<'_>) -> Result<Verdict> {
        Ok(Verdict::Hold { until: None })
    }
}
