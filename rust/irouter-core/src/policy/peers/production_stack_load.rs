//! `production_stack_load`: the `loadaware` logic of vLLM's production stack.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::hash_ring::HashRing;
use super::spread::Spread;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::estimate::{PerInstance, uncached_tokens};
use crate::policy::{ClusterView, Needs, Policy};

/// The production stack's `loadaware`, merged in August 2026 (PR 1035; B23 of the peers' list).
///
/// ```text
/// argmax  m / P  -  beta x (n - mean n) / max(1, mean n)        (shares)
/// ```
///
/// * `m`: prompt tokens that the instance caches: in the stack what its `LMCache` controller reports, here the router's own
///   prefix index;
/// * `P`: prompt tokens; `n`: requests in flight, by the router's own count.
///
/// When no instance caches anything of the prompt the score is not used: a session goes to its place on a ring of 160
/// virtual nodes, and a request without one to the instance that was sent the fewest requests in the last `window_seconds`.
/// So without block hashes load is not looked at. Ties go to the lowest number, as in the stack. Output lengths are not
/// known to it. In the stack a request whose stream breaks stays in its count for ever; here it leaves like any other.
#[derive(Clone, Debug)]
pub(crate) struct ProductionStackLoad {
    options: ProductionStackLoadOptions,
    window: Picos,
    ring: HashRing,
    /// When the last requests were sent to each instance.
    sent: PerInstance<VecDeque<Picos>>,
}

/// Constants of [`ProductionStackLoad`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProductionStackLoadOptions {
    /// Whole prompts in the cache that an instance with twice the mean load has to offer to make up for it: 1.
    pub beta: f64,
    /// Seconds over which the rate of requests is taken: 60.
    pub window_seconds: f64,
}

impl Default for ProductionStackLoadOptions {
    fn default() -> Self {
        Self { beta: 1.0, window_seconds: 60.0 }
    }
}

/// Virtual nodes of an instance on the ring of sessions.
const VIRTUAL_NODES: u32 = 160;

impl ProductionStackLoad {
    fn score(&self, instance: &InstanceState, request: &Request, mean: f64) -> f64 {
        let cached = f64::from(request.prompt_tokens - uncached_tokens(instance, request));
        let relative_load = (f64::from(instance.in_flight()) - mean) / mean.max(1.0);
        cached / f64::from(request.prompt_tokens) - self.options.beta * relative_load
    }

    /// Requests sent to the instance in the window up to now.
    fn recent(&self, instance: InstanceId, now: Picos) -> usize {
        let sent = self.sent.get(instance);
        sent.map_or(0, |sent| sent.len() - sent.partition_point(|&at| is_old(at, now, self.window)))
    }
}

fn is_old(at: Picos, now: Picos, window: Picos) -> bool {
    now.0.saturating_sub(at.0) > window.0
}

impl Configurable for ProductionStackLoad {
    type Options = ProductionStackLoadOptions;

    const TUNABLE: &'static [Tunable] =
        &[Tunable { option: "beta", low: 0.01, high: 10.0, scale: Scale::Logarithmic }];

    fn new(options: ProductionStackLoadOptions, _seed: u64) -> Result<Self> {
        let ProductionStackLoadOptions { beta, window_seconds } = options;
        if !(beta.is_finite() && beta >= 0.0) {
            return Err(Error::field("beta", beta, "zero or more"));
        }
        let window = Picos::from_seconds(window_seconds).filter(|window| *window > Picos::ZERO);
        let window = window
            .ok_or_else(|| Error::field("window_seconds", window_seconds, "a positive number of seconds"))?;
        Ok(Self { options, window, ring: HashRing::new(VIRTUAL_NODES), sent: PerInstance::default() })
    }
}

