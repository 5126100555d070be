//! `smg_least_load`: the `least_load` policy of SMG (Shepherd Model Gateway).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::load::Source;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// SMG's least load, as of `smg` 1.13 (B7 of the peers' list).
///
/// ```text
/// argmin  (Q + R + F) / throughput  +  kv_pressure_seconds x k / (1 - k)        (seconds)
/// ```
///
/// * `Q`: prompt tokens queued in the engine, by its last report: work, not requests, sets the wait when sizes differ;
/// * `R`: `mean_prompt_tokens` for each request that runs by that report, and for each in flight that it cannot have seen:
///   `max(0, n - waiting - running - dispatched since)`. Published descriptions of the rule leave `R` out; the package has
///   it, which its conformance test shows;
/// * `F`: prompt tokens dispatched since that report. Reports come every 10 s; without this term a whole interval's
///   requests would go to one instance. Exact here, as on SMG's gRPC path; with `exact_tokens` off it is
///   `mean_prompt_tokens` per request, as on its HTTP path;
/// * `throughput`: tokens per second. Reports carry none, so that it is SMG's default for all;
/// * `k`: share of the KV cache in use by the last report, at most 0.999. The term grows without bound towards a full
///   cache, where engines begin to preempt.
///
/// A report older than three intervals counts as none. An instance without one, while others report, costs
/// `n x mean_prompt_tokens / throughput` more than the cheapest of those. When none reports, fewest requests in flight.
/// Output lengths and cached prefixes are not known to it. Ties are broken at random.
///
/// With `own_events`, `Q`, `k` and the running requests are the router's own counts, which leave nothing unseen.
#[derive(Clone, Debug)]
pub(crate) struct SmgLeastLoad {
    score: SmgScore,
    draws: Draws,
}

/// The score of [`SmgLeastLoad`], which other rules of SMG use too.
#[derive(Clone, Debug)]
pub(super) struct SmgScore {
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

impl SmgScore {
    /// The score with these constants.
    ///
    /// # Errors
    /// [`Error::Field`] for a constant out of range.
    pub(super) fn new(options: SmgLeastLoadOptions) -> Result<Self> {
        if !(options.kv_pressure_seconds.is_finite() && options.kv_pressure_seconds >= 0.0) {
            return Err(Error::field("kv_pressure_seconds", options.kv_pressure_seconds, "zero or more"));
        }
        if !(options.throughput.is_finite() && options.throughput > 0.0) {
            return Err(Error::field("throughput", options.throughput, "a positive number"));
        }
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { options, source })
    }

    /// What has to be kept up to date for it.
    pub(super) fn needs(&self) -> Needs {
        self.source.needs()
    }

    /// The cost by which instances are compared at this time: seconds, or requests when none has reported lately.
    pub(super) fn cost(&self, view: &ClusterView<'_>) -> impl Fn(&InstanceState) -> f64 {
        let now = view.now;
        let known = view.ready().filter_map(|instance| self.seconds(instance, now));
        let cheapest = known.reduce(f64::min);
        move |instance| match cheapest {
            None => f64::from(instance.in_flight()),
            Some(cheapest) => self
                .seconds(instance, now)
                .unwrap_or_else(|| cheapest + self.mean_seconds() * f64::from(instance.in_flight())),
        }
    }

    /// Seconds by what is known of an instance; `None` without a report that is fresh.
    fn seconds(&self, instance: &InstanceState, now: Picos) -> Option<f64> {
        let SmgLeastLoadOptions { kv_pressure_seconds, throughput, exact_tokens, .. } = self.options;
        let load = self.source.load(instance);
        let mut requests = load.running;
        let mut tokens = load.queued_prefill_tokens;
        if let Source::Reports(interval) = self.source {
            let horizon = interval.0.saturating_mul(STALE_INTERVALS);
            instance.report().filter(|report| now.0.saturating_sub(report.at.0) <= horizon)?;
            let since = instance.since_report();
            // A report may claim any number of requests.
            let seen = load.waiting.saturating_add(load.running).saturating_add(since.requests);
            requests = requests.saturating_add(instance.in_flight().saturating_sub(seen));
            if exact_tokens {
                tokens = tokens.saturating_add(since.prompt_tokens);
            } else {
                requests = requests.saturating_add(since.requests);
            }
        }
        let usage = load.kv_usage.clamp(0.0, MOST_KV_USAGE);
        let wait = tokens as f64 / throughput + self.mean_seconds() * f64::from(requests);
        Some(wait + kv_pressure_seconds * usage / (1.0 - usage))
    }

