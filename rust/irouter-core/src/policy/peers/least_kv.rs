//! `least_kv`: `AIBrix`'s `least-kv-cache`.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::load::Source;
use crate::policy::configurable::Configurable;
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// The instance whose KV cache is the emptiest, as of `AIBrix` 0.7 (B13 of the peers' list).
///
/// ```text
/// argmin  k        (share of the KV cache in use, 0 to 1)
/// ```
///
/// `k` comes from the engine's metrics, every 50 ms, and nothing is added for what was sent since. vLLM V1 has no cache in
/// the memory of the host, which `AIBrix` would add. Requests that wait in an engine hold no cache, so that a full queue
/// looks like an empty one.
///
/// With `own_events`, `k` is what the prompts and known outputs of all requests in flight would take, waiting ones
/// included. Ties are broken at random, where `AIBrix` takes whichever its cache lists first. Lengths and cached prefixes
/// are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct LeastKv {
    source: Source,
    draws: Draws,
}

/// Constants of [`LeastKv`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LeastKvOptions {
    /// Seconds between reports: 0.05.
    pub report_seconds: f64,
    /// Whether the router's own counts take the place of reports: false.
    pub own_events: bool,
}

impl Default for LeastKvOptions {
    fn default() -> Self {
        Self { report_seconds: 0.05, own_events: false }
    }
}

impl Configurable for LeastKv {
    type Options = LeastKvOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;

    fn new(options: LeastKvOptions, seed: u64) -> Result<Self> {
        let source = Source::new(options.own_events, options.report_seconds)?;
        Ok(Self { source, draws: Draws::new(seed) })
    }
}

impl Policy for LeastKv {
    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        let source = self.source;
        self.draws.lowest(view, |instance| source.load(instance).kv_usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, at, request};

    fn policy(own_events: bool) -> LeastKv {
        LeastKv::new(LeastKvOptions { own_events, ..Default::default() }, 0).unwrap()
    }

    #[test]
    fn the_emptiest_cache_by_report_gets_all_until_the_next_report() {
        let mut policy = policy(false);
        let mut cluster = Cluster::new(policy.needs(), 3);
        for (instance, kv_usage) in [(0, 0.5), (1, 0.25), (2, 0.75)] {
            cluster.report(instance, EngineReport { at: at(0.05), kv_usage, ..EngineReport::default() });
        }
        for _ in 0..5 {
            assert_eq!(cluster.route(&mut policy, request(4000, 10)), 1);
        }
        cluster.report(1, EngineReport { at: at(0.1), kv_usage: 0.6, ..EngineReport::default() });
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0);
    }

    #[test]
    fn own_events_count_prompts_and_outputs_in_flight() {
        let mut policy = policy(true);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let key = cluster.dispatch(&mut policy, request(100, 500), 0);
        cluster.dispatch(&mut policy, request(150, 500), 1);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0);
        cluster.progress(key, 51);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 1, "151 against 150 tokens");
    }

    #[test]
    fn a_bad_interval_is_named() {
        let options = LeastKvOptions { report_seconds: f64::NAN, ..Default::default() };
        let error = LeastKv::new(options, 0).err().unwrap();
        assert!(error.to_string().contains("report_seconds"), "{error}");
    }
}
