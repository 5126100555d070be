//! `litellm_least_busy`: the `least-busy` strategy of the `LiteLLM` router.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use crate::policy::configurable::Configurable;
use crate::policy::estimate::PerInstance;
use crate::policy::{ClusterView, End, Needs, Policy};

/// `LiteLLM`'s `least-busy`, as of `litellm` 1.109 with its in-memory cache.
///
/// `argmin n`, with `n` the requests dispatched to the instance and not yet ended, whatever their size. The first of equals
/// wins, so that a quiet cluster sends everything to instance 0.
///
/// A count lives in a cache entry that expires `count_seconds` after it was made, however often it changes: what is in flight
/// then is forgotten, and its end is counted against the next count, which is held at zero. Without `count_seconds` counts
/// are exact. Output lengths and cached prefixes are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct LitellmLeastBusy {
    lifetime: Option<Picos>,
    counts: PerInstance<Count>,
}

/// Constants of [`LitellmLeastBusy`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LitellmLeastBusyOptions {
    /// Seconds after which a count starts again at zero: 3,600. Absent, it never does.
    pub count_seconds: Option<f64>,
}

impl Default for LitellmLeastBusyOptions {
    fn default() -> Self {
        Self { count_seconds: Some(3600.0) }
    }
}

/// Requests in flight as a cache entry, and when it was made.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    requests: u32,
    since: Option<Picos>,
}

impl Count {
    fn at(self, now: Picos, lifetime: Option<Picos>) -> Self {
        let age = self.since.map_or(0, |since| now.0.saturating_sub(since.0));
        if lifetime.is_some_and(|lifetime| age > lifetime.0) { Self::default() } else { self }
    }

    /// The count after a change, which makes the entry if there is none.
    fn changed(self, now: Picos, lifetime: Option<Picos>, change: impl FnOnce(u32) -> u32) -> Self {
        let Self { requests, since } = self.at(now, lifetime);
        Self { requests: change(requests), since: since.or(Some(now)) }
    }
}

impl Configurable for LitellmLeastBusy {
    type Options = LitellmLeastBusyOptions;

    const EQUALISED: &'static str = r#"{"count_seconds": null}"#;

    fn new(options: LitellmLeastBusyOptions, _seed: u64) -> Result<Self> {
        let lifetime = options.count_seconds.map(|seconds| {
            let lifetime = Picos::from_seconds(seconds).filter(|lifetime| *lifetime > Picos::ZERO);
            lifetime.ok_or_else(|| Error::field("count_seconds", seconds, "a positive number of seconds"))
        });
        Ok(Self { lifetime: lifetime.transpose()?, counts: PerInstance::default() })
    }
}

impl Policy for LitellmLeastBusy {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        let count = |instance: &InstanceState| self.counts.get(instance.id()).copied().unwrap_or_default();
        view.lowest(|instance| f64::from(count(instance).at(view.now, self.lifetime).requests))
    }

    fn dispatched(&mut self, _request: &Request, instance: InstanceId, now: Picos) {
        let count = self.counts.entry(instance);
        *count = count.changed(now, self.lifetime, |requests| requests + 1);
    }

    fn released(&mut self, _request: &Request, instance: InstanceId, end: End) {
        let count = self.counts.entry(instance);
        *count = count.changed(end.at, self.lifetime, |requests| requests.saturating_sub(1));
    }

    fn left(&mut self, instance: InstanceId) {
        *self.counts.entry(instance) = Count::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    fn policy(count_seconds: Option<f64>) -> LitellmLeastBusy {
        LitellmLeastBusy::new(LitellmLeastBusyOptions { count_seconds }, 0).unwrap()
    }

    #[test]
    fn the_fewest_requests_win_and_the_first_of_equals() {
        let mut policy = policy(Some(3600.0));
        let mut cluster = Cluster::new(policy.needs(), 3);
        let places: Vec<u32> = (0..4).map(|_| cluster.route(&mut policy, request(100, 10))).collect();
        assert_eq!(places, [0, 1, 2, 0]);
        let idle = cluster.dispatch(&mut policy, request(100, 10), 0);
        cluster.finish(&mut policy, idle);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1);
    }

    #[test]
    fn a_count_that_expires_forgets_what_is_in_flight() {
        for (count_seconds, expected) in [(Some(3600.0), [1, 0, 1]), (None, [1, 1, 1])] {
            let mut policy = policy(count_seconds);
            let mut cluster = Cluster::new(policy.needs(), 2);
            let long = cluster.dispatch(&mut policy, request(100, 10), 0);
            cluster.set_now(1800.0);
            cluster.dispatch(&mut policy, request(100, 10), 0);
            cluster.set_now(3600.0);
            let before = cluster.place(&mut policy, &request(1, 1));
            cluster.set_now(3600.5);
            let after = cluster.place(&mut policy, &request(1, 1));
            cluster.finish(&mut policy, long);
            cluster.dispatch(&mut policy, request(100, 10), 0);
            let new = cluster.place(&mut policy, &request(1, 1));
            assert_eq!([before, after, new], expected, "its end takes nothing from the new count");
        }
    }

    #[test]
    fn a_bad_constant_is_named() {
        let options = LitellmLeastBusyOptions { count_seconds: Some(0.0) };
        let error = LitellmLeastBusy::new(options, 0).err().unwrap();
        assert!(error.to_string().contains("count_seconds"), "{error}");
    }
}