    /// Seconds of a request whose length is not known.
    fn mean_seconds(&self) -> f64 {
        f64::from(self.options.mean_prompt_tokens) / self.options.throughput
    }
}

impl Configurable for SmgLeastLoad {
    type Options = SmgLeastLoadOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;
    const TUNABLE: &'static [Tunable] = SCORE_TUNABLE;

    fn new(options: SmgLeastLoadOptions, seed: u64) -> Result<Self> {
        Ok(Self { score: SmgScore::new(options)?, draws: Draws::new(seed) })
    }
}

impl Policy for SmgLeastLoad {
    fn needs(&self) -> Needs {
        self.score.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        let cost = self.score.cost(view);
        self.draws.lowest(view, cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
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
        assert!((policy.score.seconds(cluster.instance(0), at(12.0)).unwrap() - 2.45).abs() < 1e-12);
        cluster.report(0, report(20.0, 0, 1.0));
        assert!(
            (policy.score.seconds(cluster.instance(0), at(20.0)).unwrap() - 0.15 * 999.0 - 0.512).abs()
                < 1e-9,
            "a full cache, and a request that the report missed"
        );
    }

    #[test]
    fn without_token_counts_a_request_counts_as_the_mean_prompt() {
        let mut policy = policy(SmgLeastLoadOptions { exact_tokens: false, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.report(0, report(10.0, 0, 0.0));
        cluster.dispatch(&mut policy, request(4, 10), 0);
        assert!(
            (policy.score.seconds(cluster.instance(0), at(10.0)).unwrap() - 1024.0 / 2000.0).abs() < 1e-12
        );
    }

    #[test]
    fn a_cold_fleet_goes_by_requests_and_a_silent_instance_by_its_requests_as_tokens() {
        let mut policy = policy(SmgLeastLoadOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        cluster.set_now(10.0);
        cluster.dispatch(&mut policy, request(1, 10), 0);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1);
        cluster.report(1, report(10.0, 5000, 0.0));
        let cost = |cluster: &Cluster, policy: &SmgLeastLoad, instance| {
            policy.score.cost(&cluster.view())(cluster.instance(instance))
        };
        assert!((cost(&cluster, &policy, 1) - 2.5).abs() < 1e-12);
        assert!(
            (cost(&cluster, &policy, 0) - (2.5 + 0.512)).abs() < 1e-12,
            "one request more than instance 1"
        );
        cluster.set_now(41.5);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1, "after three intervals the fleet is cold");
    }

    #[test]
    fn running_requests_and_those_that_a_report_missed_count_as_mean_prompts() {
        let mut policy = policy(SmgLeastLoadOptions { exact_tokens: false, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 1);
        let keys: Vec<_> = (0..6).map(|_| cluster.dispatch(&mut policy, request(4, 10), 0)).collect();
        cluster.report(0, EngineReport { waiting: 1, running: 3, ..report(10.0, 500, 0.0) });
        let mean = 1024.0 / 2000.0;
        let seconds = |cluster: &Cluster, policy: &SmgLeastLoad| {
            policy.score.seconds(cluster.instance(0), at(10.0)).unwrap()
        };
        assert!((seconds(&cluster, &policy) - (0.25 + 5.0 * mean)).abs() < 1e-12, "3 run, 2 are unseen");
        cluster.dispatch(&mut policy, request(4, 10), 0);
        assert!((seconds(&cluster, &policy) - (0.25 + 6.0 * mean)).abs() < 1e-12);
        for key in keys.into_iter().take(2) {
            cluster.finish(&mut policy, key);
        }
        assert!(
            (seconds(&cluster, &policy) - (0.25 + 4.0 * mean)).abs() < 1e-12,
            "5 are left, all seen or new"
        );
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
        // One waits, one runs.
        let expected = f64::from(quarter + 1024) / 2000.0 + 0.15;
        assert!((policy.score.seconds(cluster.instance(0), at(12.0)).unwrap() - expected).abs() < 1e-12);
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
