//! `llmd_token_load`: the optimized baseline of llm-d, sticky until saturated.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;

use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::estimate::{TokenTally, expected_output_tokens, uncached_tokens};
use crate::policy::peers::affinity::{AffinityFilter, cached_share};
use crate::policy::{ClusterView, End, Needs, Policy};
use crate::time::Picos;

/// llm-d's `prefix-cache-affinity-filter` followed by its `token-load-scorer`, as its optimized-baseline guide ships them
/// (llm-d-router of autumn 2026; B17 of the peers' list).
///
/// ```text
/// sticky  <=>  cached full blocks / full blocks of the prompt >= affinity_threshold
/// keep only the sticky instances, unless there is none, or
///     (min F of the sticky - min F of the others) / peak_prefill_tokens_per_second > max_ttft_penalty_seconds
/// argmax  1 - min(1, (F + own tokens) / queue_threshold_tokens)
/// ```
///
/// * `F`: tokens in flight: uncached prompt tokens of the requests whose first token has not come, and with an output
///   estimate also the estimated output of every request in flight, until it finishes;
/// * own tokens: this request's uncached prompt tokens there, so that a cached prefix counts in the same unit as load.
///
/// `output_estimate` is `none` as shipped (`addEstimatedOutputTokens` is off by default). `buckets` are the estimates that
/// replaced 1.5 x input (llm-d-router PR 2309): 100 tokens for a short, 1,000 for an unknown, 4,096 for a long output;
/// llm-d reads the class from a client's hint, here the predicted mean gives it, by llm-d's own edges of 500 and
/// 2,000 tokens. `predicted` is the predicted mean itself. Neither exceeds `max_tokens`.
///
/// Without block hashes nothing is sticky. Ties are broken at random, as by llm-d's max-score picker.
#[derive(Clone, Debug)]
pub(crate) struct LlmdTokenLoad {
    options: LlmdTokenLoadOptions,
    draws: Draws,
    outputs: TokenTally,
}

/// Constants of [`LlmdTokenLoad`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LlmdTokenLoadOptions {
    /// Cached share of the prompt from which an instance is sticky: 0.8.
    pub affinity_threshold: f64,
    /// Seconds of prefill by which a sticky instance may be behind: 18; 0 for any.
    pub max_ttft_penalty_seconds: f64,
    /// Prompt tokens per second of an instance: 15,928, llm-d's default for a 32B model on two H100.
    pub peak_prefill_tokens_per_second: f64,
    /// Tokens in flight at which the score is 0: 4,194,304.
    pub queue_threshold_tokens: u32,
    /// What a request is expected to produce: `none`.
    pub output_estimate: OutputEstimate,
}

/// What a request in flight is counted to produce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutputEstimate {
    /// Nothing.
    #[default]
    None,
    /// 100, 1,000 or 4,096 tokens by the class of the predicted mean.
    Buckets,
    /// The predicted mean.
    Predicted,
}

impl Default for LlmdTokenLoadOptions {
    fn default() -> Self {
        Self {
            affinity_threshold: 0.8,
            max_ttft_penalty_seconds: 18.0,
            peak_prefill_tokens_per_second: 15_928.0,
            queue_threshold_tokens: 4_194_304,
            output_estimate: OutputEstimate::None,
        }
    }
}

/// llm-d's classes of output length: below the first edge short, from the second on long.
const OUTPUT_CLASS_EDGES: [f64; 2] = [500.0, 2000.0];
/// Its estimates of the three classes, in tokens.
const OUTPUT_CLASS_TOKENS: [u32; 3] = [100, 1000, 4096];

impl LlmdTokenLoadOptions {
    fn affinity(&self) -> AffinityFilter {
        let Self { affinity_threshold: threshold, max_ttft_penalty_seconds, .. } = *self;
        AffinityFilter { threshold, max_ttft_penalty_seconds }
    }
}

impl LlmdTokenLoad {
    /// Output tokens that the request is counted with.
    fn output_tokens(&self, request: &Request) -> u32 {
        let expected = || expected_output_tokens(request);
        let tokens = match self.options.output_estimate {
            OutputEstimate::None => 0,
            OutputEstimate::Buckets => {
                let expected = expected();
                let class = OUTPUT_CLASS_EDGES.iter().filter(|&&edge| expected >= edge).count();
                OUTPUT_CLASS_TOKENS[class]
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "from 0 to max_tokens"
            )]
            OutputEstimate::Predicted => libm::round(expected()) as u32,
        };
        tokens.min(request.max_tokens)
    }

    fn tokens_in_flight(&self, instance: &InstanceState) -> u64 {
        instance.queued_prefill_tokens() + self.outputs.tokens(instance.id())
    }

    /// Whether the sticky instances are to be kept; there may be none otherwise.
    fn keeps_sticky(&self, view: &ClusterView<'_>, request: &Request) -> bool {
        let affinity = self.options.affinity();
        affinity.keeps_sticky(view.ready().map(|instance| {
            let seconds =
                self.tokens_in_flight(instance) as f64 / self.options.peak_prefill_tokens_per_second;
            (affinity.is_sticky(cached_share(instance, request)), seconds)
        }))
    }
}

impl Configurable for LlmdTokenLoad {
    type Options = LlmdTokenLoadOptions;

