//! `vllm_dp`: how vLLM spreads requests over its own data-parallel engines.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::load::Source;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::{ClusterView, Needs, Policy};

/// The internal load balancer of vLLM V1 with data parallelism (B4 of the peers' list).
///
/// ```text
/// argmin  waiting_weight x (w + client_count x d) + r        (requests)
/// ```
///
/// * `w`, `r`: requests waiting and running in the engine, by its coordinator's last statistics, every 100 ms;
/// * `d`: requests sent there since, each counted for all `client_count` API servers, which are taken to do the same.
///
/// With `own_events` the router's own counts stand for `w` and `r`, and nothing is added. The search begins at an engine
/// one further with each request and the first of equals wins, so that idle engines take turns. Lengths and cached
/// prefixes are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct VllmDp {
    options: VllmDpOptions,
    source: Source,
    /// Requests sent so far.
    start: usize,
}

/// Constants of [`VllmDp`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct VllmDpOptions {
    /// Running requests that a waiting one counts as: 4.
    pub waiting_weight: f64,
    /// API servers that send requests at the same time: 1.
    pub client_count: u32,
    /// Seconds between reports: 0.1.
    pub report_seconds: f64,
    /// Whether the router's own counts take the place of reports: false.
    pub own_events: bool,
}

impl Default for VllmDpOptions {
    fn default() -> Self {
        Self { waiting_weight: 4.0, client_count: 1, report_seconds: 0.1, own_events: false }
    }
}

impl VllmDp {
    fn score(&self, instance: &InstanceState) -> f64 {
        let load = self.source.load(instance);
        let sent = match self.source {
            Source::Reports(_) => {
                f64::from(self.options.client_count) * f64::from(instance.since_report().requests)
            }
            Source::OwnEvents => 0.0,
        };
        self.options.waiting_weight * (f64::from(load.waiting) + sent) + f64::from(load.running)
    }
}

impl Configurable for VllmDp {
    type Options = VllmDpOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;
    const TUNABLE: &'static [Tunable] =
        &[Tunable { option: "waiting_weight", low: 0.25, high: 64.0, scale: Scale::Logarithmic }];

    fn new(options: VllmDpOptions, _seed: u64) -> Result<Self> {
        let weight = options.waiting_weight;
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::field("waiting_weight", weight, "zero or more"));
        }
        if options.client_count == 0 {
            return Err(Error::field("client_count", 0, "at least 1"));
        }
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { options, source, start: 0 })
    }
}

impl Policy for VllmDp {
    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        let ready = view.ready().count();
        let in_turn = view.ready().cycle().skip(self.start % ready.max(1)).take(ready);
        let lowest = in_turn.min_by(|left, right| self.score(left).total_cmp(&self.score(right)));
        lowest.map(InstanceState::id).ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, _request: &Request, _instance: InstanceId, _now: Picos) {
        self.start = self.start.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, at, request};

    fn policy(options: VllmDpOptions) -> VllmDp {
        VllmDp::new(options, 0).unwrap()
    }

    fn report(seconds: f64, waiting: u32, running: u32) -> EngineReport {
        EngineReport { at: at(seconds), waiting, running, ..EngineReport::default() }
    }

    #[test]
    fn waiting_and_since_dispatched_requests_count_four_times() {
        let mut policy = policy(VllmDpOptions { client_count: 2, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        cluster.report(0, report(0.1, 1, 10));
        cluster.report(1, report(0.1, 0, 15));
        assert_eq!(cluster.route(&mut policy, request(10, 10)), 0, "14 against 15");
        // 4 x (1 + 2) + 10 = 22.
        assert_eq!(cluster.route(&mut policy, request(10, 10)), 1, "22 against 15");
        assert_eq!(cluster.route(&mut policy, request(10, 10)), 0, "22 against 4 x 2 + 15 = 23");
        cluster.report(0, report(0.2, 0, 22));
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0, "a report replaces what was added");
    }

    #[test]
    fn idle_engines_take_turns_even_when_their_requests_end_at_once() {
        let mut policy = policy(VllmDpOptions { own_events: true, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 3);
        let went = [(); 4].map(|()| {
            let instance = cluster.place(&mut policy, &request(10, 10));
            let key = cluster.dispatch(&mut policy, request(10, 10), instance);
            cluster.finish(&mut policy, key);
            instance
        });
        assert_eq!(went, [0, 1, 2, 0]);
    }

    #[test]
    fn own_events_tell_waiting_from_running() {
        let mut policy = policy(VllmDpOptions { own_events: true, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        for _ in 0..3 {
            let running = cluster.dispatch(&mut policy, request(10, 10), 0);
            cluster.first_token(&mut policy, running);
        }
        cluster.dispatch(&mut policy, request(10, 10), 1);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0, "3 against 4");
    }

    #[test]
    fn bad_constants_are_named() {
        let default = VllmDpOptions::default();
        for (options, field) in [
            (VllmDpOptions { waiting_weight: -1.0, ..default }, "waiting_weight"),
            (VllmDpOptions { client_count: 0, ..default }, "client_count"),
            (VllmDpOptions { report_seconds: 0.0, ..default }, "report_seconds"),
        ] {
            let error = VllmDp::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
