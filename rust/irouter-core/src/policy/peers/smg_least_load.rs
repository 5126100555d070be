//! `smg_least_load`: the `least_load` policy of SMG (Shepherd Model Gateway).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::EngineReport;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::load::Source;
use crate::policy::registry::{Configurable, Scale, Tunable};
use crate::policy::{ClusterView, Needs, Policy};

/// SMG's least load, as of `smg` 1.13 (B7 of the peers' list).
///
/// ```text
/// argmin  (Q + F) / throughput  +  kv_pressure_seconds x k / (1 - k)        (seconds)
/// ```
///
/// * `Q`: prompt tokens queued in the engine, by its last report: work, not requests, sets the wait when sizes differ;
/// * `F`: prompt tokens dispatched since that report. Reports come every 10 s; without this term a whole interval's
///   requests would go to one instance. Exact here, as on SMG's gRPC path; with `exact_tokens` off it is
///   `mean_prompt_tokens` per request, as on its HTTP path;
/// * `throughput`: tokens per second. Reports carry none, so that it is SMG's default for all;
/// * `k`: share of the KV cache in use by the last report, at most 0.999. The term grows without bound towards a full
///   cache, where engines begin to preempt.
///
/// A report older than three intervals counts as none. An instance without one, while others report, costs
/// `requests in flight x mean_prompt_tokens / throughput`. When none reports, fewest requests in flight. Output lengths
/// and cached prefixes are not known to it. Ties go to the lowest number, as in SMG.
///
/// With `own_events`, `Q` and `k` are the router's own counts of the requests in flight, and `F` is part of `Q`.
#[derive(Clone, Debug)]
pub(crate) struct SmgLeastLoad {
    options: SmgLeastLoadOptions,
    source: Source,
}

/// Constants of [`SmgLeastLoad`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SmgLeastLoadOptions {
    /// Seconds that a half-full KV cache costs: 0.15.
    pub kv_pressure_seconds: f64,
    /// Tokens per second of an instance: 2,000.
    pub throughput: f64,
    /// Prompt tokens of a request whose length is not known: 1,024.
    pub mean_prompt_tokens: u32,
    /// Seconds between reports: 10.
    pub report_seconds: f64,
    /// Whether the tokens of dispatched prompts are known: true.
    pub exact_tokens: bool,
    /// Whether the router's own counts take the place of reports: false.
    pub own_events: bool,
}

impl Default for SmgLeastLoadOptions {
    fn default() -> Self {
        Self {
            kv_pressure_seconds: 0.15,
            throughput: 2000.0,
            mean_prompt_tokens: 1024,
            report_seconds: 10.0,
            exact_tokens: true,
            own_events: false,
        }
    }
}

/// Highest KV usage that the score is taken at.
const MOST_KV_USAGE: f64 = 0.999;
/// Report intervals after which a report counts as none.
const STALE_INTERVALS: i64 = 3;

/// Constants that a search may set, of every rule with this score.
pub(super) const SCORE_TUNABLE: &[Tunable] = &[
    Tunable { option: "kv_pressure_seconds", low: 0.001, high: 10.0, scale: Scale::Logarithmic },
    Tunable { option: "throughput", low: 200.0, high: 200_000.0, scale: Scale::Logarithmic },
];

impl SmgLeastLoad {
    /// The last report, unless it is too old; none by own events.
    fn fresh<'a>(&self, instance: &'a InstanceState, now: Picos) -> Option<&'a EngineReport> {
        let Source::Reports(interval) = self.source else { return None };
        let horizon = interval.0.saturating_mul(STALE_INTERVALS);
        instance.report().filter(|report| now.0.saturating_sub(report.at.0) <= horizon)
    }

    fn seconds(&self, instance: &InstanceState, now: Picos) -> f64 {
        let SmgLeastLoadOptions { kv_pressure_seconds, throughput, mean_prompt_tokens, .. } = self.options;
        let mean = f64::from(mean_prompt_tokens);
        let unseen = match self.source {
            Source::OwnEvents => 0.0,
            Source::Reports(_) if self.fresh(instance, now).is_none() => {
                return f64::from(instance.in_flight()) * mean / throughput;
            }
            Source::Reports(_) if self.options.exact_tokens => instance.since_report().prompt_tokens as f64,
            Source::Reports(_) => f64::from(instance.since_report().requests) * mean,
        };
        let load = self.source.load(instance);
        let usage = load.kv_usage.clamp(0.0, MOST_KV_USAGE);
        (load.queued_prefill_tokens as f64 + unseen) / throughput
            + kv_pressure_seconds * usage / (1.0 - usage)
    }

    /// The cost by which instances are compared at this time: seconds, or requests when none has reported lately.
    pub(super) fn cost(&self, view: &ClusterView<'_>) -> impl Fn(&InstanceState) -> f64 {
        let now = view.now;
        let blind = matches!(self.source, Source::Reports(_))
            && !view.ready().any(|instance| self.fresh(instance, now).is_some());
        move |instance| {
            if blind { f64::from(instance.in_flight()) } else { self.seconds(instance, now) }
        }
    }
}

