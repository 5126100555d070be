//! The paper's latency impact of a placement in its linear form (Jain et al., section 5.2, equations 1 and 2).

use irouter_core::engine::EngineConfig;
use irouter_core::policy::ClusterView;
use irouter_core::policy::paper_agent::counts::expected_output;
use irouter_core::profile::Scale;
use irouter_core::state::InstanceState;
use irouter_core::{InstanceId, Request};

/// Seconds of prompt processing that cost nothing: of the paper's threshold only the name is known.
const EPSILON_SECONDS: f64 = 0.3;
/// Weight of the prompt phase, the paper's.
const ALPHA: f64 = 0.5;
/// Seconds of delay, over all residents, at which the decode phase's term is 0: the paper gives its range only.
const DECODE_SCALE_SECONDS: f64 = 1.0;

/// Seconds per token in the prompt phase and in the context of a decode step: the paper's two gradients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradients {
    prompt: f64,
    context: f64,
}

impl Gradients {
    /// Those of an engine: a step full of prompt tokens, and a decode step by its context.
    pub(super) fn new(instance: &InstanceState) -> Self {
        Self {
            prompt: instance.rates().prefill_seconds_per_token,
            context: context_gradient(instance.config()),
        }
    }

    /// How good it is to place the request on the instance, from -1 to 1 in the usual range; the text leaves out the bodies
    /// of the equations, this is a reconstruction.
    ///
    /// ```text
    /// T = g1 p + g2 sum of contexts          r_p = -max(T - epsilon, 0)
    /// r_d = clip(1 - n (g1 p + g2 (p + d)) / C, -1, 1)
    /// alpha r_p + (1 - alpha) r_d
    /// ```
    fn placement(self, instance: &InstanceState, request: &Request) -> f64 {
        let prompt = f64::from(request.prompt_tokens);
        let own = self.prompt * prompt;
        let prompt_phase = own + self.context * instance.context_tokens() as f64;
        let penalty = (prompt_phase - EPSILON_SECONDS).max(0.0);
        let delay = own + self.context * (prompt + expected_output(request));
        let residents = f64::from(instance.in_flight());
        let decode_phase = (1.0 - residents * delay / DECODE_SCALE_SECONDS).clamp(-1.0, 1.0);
        (1.0 - ALPHA) * decode_phase - ALPHA * penalty
    }

    /// What is lost by choosing `chosen` and not the instance with the least impact: 0 for that one, negative for others.
    pub(super) fn gap(self, view: &ClusterView<'_>, request: &Request, chosen: InstanceId) -> f64 {
        let mut of_chosen = 0.0;
        let mut best = f64::NEG_INFINITY;
        for instance in view.ready() {
            let placement = self.placement(instance, request);
            best = best.max(placement);
            if instance.id() == chosen {
                of_chosen = placement;
            }
        }
        of_chosen - best
    }
}

fn context_gradient(engine: &EngineConfig) -> f64 {
    let tokens = u64::from(engine.kv.blocks) * u64::from(engine.kv.block_tokens);
    let step_s = |context| engine.steps.decode_run(1, context, Scale::ONE).step(0).as_seconds();
    (step_s(tokens) - step_s(0)) / tokens as f64
}
