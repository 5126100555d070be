//! The paper's guidance: the latency impact of a placement in its linear form.

use irouter_core::impact::Linear;
use irouter_core::policy::ClusterView;
use irouter_core::policy::paper_agent::counts::expected_output;
use irouter_core::state::InstanceState;
use irouter_core::{InstanceId, Request};

/// How good a placement is: `r_mix` of the paper, as [`Linear::penalties`] has it, from -1 to 0.5.
fn placement(linear: &Linear, instance: &InstanceState, request: &Request) -> f64 {
    let cached_tokens = instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref());
    let context_tokens = instance.context_tokens() as f64;
    let output_tokens = expected_output(request);
    let penalties = linear.penalties(
        instance.in_flight(),
        context_tokens,
        request.prompt_tokens,
        cached_tokens,
        output_tokens,
    );
    penalties.mixing
}

/// What is lost by choosing `chosen` and not the instance with the least impact: 0 for that one, negative for others.
pub(super) fn gap(linear: &Linear, view: &ClusterView<'_>, request: &Request, chosen: InstanceId) -> f64 {
    let mut of_chosen = 0.0;
    let mut best = f64::NEG_INFINITY;
    for instance in view.ready() {
        let placement = placement(linear, instance, request);
        best = best.max(placement);
        if instance.id() == chosen {
            of_chosen = placement;
        }
    }
    of_chosen - best
}
