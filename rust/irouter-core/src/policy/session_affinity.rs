//! `session_affinity`: a session stays where it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::time::Picos;

use super::configurable::Configurable;
use super::draws::Draws;
use super::{ClusterView, Needs, Policy};

/// Keeps the requests of a session on one instance, where their common prefix is cached.
///
/// A new session, one whose instance takes no requests any more, and a request without a session go to the fewest
/// requests in flight, ties at random; the session is pinned to where its last request went. Load is not looked at once a
/// session is pinned. An instance that left starts without sessions when it comes back.
///
/// The least recently used sessions are forgotten beyond `max_sessions`, so that memory is bounded.
pub(crate) struct SessionAffinity {
    options: SessionAffinityOptions,
    draws: Draws,
    pins: BTreeMap<u64, Pin>,
    /// Sessions by the number of the dispatch that used them last.
    by_use: BTreeMap<u64, u64>,
    dispatches: u64,
}

/// Constants of [`SessionAffinity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SessionAffinityOptions {
    /// Most sessions remembered: 65,536, about 8 MB.
    pub max_sessions: usize,
}

impl Default for SessionAffinityOptions {
    fn default() -> Self {
        Self { max_sessions: 65_536 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    instance: InstanceId,
    used: u64,
}

impl Configurable for SessionAffinity {
    type Options = SessionAffinityOptions;

    fn new(options: SessionAffinityOptions, seed: u64) -> Result<Self> {
        if options.max_sessions == 0 {
            return Err(Error::field("max_sessions", 0, "at least 1"));
        }
        let (pins, by_use) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { options, draws: Draws::new(seed), pins, by_use, dispatches: 0 })
    }
}

impl Policy for SessionAffinity {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let pinned = request.session.and_then(|session| self.pins.get(&session)).map(|pin| pin.instance);
        match pinned.filter(|&id| view.offers(id)) {
            Some(instance) => Ok(instance),
            None => self.draws.lowest(view, |instance| f64::from(instance.in_flight())),
        }
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        let Some(session) = request.session else { return };
        let used = self.dispatches;
        self.dispatches += 1;
        if let Some(before) = self.pins.insert(session, Pin { instance, used }) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(used, session);
        if self.pins.len() > self.options.max_sessions
            && let Some((_, forgotten)) = self.by_use.pop_first()
        {
            self.pins.remove(&forgotten);
        }
    }

    fn left(&mut self, instance: InstanceId) {
        let by_use = &mut self.by_use;
        self.pins.retain(|_, pin| {
            let stays = pin.instance != instance;
            if !stays {
                by_use.remove(&pin.used);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    fn of_session(session: u64) -> Request {
        Request { session: Some(session), ..request(10, 10) }
    }

    fn policy(max_sessions: usize) -> SessionAffinity {
        SessionAffinity::new(SessionAffinityOptions { max_sessions }, 5).unwrap()
    }

    #[test]
    fn a_session_stays_while_its_instance_is_ready_and_no_longer() {
        let mut cluster = Cluster::new(Needs { counts: true, ..Needs::default() }, 2);
        let mut policy = policy(8);
        cluster.dispatch(&mut policy, request(10, 10), 1);
        assert_eq!(cluster.route(&mut policy, of_session(9)), 0, "a new session goes to the fewest requests");
        for _ in 0..3 {
            assert_eq!(cluster.route(&mut policy, of_session(9)), 0, "however busy its instance");
        }
        cluster.drain(0);
        assert_eq!(cluster.route(&mut policy, of_session(9)), 1);
        assert_eq!(policy.pins[&9].instance, InstanceId(1), "it moves for good");
    }

    #[test]
    fn the_least_recently_used_session_is_forgotten_first() {
        let mut cluster = Cluster::new(Needs::default(), 2);
        let mut policy = policy(2);
        for session in [1, 2, 1, 3] {
            cluster.dispatch(&mut policy, of_session(session), 0);
        }
        assert_eq!(policy.pins.keys().copied().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(policy.by_use.values().copied().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn an_instance_that_left_has_no_sessions() {
        let mut cluster = Cluster::new(Needs::default(), 2);
        let mut policy = policy(8);
        cluster.dispatch(&mut policy, of_session(1), 0);
        cluster.dispatch(&mut policy, of_session(2), 1);
        policy.left(InstanceId(0));
        assert_eq!((policy.pins.len(), policy.by_use.len()), (1, 1));
    }

    #[test]
    fn a_bad_constant_is_named() {
        let error = SessionAffinity::new(SessionAffinityOptions { max_sessions: 0 }, 0).err().unwrap();
        assert!(error.to_string().contains("max_sessions"), "{error}");
    }
}
