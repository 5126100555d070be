//! `prefix_hash`: SMG's consistent hashing of the first tokens, with bounded load.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;

use super::hash_ring::HashRing;
use super::spread::Spread;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// SMG's `prefix_hash`, as of `smg` 1.13 (B10 of the peers' list).
///
/// ```text
/// home      =  the instance of the prompt's first prefix_blocks blocks on a ring of virtual nodes
/// overload  <=>  n > load_factor x mean  and  n > mean + balance_abs_threshold,    mean = (sum of n + 1) / instances
/// home, unless it is overloaded; then argmin n of those that are not, and home when all are
/// ```
///
/// * `n`: requests in flight, by the router's own count; the 1 in the mean stands for this request.
///
/// The key is the hash of the last of those blocks, which covers all before it; a shorter prompt has that of its last full
/// block. SMG hashes the first 256 tokens, or 1,024 characters at 4 a token. Without block hashes the session is the key,
/// else the number of the request. Prompts with a common beginning stay together at the price of one number each; what they
/// share beyond it is not seen. Ties are drawn; in SMG they go to the first of its own list of workers, which has no order of
/// meaning. Keys land on other instances than in SMG, whose hash is another. Output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct PrefixHash {
    options: PrefixHashOptions,
    ring: HashRing,
    draws: Draws,
}

/// Constants of [`PrefixHash`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrefixHashOptions {
    /// Blocks of 16 tokens that are hashed: 16, which is 256 tokens.
    pub prefix_blocks: u32,
    /// Ratio to the mean beyond which an instance is overloaded: 1.25.
    pub load_factor: f64,
    /// Requests above the mean beyond which it is: 10.
    pub balance_abs_threshold: u32,
    /// Virtual nodes of an instance: 150.
    pub virtual_nodes: u32,
}

impl Default for PrefixHashOptions {
    fn default() -> Self {
        Self { prefix_blocks: 16, load_factor: 1.25, balance_abs_threshold: 10, virtual_nodes: 150 }
    }
}

impl PrefixHashOptions {
    fn key(&self, request: &Request) -> u64 {
        let blocks = request.prompt_blocks.as_deref().unwrap_or_default();
        let first = &blocks[..blocks.len().min(self.prefix_blocks as usize)];
        first.last().copied().or(request.session).unwrap_or(request.id)
    }

    /// The most requests that an instance may have in flight.
    fn limit(&self, spread: &Spread) -> f64 {
        let mean = (spread.total + 1.0) / spread.instances.max(1.0);
        (self.load_factor * mean).max(mean + f64::from(self.balance_abs_threshold))
    }
}

impl Configurable for PrefixHash {
    type Options = PrefixHashOptions;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "prefix_blocks", low: 1.0, high: 128.0, scale: Scale::Count },
        Tunable { option: "load_factor", low: 1.0, high: 4.0, scale: Scale::Logarithmic },
        Tunable { option: "balance_abs_threshold", low: 0.0, high: 64.0, scale: Scale::Count },
    ];

    fn new(options: PrefixHashOptions, seed: u64) -> Result<Self> {
        for (field, value) in
            [("prefix_blocks", options.prefix_blocks), ("virtual_nodes", options.virtual_nodes)]
        {
            if value == 0 {
                return Err(Error::field(field, 0, "at least 1"));
            }
        }
        if !(options.load_factor.is_finite() && options.load_factor >= 1.0) {
            return Err(Error::field("load_factor", options.load_factor, "a ratio of at least 1"));
        }
        Ok(Self { options, ring: HashRing::new(options.virtual_nodes), draws: Draws::new(seed) })
    }
}

impl Policy for PrefixHash {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let home = self.ring.instance(view, self.options.key(request))?;
        let limit = self.options.limit(&Spread::of(view));
        let has_room = |instance: &InstanceState| f64::from(instance.in_flight()) <= limit;
        if has_room(&view.instances[home.index()]) {
            return Ok(home);
        }
        let others = view.ready().filter(|instance| has_room(instance));
        Ok(self.draws.lowest_of(others, |instance| f64::from(instance.in_flight())).unwrap_or(home))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: PrefixHashOptions) -> PrefixHash {
        PrefixHash::new(options, 0).unwrap()
    }

    #[test]
    fn prompts_with_the_same_first_blocks_stay_together() {
        let policy = policy(PrefixHashOptions::default());
        let key = |request: &Request| policy.options.key(request);
        assert_eq!(key(&with_blocks(256, 10, 1)), key(&with_blocks(2000, 10, 1)));
        assert_ne!(key(&with_blocks(255, 10, 1)), key(&with_blocks(256, 10, 1)), "15 and 16 full blocks");
        assert_ne!(key(&with_blocks(256, 10, 1)), key(&with_blocks(256, 10, 2)));
        let bare = |session, id| Request { id, session, ..request(256, 10) };
        assert_eq!(key(&bare(Some(3), 8)), key(&bare(Some(3), 9)));
        assert_ne!(key(&bare(None, 8)), key(&bare(None, 9)));
    }

    #[test]
    fn an_overloaded_home_is_left_for_the_least_busy() {
        let options = PrefixHashOptions { balance_abs_threshold: 2, ..PrefixHashOptions::default() };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 3);
        let turn = with_blocks(256, 10, 1);
        let home = cluster.place(&mut policy, &turn);
        let others: Vec<u32> = (0..3).filter(|&instance| instance != home).collect();
        cluster.dispatch(&mut policy, request(1, 1), others[0]);
        // Mean (1 + n + 1) / 3, so that n may be at most 2 more than that: 4 with a mean of 2.
        for expected in 0..5 {
            assert_eq!(cluster.instance(home).in_flight(), expected);
            assert_eq!(cluster.route(&mut policy, turn.clone()), home, "{expected} in flight");
        }
        assert_eq!(cluster.place(&mut policy, &turn), others[1], "5 is more than 7/3 + 2");
    }

    #[test]
    fn a_single_instance_cannot_be_overloaded() {
        let options = PrefixHashOptions { balance_abs_threshold: 0, load_factor: 1.0, ..Default::default() };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 1);
        for _ in 0..20 {
            assert_eq!(cluster.route(&mut policy, request(1, 1)), 0);
        }
    }

    #[test]
    fn bad_constants_are_named() {
        let default = PrefixHashOptions::default();
        for (options, field) in [
            (PrefixHashOptions { prefix_blocks: 0, ..default }, "prefix_blocks"),
            (PrefixHashOptions { load_factor: 0.9, ..default }, "load_factor"),
            (PrefixHashOptions { virtual_nodes: 0, ..default }, "virtual_nodes"),
        ] {
            let error = PrefixHash::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