impl Configurable for SmgLeastLoad {
    type Options = SmgLeastLoadOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;
    const TUNABLE: &'static [Tunable] = SCORE_TUNABLE;

    fn new(options: SmgLeastLoadOptions, _seed: u64) -> Result<Self> {
        if !(options.kv_pressure_seconds.is_finite() && options.kv_pressure_seconds >= 0.0) {
            return Err(Error::field("kv_pressure_seconds", options.kv_pressure_seconds, "zero or more"));
        }
        if !(options.throughput.is_finite() && options.throughput > 0.0) {
            return Err(Error::field("throughput", options.throughput, "a positive number"));
        }
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { options, source })
    }
}

impl Policy for SmgLeastLoad {
    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(self.cost(view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, at, request};

    fn policy(options: SmgLeastLoadOptions) -> SmgLeastLoad {
        SmgLeastLoad::new(options, 0).unwrap()
    }

    fn report(seconds: f64, queued_prefill_tokens: u64, kv_usage: f64) -> EngineReport {
        EngineReport { at: at(seconds), queued_prefill_tokens, kv_usage, ..EngineReport::default() }
    }

    #[test]
    fn the_score_is_queued_and_dispatched_tokens_as_time_and_kv_pressure() {
        let mut policy = policy(SmgLeastLoadOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.report(0, report(10.0, 3000, 0.75));
        cluster.dispatch(&mut policy, request(1000, 10), 0);
        // (3000 + 1000) / 2000 + 0.15 x 0.75 / 0.25
        assert!((policy.seconds(cluster.instance(0), at(12.0)) - 2.45).abs() < 1e-12);
        cluster.report(0, report(20.0, 0, 1.0));
        assert!((policy.seconds(cluster.instance(0), at(20.0)) - 0.15 * 999.0).abs() < 1e-9, "a full cache");
    }

    #[test]
    fn without_token_counts_a_request_counts_as_the_mean_prompt() {
        let mut policy = policy(SmgLeastLoadOptions { exact_tokens: false, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.report(0, report(10.0, 0, 0.0));
        cluster.dispatch(&mut policy, request(4, 10), 0);
        assert!((policy.seconds(cluster.instance(0), at(10.0)) - 1024.0 / 2000.0).abs() < 1e-12);
    }

    #[test]
    fn a_cold_fleet_goes_by_requests_and_a_silent_instance_by_its_requests_as_tokens() {
        let mut policy = policy(SmgLeastLoadOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        cluster.set_now(10.0);
        cluster.dispatch(&mut policy, request(1, 10), 0);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1);
        cluster.report(1, report(10.0, 1023, 0.0));
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1, "1 x 1024 against 1023 tokens");
        cluster.report(1, report(11.0, 1025, 0.0));
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 0);
        cluster.set_now(41.5);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1, "after three intervals the fleet is cold");
    }

    #[test]
    fn own_events_take_the_place_of_the_report() {
        let mut policy = policy(SmgLeastLoadOptions { own_events: true, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.report(0, report(10.0, 9000, 0.5));
        let quarter = Cluster::CAPACITY_TOKENS / 4;
        let started = cluster.dispatch(&mut policy, request(quarter - 1, 10), 0);
        cluster.first_token(&mut policy, started);
        cluster.dispatch(&mut policy, request(quarter, 10), 0);
        let expected = f64::from(quarter) / 2000.0 + 0.15;
        assert!((policy.seconds(cluster.instance(0), at(12.0)) - expected).abs() < 1e-12);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = SmgLeastLoadOptions::default();
        for (options, field) in [
            (SmgLeastLoadOptions { kv_pressure_seconds: -1.0, ..default }, "kv_pressure_seconds"),
            (SmgLeastLoadOptions { throughput: 0.0, ..default }, "throughput"),
            (SmgLeastLoadOptions { report_seconds: f64::NAN, ..default }, "report_seconds"),
        ] {
            let error = SmgLeastLoad::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
