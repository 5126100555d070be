//! What a request would take alone on an idle instance.

use irouter_core::Picos;
use irouter_core::engine::EngineConfig;
use irouter_core::profile::{Scale, SchedulerMode, StepShape};

/// Latencies of a request alone on an idle instance with a cold prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unloaded {
    /// Arrival at the router to the first token.
    pub ttft: Picos,
    /// Arrival at the router to the last token.
    pub e2e: Picos,
}

/// Latencies of a request of `prompt_tokens` and `output_tokens` (each at least 1) alone on an idle engine that it
/// reaches `delay` after its arrival at the router.
///
/// The prompt is computed in chunks of the scheduler's budget (in one for `vllm-v0`); the last chunk gives the first
/// token, each decode step one more. Decode steps have a closed form, so the cost is one addition per chunk.
pub fn unloaded(config: &EngineConfig, prompt_tokens: u32, output_tokens: u32, delay: Picos) -> Unloaded {
    let chunk = match config.scheduler.mode {
        SchedulerMode::VllmV0 => prompt_tokens,
        SchedulerMode::VllmV1 | SchedulerMode::Sarathi => config.scheduler.max_num_batched_tokens,
    };
    let mut ttft = delay;
    let mut done = 0;
    while done < prompt_tokens {
        let tokens = chunk.min(prompt_tokens - done);
        let shape = StepShape {
            prefill_sequences: 1,
            prefill_tokens: tokens,
            prefill_pairs: u64::from(tokens) * (2 * u64::from(done) + u64::from(tokens)),
            ..StepShape::default()
        };
        ttft += config.steps.step(&shape, Scale::ONE);
        done += tokens;
    }
    // The first decode step computes the first output token, which attends to the prompt and itself.
    let run = config.steps.decode_run(1, u64::from(prompt_tokens) + 1, Scale::ONE);
    Unloaded { ttft, e2e: ttft + run.total(u64::from(output_tokens) - 1) }
}

#[cfg(test)]
mod tests {
    use irouter_core::Profile;
    use proptest::prelude::*;

    use super::*;

    fn config(mode: &str) -> EngineConfig {
        let text = format!(
            r#"{{"name": "t", "model": "m", "accelerator": "a", "tensor_parallel": 1, "max_model_len": 4096,
            "scheduler": {{"mode": "{mode}", "max_num_seqs": 8, "max_num_batched_tokens": 64}},
            "kv": {{"block_tokens": 16, "blocks": 1000}},
            "step_time": {{"form": {{"kind": "A", "constant_ms": 3.0}}, "prefill_token_ms": 0.25,
                "prefill_attention_ms": 0.001, "decode_sequence_ms": 0.5, "decode_context_token_ms": 0.01,
                "overhead_ms": 1.0, "launch_floor_ms": 5.0}},
            "source": {{"data": "made up", "fitted_tokens": 64, "fitted_sequences": 8,
                "fitted_context_tokens": 4096, "held_out_error_percent": null}}}}"#
        );
        EngineConfig::new(&Profile::from_json(&text).unwrap()).unwrap()
    }

    #[test]
    fn the_closed_form_is_the_sum_of_its_steps_by_hand() {
        // Chunks of 64 and 36 tokens: 3 + 16 + S/1000 with S = 64 x 32 and 36 x (64 + 18), each + 1 overhead.
        let alone = unloaded(&config("vllm-v1"), 100, 3, Picos::MILLISECOND);
        let prefill = (3.0 + 16.0 + 2.048 + 1.0) + (3.0 + 9.0 + 2.952 + 1.0);
        assert!((alone.ttft.as_millis() - 1.0 - prefill).abs() < 1e-6, "{}", alone.ttft);
        // Decode steps of 3 + 0.5 + 1.01 = 4.51 and 4.52 ms stay under the launch floor of 5 ms.
        assert!((alone.e2e.as_millis() - alone.ttft.as_millis() - 12.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_closed_form_equals_a_loop_over_steps(prompt in 1u32..400, output in 1u32..500, mode in 0usize..3) {
            let config = config(["vllm-v1", "vllm-v0", "sarathi"][mode]);
            let mut time = Picos::ZERO;
            let (mut computed, mut produced) = (0, 0);
            let mut ttft = None;
            while produced < output {
                let shape = if computed < prompt {
                    let budget = if mode == 1 { prompt } else { 64 };
                    let tokens = (prompt - computed).min(budget);
                    let pairs = (0..tokens).map(|token| u64::from(2 * (computed + token) + 1)).sum();
                    computed += tokens;
                    StepShape { prefill_sequences: 1, prefill_tokens: tokens, prefill_pairs: pairs, ..StepShape::default() }
                } else {
                    StepShape { decodes: 1, decode_context: u64::from(prompt + produced), ..StepShape::default() }
                };
                time += config.steps.step(&shape, Scale::ONE);
                if computed == prompt {
                    produced += 1;
                    ttft.get_or_insert(time);
                }
            }
            let alone = unloaded(&config, prompt, output, Picos::ZERO);
            prop_assert_eq!((Some(alone.ttft), alone.e2e), (ttft, time));
        }
    }
}