    const EQUALISED: &'static str = r#"{"output_estimate": "predicted"}"#;
    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "affinity_threshold", low: 0.05, high: 1.0, scale: Scale::Linear },
        Tunable { option: "max_ttft_penalty_seconds", low: 0.05, high: 60.0, scale: Scale::Logarithmic },
    ];

    fn new(options: LlmdTokenLoadOptions, seed: u64) -> Result<Self> {
        options.affinity().validate("affinity_threshold")?;
        let rate = options.peak_prefill_tokens_per_second;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(Error::field("peak_prefill_tokens_per_second", rate, "a positive number"));
        }
        if options.queue_threshold_tokens == 0 {
            return Err(Error::field("queue_threshold_tokens", 0, "at least 1"));
        }
        Ok(Self { options, draws: Draws::new(seed), outputs: TokenTally::default() })
    }
}

impl Policy for LlmdTokenLoad {
    fn needs(&self) -> Needs {
        Needs { counts: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let only_sticky = self.keeps_sticky(view, request);
        let own = u64::from(self.output_tokens(request));
        let Self { options, draws, outputs } = self;
        let cost = |instance: &InstanceState| {
            let tokens = instance.queued_prefill_tokens()
                + outputs.tokens(instance.id())
                + u64::from(uncached_tokens(instance, request))
                + own;
            (tokens as f64 / f64::from(options.queue_threshold_tokens)).min(1.0)
        };
        if !only_sticky {
            return draws.lowest(view, cost);
        }
        let affinity = options.affinity();
        let kept = view.ready().filter(|instance| affinity.is_sticky(cached_share(instance, request)));
        draws.lowest_of(kept, cost).ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.outputs.add(instance, self.output_tokens(request));
    }

    fn released(&mut self, request: &Request, instance: InstanceId, _end: End) {
        self.outputs.take(instance, self.output_tokens(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: LlmdTokenLoadOptions) -> LlmdTokenLoad {
        LlmdTokenLoad::new(options, 0).unwrap()
    }

    #[test]
    fn uncached_tokens_in_flight_and_of_the_request_decide() {
        let mut policy = policy(LlmdTokenLoadOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        let first = cluster.dispatch(&mut policy, request(300, 5000), 0);
        cluster.dispatch(&mut policy, request(200, 10), 1);
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 1);
        // With its first token a prompt is no longer in flight; its output never was.
        cluster.progress(first, 1);
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 0);
    }

    #[test]
    fn a_cached_prompt_is_sticky_until_its_instance_is_behind_by_more_than_the_penalty() {
        let options = LlmdTokenLoadOptions {
            max_ttft_penalty_seconds: 1.0,
            peak_prefill_tokens_per_second: 1000.0,
            ..Default::default()
        };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 2);
        // 10 blocks; 9 of them count as cached, since one token is always computed.
        let turn = with_blocks(160, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 0);
        cluster.finish(&mut policy, first);
        cluster.dispatch(&mut policy, request(1000, 10), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 0, "1.000 s behind");
        cluster.dispatch(&mut policy, request(1, 10), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 1, "1.001 s behind");
        let longer = with_blocks(192, 10, 1);
        assert_eq!(cluster.place(&mut policy, &longer), 1, "10 of 12 blocks are sticky, but saturated");
        let loose = LlmdTokenLoadOptions { max_ttft_penalty_seconds: 0.0, ..options };
        let mut always = LlmdTokenLoad::new(loose, 0).unwrap();
        assert_eq!(cluster.place(&mut always, &longer), 0);
        assert_eq!(cluster.place(&mut always, &with_blocks(224, 10, 1)), 1, "10 of 14 blocks are below 0.8");
    }

    #[test]
    fn outputs_count_by_class_or_prediction_until_the_request_ends() {
        let estimate = |output_estimate, tokens| {
            policy(LlmdTokenLoadOptions { output_estimate, ..Default::default() })
                .output_tokens(&request(1, tokens))
        };
        assert_eq!(
            [10, 501, 1999, 2001].map(|tokens| estimate(OutputEstimate::Buckets, tokens)),
            [100, 1000, 1000, 4096]
        );
        assert_eq!(estimate(OutputEstimate::Predicted, 321), 321);
        assert_eq!(estimate(OutputEstimate::None, 321), 0);
        let mut policy =
            policy(LlmdTokenLoadOptions { output_estimate: OutputEstimate::Predicted, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        let long = cluster.dispatch(&mut policy, request(10, 500), 0);
        cluster.dispatch(&mut policy, request(10, 400), 1);
        cluster.progress(long, 300);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1, "500 against 410 tokens");
        cluster.finish(&mut policy, long);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 0);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = LlmdTokenLoadOptions::default();
        for (options, field) in [
            (LlmdTokenLoadOptions { affinity_threshold: 0.0, ..default }, "affinity_threshold"),
            (
                LlmdTokenLoadOptions { max_ttft_penalty_seconds: f64::NAN, ..default },
                "max_ttft_penalty_seconds",
            ),
            (LlmdTokenLoadOptions { peak_prefill_tokens_per_second: 0.0, ..default }, "peak_prefill"),
            (LlmdTokenLoadOptions { queue_threshold_tokens: 0, ..default }, "queue_threshold_tokens"),
        ] {
            let error = LlmdTokenLoad::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
