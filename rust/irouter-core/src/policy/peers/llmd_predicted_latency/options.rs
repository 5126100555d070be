//! Constants of `llmd_predicted_latency`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::policy::peers::affinity::AffinityFilter;
use crate::time::Picos;
use crate::trees::BoostOptions;

use super::window::WindowLimits;

/// Constants of [`super::LlmdPredictedLatency`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LlmdPredictedLatencyOptions {
    /// Weight of TTFT in the score: 0.8.
    pub ttft_weight: f64,
    /// Weight of TPOT in the score: 0.2.
    pub tpot_weight: f64,
    /// TTFT that a request should not exceed, in seconds: 0, no such goal.
    pub ttft_slo_seconds: f64,
    /// TPOT that a request should not exceed, in seconds: 0, no such goal.
    pub tpot_slo_seconds: f64,
    /// Probability of the instances that miss the SLO while others meet it: 0.01.
    pub exploration: f64,
    /// Cached share of the prompt from which an instance is sticky among all: 0.99.
    pub affinity_threshold: f64,
    /// The same among those that are left by the SLO: 0.8.
    pub tier_affinity_threshold: f64,
    /// Seconds of TTFT by which a sticky instance may be behind: 5; 0 for any.
    pub max_ttft_penalty_seconds: f64,
    /// Where that TTFT comes from: `prefill_throughput`.
    pub ttft_source: TtftSource,
    /// Prompt tokens per second of an instance: 15,928, llm-d's default for a 32B model on two H100.
    pub peak_prefill_tokens_per_second: f64,
    /// Seconds between reports: 0.05.
    pub report_seconds: f64,
    /// The quantile of TTFT and TPOT that is predicted: 0.9.
    pub quantile: f64,
    /// Completions before the first training: 100.
    pub first_training: u32,
    /// Completions between two trainings: 500.
    pub retraining: u32,
    /// Completions kept of each regime: 500.
    pub bucket_samples: u32,
    /// Completions kept in all: 4,096. llm-d has no such bound; it keeps a training short.
    pub window_samples: u32,
    /// Trees of a model: 100. llm-d has 200 at half the learning rate.
    pub rounds: u32,
    /// Depth of a tree: 6.
    pub max_depth: u32,
    /// Share of a tree that is added: 0.1.
    pub learning_rate: f64,
    /// Whether KV usage and waiting requests come from the router's own events in place of reports: false.
    pub own_events: bool,
    /// Whether the predicted output of the request, and of those in flight, are features: false.
    pub predicted_lengths: bool,
}

/// What the affinity filters compare the TTFT of instances by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TtftSource {
    /// Prompt tokens in flight over `peak_prefill_tokens_per_second`.
    #[default]
    PrefillThroughput,
    /// The predicted TTFT; without a model all instances are kept.
    Predicted,
}

impl Default for LlmdPredictedLatencyOptions {
    fn default() -> Self {
        Self {
            ttft_weight: 0.8,
            tpot_weight: 0.2,
            ttft_slo_seconds: 0.0,
            tpot_slo_seconds: 0.0,
            exploration: 0.01,
            affinity_threshold: 0.99,
            tier_affinity_threshold: 0.8,
            max_ttft_penalty_seconds: 5.0,
            ttft_source: TtftSource::PrefillThroughput,
            peak_prefill_tokens_per_second: 15_928.0,
            report_seconds: 0.05,
            quantile: 0.9,
            first_training: 100,
            retraining: 500,
            bucket_samples: 500,
            window_samples: 4096,
            rounds: 100,
            max_depth: 6,
            learning_rate: 0.1,
            own_events: false,
            predicted_lengths: false,
        }
    }
}

/// Fewer completions cannot be split into a part to train on and a part to test on.
const LEAST_SAMPLES: u32 = 10;

impl LlmdPredictedLatencyOptions {
    /// Checks every constant.
    ///
    /// # Errors
    /// [`Error::Field`] for the first that is out of range.
    pub(super) fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("ttft_weight", self.ttft_weight),
            ("tpot_weight", self.tpot_weight),
            ("ttft_slo_seconds", self.ttft_slo_seconds),
            ("tpot_slo_seconds", self.tpot_slo_seconds),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::field(field, value, "zero or more"));
            }
        }
        if self.ttft_weight + self.tpot_weight <= 0.0 {
            return Err(Error::field("tpot_weight", self.tpot_weight, "above 0 when ttft_weight is 0"));
        }
        if !(0.0..=1.0).contains(&self.exploration) {
            return Err(Error::field("exploration", self.exploration, "a probability from 0 to 1"));
        }
        self.affinity().validate("affinity_threshold")?;
        self.tier_affinity().validate("tier_affinity_threshold")?;
        let rate = self.peak_prefill_tokens_per_second;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(Error::field("peak_prefill_tokens_per_second", rate, "a positive number"));
        }
        self.report_interval()?;
        for (field, count) in [
            ("first_training", self.first_training),
            ("bucket_samples", self.bucket_samples),
            ("window_samples", self.window_samples),
        ] {
            if count < LEAST_SAMPLES {
                return Err(Error::field(field, count, format!("at least {LEAST_SAMPLES}")));
            }
        }
        if self.retraining == 0 {
            return Err(Error::field("retraining", 0, "at least 1"));
        }
        self.boosting(self.quantile).validate()
    }

    /// Time between two reports.
    pub(super) fn report_interval(&self) -> Result<Picos> {
        let interval = Picos::from_seconds(self.report_seconds).filter(|interval| *interval > Picos::ZERO);
        interval.ok_or_else(|| {
            Error::field("report_seconds", self.report_seconds, "a positive number of seconds")
        })
    }

    /// How the model of a quantile is boosted.
    pub(super) fn boosting(&self, quantile: f64) -> BoostOptions {
        let Self { rounds, max_depth, learning_rate, .. } = *self;
        BoostOptions { quantile, rounds, max_depth, learning_rate, ..BoostOptions::default() }
    }

    /// What is kept to train on.
    pub(super) fn window_limits(&self) -> WindowLimits {
        WindowLimits { bucket_samples: self.bucket_samples as usize, samples: self.window_samples as usize }
    }

    /// The filter over all instances.
    pub(super) fn affinity(&self) -> AffinityFilter {
        let Self { affinity_threshold: threshold, max_ttft_penalty_seconds, .. } = *self;
        AffinityFilter { threshold, max_ttft_penalty_seconds }
    }

    /// The filter over those that are left by the SLO.
    pub(super) fn tier_affinity(&self) -> AffinityFilter {
        AffinityFilter { threshold: self.tier_affinity_threshold, ..self.affinity() }
    }
}
