//! `power_of_two_stale`: the lighter of two random instances, by loads that are seldom polled.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::load::Source;
use crate::policy::configurable::Configurable;
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// `power_of_two` of `vllm-router` 0.1, before its own requests in flight were added to the polled ones (vllm-project/router
/// PR 178; B5 of the peers' list).
///
/// ```text
/// the lower  w + r  of two random instances        (requests)
/// ```
///
/// `w` and `r`: requests waiting and running by the engine's last report. What was sent since does not count, so that
/// within an interval every pair sends all its requests to the same instance. The router polls as often as it checks that
/// engines start up: every 30 s; a user saw about 5 s.
///
/// With `own_events` the router's own count of requests in flight takes the place of the report, which makes it
/// `power_of_two`. Of equals the first drawn wins. Lengths and cached prefixes are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct PowerOfTwoStale {
    source: Source,
    draws: Draws,
}

/// Constants of [`PowerOfTwoStale`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PowerOfTwoStaleOptions {
    /// Seconds between reports: 30.
    pub report_seconds: f64,
    /// Whether the router's own counts take the place of reports: false.
    pub own_events: bool,
}

impl Default for PowerOfTwoStaleOptions {
    fn default() -> Self {
        Self { report_seconds: 30.0, own_events: false }
    }
}

impl Configurable for PowerOfTwoStale {
    type Options = PowerOfTwoStaleOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;

    fn new(options: PowerOfTwoStaleOptions, seed: u64) -> Result<Self> {
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { source, draws: Draws::new(seed) })
    }
}

impl Policy for PowerOfTwoStale {
    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        let source = self.source;
        self.draws.cheaper_of_two(view, |instance| {
            let load = source.load(instance);
            f64::from(load.waiting) + f64::from(load.running)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, at, request};

    fn policy(own_events: bool) -> PowerOfTwoStale {
        PowerOfTwoStale::new(PowerOfTwoStaleOptions { own_events, ..Default::default() }, 1).unwrap()
    }

    #[test]
    fn a_whole_interval_of_requests_follows_one_report() {
        let mut policy = policy(false);
        let mut cluster = Cluster::new(policy.needs(), 2);
        for (instance, waiting) in [(0, 3), (1, 2)] {
            let report = EngineReport { at: at(30.0), waiting, running: 1, ..EngineReport::default() };
            cluster.report(instance, report);
        }
        for _ in 0..10 {
            assert_eq!(cluster.route(&mut policy, request(10, 10)), 1);
        }
        cluster.report(1, EngineReport { at: at(60.0), running: 10, ..EngineReport::default() });
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0);
    }

    #[test]
    fn own_events_count_what_was_sent() {
        let mut policy = policy(true);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let first = cluster.route(&mut policy, request(10, 10));
        assert_eq!(cluster.route(&mut policy, request(10, 10)), 1 - first);
    }

    #[test]
    fn a_bad_interval_is_named() {
        let options = PowerOfTwoStaleOptions { report_seconds: -5.0, ..Default::default() };
        let error = PowerOfTwoStale::new(options, 0).err().unwrap();
        assert!(error.to_string().contains("report_seconds"), "{error}");
    }
}
