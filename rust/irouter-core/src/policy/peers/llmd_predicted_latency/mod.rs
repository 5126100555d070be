//! `llmd_predicted_latency`: llm-d's routing by learned TTFT and TPOT.

mod features;
mod options;
mod predictor;
mod scorer;
mod window;

use std::collections::BTreeMap;

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::time::Picos;

use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::peers::affinity::AffinityFilter;
use crate::policy::{ClusterView, End, Needs, Policy};

use features::Features;
use options::{LlmdPredictedLatencyOptions, TtftSource};
use predictor::Predictor;
use scorer::{Candidate, weights};
use window::Sample;

/// llm-d's predicted-latency scheduling, in streaming mode (llm-d-router and llm-d-latency-predictor of autumn 2026;
/// B18 of the peers' list).
///
/// ```text
/// all ready instances
///   -> sticky ones by affinity_threshold        (both filters: unless behind by more than max_ttft_penalty_seconds)
///   -> those that meet the SLO, with probability `exploration` those that do not      (where there are both)
///   -> sticky ones by tier_affinity_threshold
///   -> weighted random by  (trunc(100 x (1 - combined)) + 1) / 100
/// combined = ttft_weight x |SLO - p90 TTFT| + tpot_weight x |SLO - p90 TPOT|,  each as a share of its range
/// ```
///
/// * p90 TTFT (dispatch to first token), p90 TPOT: seconds, by boosted trees ([`crate::trees`]) over KV usage, waiting
///   requests, requests in flight, prompt tokens in flight, prompt length and, for TTFT, the cached share and uncached tokens;
/// * SLO: none by default, that is 0 as in llm-d, so that the lowest predicted latency leads. When every instance misses it,
///   the idle ones are drawn from, else those that miss only TPOT, only TTFT, both;
/// * KV usage and waiting requests come from reports of every 50 ms, the rest from the router's own counts, as in llm-d;
/// * training: on the completed requests of the run, after 100, then every 500; the newest of each regime ([`window`]), of
///   which the newest tenth is held out and tests. Before it, free KV cache, short queue and cached prefix weigh a third each.
///
/// Where it is not llm-d's: the trees learn the logarithm, which has the same quantiles and a smaller relative error;
/// features of TPOT are those at dispatch; there is one model for all regimes where llm-d has two, for an empty and a
/// filled queue; columns that are constant in text-only serving are left out; a request that waits at
/// the router, as behind a queue, is predicted when it goes. Output lengths are not known to it; with
/// `predicted_lengths` they are features. Without block hashes nothing is sticky.
#[derive(Clone, Debug)]
pub(crate) struct LlmdPredictedLatency {
    options: LlmdPredictedLatencyOptions,
    interval: Picos,
    draws: Draws,
    predictor: Predictor,
    /// The last choice, until it is known to be carried out.
    chosen: Option<(u64, InstanceId, Features)>,
    in_flight: BTreeMap<u64, Flight>,
    /// Decisions before and since the first training.
    decisions: [u64; 2],
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    features: Features,
    dispatched: Picos,
    first_token: Option<Picos>,
}

impl LlmdPredictedLatency {
    /// Keeps the sticky candidates when the filter says so.
    fn keep_sticky(&self, filter: &AffinityFilter, candidates: &mut Vec<Candidate>) {
        let is_sticky = |candidate: &Candidate| filter.is_sticky(candidate.features.cached_share);
        let ttft = |candidate: &Candidate| match self.options.ttft_source {
            TtftSource::PrefillThroughput => {
                let tokens = candidate.features.prefill_tokens_in_flight as f64;
                Some(tokens / self.options.peak_prefill_tokens_per_second)
            }
            TtftSource::Predicted => {
                candidate.headroom.map(|[headroom, _]| self.options.ttft_slo_seconds - headroom)
            }
        };
        let known = candidates.iter().map(|candidate| Some((is_sticky(candidate), ttft(candidate)?)));
        let known: Option<Vec<_>> = known.collect();
        if known.is_some_and(|known| filter.keeps_sticky(known.into_iter())) {
            candidates.retain(is_sticky);
        }
    }

    /// Keeps the candidates that meet the SLO, or for once those that do not.
    fn keep_tier(&mut self, candidates: &mut Vec<Candidate>) {
        let meeting = candidates.iter().filter(|candidate| candidate.meets()).count();
        if meeting > 0 && meeting < candidates.len() {
            let explores = self.draws.share() < self.options.exploration;
            candidates.retain(|candidate| candidate.meets() != explores);
        }
    }
}

