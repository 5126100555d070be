//! What is kept of a waiting request and of an instance between decisions.

use crate::impact::Linear;
use crate::request::Request;
use crate::state::{InstanceState, WorkRates};
use crate::time::Picos;

use super::outlook::Outlook;
use crate::policy::ClusterView;
use crate::policy::estimate::expected_output_tokens;

/// Of a waiting request: what only depends on it, worked out once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestSketch {
    pub(super) outlook: Outlook,
    /// Prompt and expected output.
    pub(super) tokens: f32,
    pub(super) output_tokens: f32,
    pub(super) prompt_share: f32,
    /// ln of the 0.9-quantile over the median.
    pub(super) spread: f32,
    /// Prefill of the whole prompt, in steps that are full of prompt tokens.
    pub(super) prefill_seconds: f32,
    /// That and the expected decode time on a full instance.
    pub(super) service_seconds: f32,
    /// The same at the 0.9-quantile of the predicted length.
    pub(super) longest_service_seconds: f32,
}

#[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
impl RequestSketch {
    pub(super) fn new(request: &Request, rates: WorkRates, block_tokens: u32) -> Self {
        let prompt = f64::from(request.prompt_tokens);
        let output = expected_output_tokens(request);
        let quantile = |level| request.predicted.quantile(level).max(1.0);
        let longest = quantile(0.9).min(f64::from(request.max_tokens));
        let prefill = prompt * rates.prefill_seconds_per_token;
        let service = |output: f64| (prefill + output * rates.decode_step_seconds).max(1e-6) as f32;
        Self {
            outlook: Outlook::of_request(request, block_tokens),
            tokens: (prompt + output) as f32,
            output_tokens: output as f32,
            prompt_share: (prompt / (prompt + output)) as f32,
            spread: libm::log(quantile(0.9) / quantile(0.5)) as f32,
            prefill_seconds: prefill.max(1e-6) as f32,
            service_seconds: service(output),
            longest_service_seconds: service(longest),
        }
    }
}

/// Decode steps after which a forecast is made anew, though nobody came or went.
const FORECAST_STEPS: f64 = 16.0;

/// Of an instance: its gradients, and its forecast, which is good for a few steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InstanceSketch {
    /// With the generation of the instance.
    linear: Option<(u32, Linear)>,
    outlook: Option<Outlook>,
    /// When it is too old.
    until: Picos,
    block_tokens: u32,
}

impl InstanceSketch {
    /// Somebody left.
    pub(super) fn forget(&mut self) {
        self.outlook = None;
    }

    /// Somebody came.
    pub(super) fn add(&mut self, request: &Request) {
        if let Some(outlook) = &mut self.outlook {
            outlook.add(&Outlook::of_request(request, self.block_tokens));
        }
    }

    /// The gradients of the instance.
    pub(super) fn linear(&mut self, instance: &InstanceState) -> Linear {
        match self.linear {
            Some((generation, linear)) if generation == instance.generation() => linear,
            _ => self.linear.insert((instance.generation(), Linear::new(instance.config()))).1,
        }
    }

    /// The forecast of the instance.
    pub(super) fn outlook(&mut self, view: &ClusterView<'_>, instance: &InstanceState) -> Outlook {
        match self.outlook {
            Some(outlook) if view.now < self.until => outlook,
            _ => {
                let steps = FORECAST_STEPS * instance.rates().decode_step_seconds;
                self.until = view.now.saturating_add(Picos::from_seconds(steps).unwrap_or(Picos::ZERO));
                let outlook = Outlook::new(&view.forecast(instance));
                self.outlook = Some(outlook);
                self.block_tokens = instance.config().kv.block_tokens;
                outlook
            }
        }
    }
}
