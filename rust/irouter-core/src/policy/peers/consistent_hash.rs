//! `consistent_hash`: the sticky policy of vllm-router, blind to load.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;

use super::hash_ring::HashRing;
use crate::policy::configurable::Configurable;
use crate::policy::{ClusterView, Needs, Policy};

/// The `consistent_hash` policy of `vllm-router` 0.1 (B11 of the peers' list): a ring with 160 virtual nodes for each
/// instance, on which a key goes to the first node at or after its position.
///
/// The key is the session, else the prompt, else the request: vllm-router takes a session or user from the headers or the
/// body and otherwise hashes the body. Here a prompt is known by the hash of its last full block, so that prompts that
/// differ only behind it share a key; one without block hashes has the number of its request as key, which spreads such
/// requests evenly.
///
/// Load is not looked at: a busy session overloads its instance, and two that meet there drive each other's prefixes from
/// the cache. An instance that comes or goes moves only its own share of the keys. Keys land on other instances than in
/// vllm-router, whose hash is another. No ties.
#[derive(Clone, Debug)]
pub(crate) struct ConsistentHash {
    ring: HashRing,
}

/// Constants of [`ConsistentHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConsistentHashOptions {
    /// Virtual nodes of an instance: 160. More of them make the shares more equal.
    pub virtual_nodes: u32,
}

impl Default for ConsistentHashOptions {
    fn default() -> Self {
        Self { virtual_nodes: 160 }
    }
}

impl Configurable for ConsistentHash {
    type Options = ConsistentHashOptions;

    fn new(options: ConsistentHashOptions, _seed: u64) -> Result<Self> {
        if options.virtual_nodes == 0 {
            return Err(Error::field("virtual_nodes", 0, "at least 1"));
        }
        Ok(Self { ring: HashRing::new(options.virtual_nodes) })
    }
}

impl Policy for ConsistentHash {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let prompt = request.prompt_blocks.as_deref().and_then(<[u64]>::last).copied();
        self.ring.instance(view, request.session.or(prompt).unwrap_or(request.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy() -> ConsistentHash {
        ConsistentHash::new(ConsistentHashOptions::default(), 0).unwrap()
    }

    #[test]
    fn a_session_stays_whatever_its_prompts_and_the_load() {
        let mut policy = policy();
        let mut cluster = Cluster::new(policy.needs(), 4);
        let turn = |length| Request { session: Some(7), ..with_blocks(length, 10, u64::from(length)) };
        let home = cluster.route(&mut policy, turn(160));
        for length in 161..200 {
            assert_eq!(cluster.route(&mut policy, turn(length)), home);
        }
        cluster.drain(home);
        assert_ne!(cluster.place(&mut policy, &turn(160)), home);
    }

    #[test]
    fn without_a_session_equal_prompts_meet_and_without_hashes_requests_spread() {
        let mut policy = policy();
        let cluster = Cluster::new(policy.needs(), 4);
        let prompt = |family| with_blocks(160, 10, family);
        let homes: Vec<u32> = (0..20).map(|family| cluster.place(&mut policy, &prompt(family))).collect();
        for (family, &home) in (0..20).zip(&homes) {
            let again = Request { id: 1000 + family, ..prompt(family) };
            assert_eq!(cluster.place(&mut policy, &again), home);
        }
        let bare = |id| Request { id, ..request(160, 10) };
        let spread: Vec<u32> = (0..20).map(|id| cluster.place(&mut policy, &bare(id))).collect();
        for instance in 0..4 {
            assert!(homes.contains(&instance) && spread.contains(&instance), "{homes:?} {spread:?}");
        }
    }

    #[test]
    fn a_bad_constant_is_named() {
        let error = ConsistentHash::new(ConsistentHashOptions { virtual_nodes: 0 }, 0).err().unwrap();
        assert!(error.to_string().contains("virtual_nodes"), "{error}");
    }
}