impl Configurable for LlmdPredictedLatency {
    type Options = LlmdPredictedLatencyOptions;

    const EQUALISED: &'static str = r#"{"own_events": true, "predicted_lengths": true}"#;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "tpot_weight", low: 0.0, high: 2.0, scale: Scale::Linear },
        Tunable { option: "quantile", low: 0.5, high: 0.95, scale: Scale::Linear },
        Tunable { option: "affinity_threshold", low: 0.2, high: 1.0, scale: Scale::Linear },
        Tunable { option: "tier_affinity_threshold", low: 0.2, high: 1.0, scale: Scale::Linear },
        Tunable { option: "max_ttft_penalty_seconds", low: 0.1, high: 20.0, scale: Scale::Logarithmic },
        Tunable {
            option: "peak_prefill_tokens_per_second",
            low: 1000.0,
            high: 100_000.0,
            scale: Scale::Logarithmic,
        },
    ];

    fn new(options: LlmdPredictedLatencyOptions, seed: u64) -> Result<Self> {
        options.validate()?;
        Ok(Self {
            interval: options.report_interval()?,
            draws: Draws::new(seed),
            predictor: Predictor::new(options, seed),
            chosen: None,
            in_flight: BTreeMap::new(),
            decisions: [0, 0],
            options,
        })
    }
}

impl Policy for LlmdPredictedLatency {
    fn needs(&self) -> Needs {
        let LlmdPredictedLatencyOptions { own_events, predicted_lengths, .. } = self.options;
        Needs {
            counts: true,
            progress: own_events || predicted_lengths,
            prefix: true,
            reports: (!own_events).then_some(self.interval),
            ..Needs::default()
        }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let slo = [self.options.ttft_slo_seconds, self.options.tpot_slo_seconds];
        let mut candidates: Vec<Candidate> = view
            .ready()
            .enumerate()
            .map(|(index, instance)| {
                let features = Features::new(instance, request, &self.options);
                let headroom = self.predictor.predict(&features);
                let headroom = headroom.map(|[ttft, tpot]| [slo[0] - ttft, slo[1] - tpot]);
                Candidate { index, features, headroom }
            })
            .collect();
        if candidates.is_empty() {
            return Err(view.no_instance());
        }
        self.keep_sticky(&self.options.affinity(), &mut candidates);
        self.keep_tier(&mut candidates);
        self.keep_sticky(&self.options.tier_affinity(), &mut candidates);
        let Candidate { index, features, .. } =
            candidates[self.draws.weighted(&weights(&candidates, &self.options))];
        let instance = view.ready().nth(index).ok_or_else(|| view.no_instance())?.id();
        self.chosen = Some((request.id, instance, features));
        Ok(instance)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.decisions[usize::from(self.predictor.is_trained())] += 1;
        // What somebody else placed was not predicted, and teaches nothing.
        if let Some((id, chosen, features)) = self.chosen.take()
            && (id, chosen) == (request.id, instance)
        {
            self.in_flight.insert(id, Flight { features, dispatched: now, first_token: None });
        }
    }

    fn first_token(&mut self, request: &Request, _instance: InstanceId, now: Picos) {
        if let Some(flight) = self.in_flight.get_mut(&request.id) {
            flight.first_token = Some(now);
        }
    }

    fn released(&mut self, request: &Request, _instance: InstanceId, end: End) {
        let Some(Flight { features, dispatched, first_token }) = self.in_flight.remove(&request.id) else {
            return;
        };
        let (Some(first_token), true) = (first_token, end.completed) else { return };
        let seconds = (end.at - first_token).as_seconds();
        let sample = Sample {
            features,
            ttft_seconds: (first_token - dispatched).as_seconds(),
            tpot_seconds: (end.tokens > 1).then(|| seconds / f64::from(end.tokens - 1)),
        };
        self.predictor.completed(sample);
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        let [before, since] = self.decisions.map(|count| count as f64);
        let mut figures = vec![("decisions_before_model", before)];
        if before + since > 0.0 {
            figures.push(("decisions_by_model_percent", 100.0 * since / (before + since)));
        }
        figures.extend(self.predictor.figures());
        figures
    }
}

#[cfg(test)]
mod tests;