impl Policy for ProductionStackLoad {
    fn needs(&self) -> Needs {
        Needs { counts: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        if view.ready().any(|instance| uncached_tokens(instance, request) < request.prompt_tokens) {
            let mean = Spread::of(view).mean();
            return view.lowest(|instance| -self.score(instance, request, mean));
        }
        match request.session {
            Some(session) => self.ring.instance(view, session),
            None => view.lowest(|instance| self.recent(instance.id(), view.now) as f64),
        }
    }

    fn dispatched(&mut self, _request: &Request, instance: InstanceId, now: Picos) {
        let sent = self.sent.entry(instance);
        while sent.front().is_some_and(|&at| is_old(at, now, self.window)) {
            sent.pop_front();
        }
        sent.push_back(now);
    }

    fn left(&mut self, instance: InstanceId) {
        self.sent.entry(instance).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: ProductionStackLoadOptions) -> ProductionStackLoad {
        ProductionStackLoad::new(options, 0).unwrap()
    }

    #[test]
    fn the_score_is_the_cached_share_less_the_relative_load() {
        let mut policy = policy(ProductionStackLoadOptions { beta: 0.5, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(160, 10, 1);
        cluster.dispatch(&mut policy, turn.clone(), 0);
        for _ in 0..5 {
            cluster.dispatch(&mut policy, request(10, 10), 0);
        }
        cluster.dispatch(&mut policy, request(10, 10), 1);
        cluster.dispatch(&mut policy, request(10, 10), 1);
        // 9 of 10 blocks, since one token is always computed; 6 requests against a mean of 4.
        assert!((policy.score(cluster.instance(0), &turn, 4.0) - (0.9 - 0.5 * 0.5)).abs() < 1e-12);
        assert!((policy.score(cluster.instance(1), &turn, 4.0) - 0.25).abs() < 1e-12);
        assert!((policy.score(cluster.instance(1), &turn, 0.5) - (0.0 - 0.5 * 1.5)).abs() < 1e-12);
        assert_eq!(cluster.place(&mut policy, &turn), 0, "0.65 against 0.25");
        policy.options.beta = 1.0;
        assert_eq!(cluster.place(&mut policy, &turn), 1, "0.4 against 0.5");
    }

    #[test]
    fn without_a_match_a_session_stays_and_the_rest_goes_by_the_last_minute() {
        let mut policy = policy(ProductionStackLoadOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        let first = cluster.dispatch(&mut policy, request(10, 10), 0);
        cluster.finish(&mut policy, first);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 1, "idle, but it was sent a request");
        cluster.set_now(60.0);
        cluster.dispatch(&mut policy, request(10, 10), 1);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0, "the first of equals");
        cluster.dispatch(&mut policy, request(10, 10), 0);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 1);
        cluster.set_now(60.5);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0, "the first is no longer in the window");
        let session = |session| Request { session: Some(session), ..request(10, 10) };
        let homes: Vec<u32> = (0..20).map(|name| cluster.place(&mut policy, &session(name))).collect();
        assert!(homes.contains(&0) && homes.contains(&1));
        for _ in 0..5 {
            cluster.dispatch(&mut policy, request(10, 10), homes[0]);
        }
        assert_eq!(cluster.place(&mut policy, &session(0)), homes[0]);
    }

    #[test]
    fn what_is_kept_of_an_instance_is_the_window_and_goes_with_it() {
        let mut policy = policy(ProductionStackLoadOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 1);
        for seconds in 0..200 {
            cluster.set_now(f64::from(seconds));
            cluster.dispatch(&mut policy, request(10, 10), 0);
        }
        assert_eq!(policy.sent.get(InstanceId(0)).unwrap().len(), 61);
        policy.left(InstanceId(0));
        assert_eq!(policy.recent(InstanceId(0), Picos::SECOND * 200), 0);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = ProductionStackLoadOptions::default();
        for (options, field) in [
            (ProductionStackLoadOptions { beta: -1.0, ..default }, "beta"),
            (ProductionStackLoadOptions { window_seconds: 0.0, ..default }, "window_seconds"),
        ] {
            let error = ProductionStackLoad::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
