//! `cache_aware_smg`: the default policy of SMG (Shepherd Model Gateway).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::prefix_tree::PrefixTree;
use super::spread::Spread;
use crate::policy::draws::Draws;
use crate::policy::estimate::PerInstance;
use crate::policy::registry::{Configurable, Scale, Tunable};
use crate::policy::{ClusterView, Needs, Policy};

/// SMG's `cache_aware` with its approximate tree, as of `smg` 1.13 (B9 of the peers' list).
///
/// ```text
/// longest match > cache_threshold  ->  argmin n of the instances that have it, unless there
///                                      n > balance_rel_threshold x mean n  and  n > mean n + balance_abs_threshold
/// else, or then                    ->  argmin n
/// ```
///
/// * longest match: share of the prompt, 0 to 1, that lies in the tree of some instance, in full blocks of 16 tokens; every
///   dispatched prompt goes into the tree of its instance, so that a hot prefix spreads to where it spills;
/// * `n`: requests in flight, by the router's own count; its mean is that of the ready instances.
///
/// It differs from [`super::cache_aware`] in two ways: a miss goes by load and not by tree size, and load is held against
/// the chosen instance and not against the whole fleet. Decay by backlog and random selection are off by default in SMG and
/// left out, as are KV events, which would give the engine's true blocks.
///
/// A prompt without block hashes is a miss. Trees are trimmed as they grow, where SMG does it every 60 s. Equally busy
/// instances with the match are drawn at random; without a match they go by fewest requests ever sent, then by the lowest
/// number, as in SMG. Output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct CacheAwareSmg {
    options: CacheAwareSmgOptions,
    draws: Draws,
    tree: PrefixTree,
    sent: PerInstance<u64>,
}

/// Constants of [`CacheAwareSmg`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheAwareSmgOptions {
    /// Matched share of the prompt above which it counts as cached: 0.3.
    pub cache_threshold: f64,
    /// Requests above the mean beyond which an instance is spared: 64.
    pub balance_abs_threshold: u32,
    /// Ratio to the mean beyond which it is: 1.5.
    pub balance_rel_threshold: f64,
    /// Blocks that the tree of an instance holds: 1,048,576, which is `2^26` characters.
    pub max_tree_blocks: u32,
}

impl Default for CacheAwareSmgOptions {
    fn default() -> Self {
        Self {
            cache_threshold: 0.3,
            balance_abs_threshold: 64,
            balance_rel_threshold: 1.5,
            max_tree_blocks: 1 << 20,
        }
    }
}

impl CacheAwareSmgOptions {
    fn is_overloaded(&self, instance: &InstanceState, mean: f64) -> bool {
        let load = f64::from(instance.in_flight());
        load > self.balance_rel_threshold * mean && load > mean + f64::from(self.balance_abs_threshold)
    }
}

impl CacheAwareSmg {
    /// Fewest requests in flight, then fewest ever sent, then the lowest number.
    fn least_loaded(&self, view: &ClusterView<'_>) -> Result<InstanceId> {
        let sent = |instance: &InstanceState| self.sent.get(instance.id()).copied().unwrap_or(0);
        let least = view.ready().min_by_key(|instance| (instance.in_flight(), sent(instance)));
        least.map(InstanceState::id).ok_or_else(|| view.no_instance())
    }
}

impl Configurable for CacheAwareSmg {
    type Options = CacheAwareSmgOptions;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "cache_threshold", low: 0.0, high: 1.0, scale: Scale::Linear },
        Tunable { option: "balance_abs_threshold", low: 0.0, high: 256.0, scale: Scale::Count },
        Tunable { option: "balance_rel_threshold", low: 1.0, high: 8.0, scale: Scale::Logarithmic },
    ];

    fn new(options: CacheAwareSmgOptions, seed: u64) -> Result<Self> {
        let CacheAwareSmgOptions { cache_threshold, balance_rel_threshold, max_tree_blocks, .. } = options;
        if !(0.0..=1.0).contains(&cache_threshold) {
            return Err(Error::field("cache_threshold", cache_threshold, "a share from 0 to 1"));
        }
        if !(balance_rel_threshold.is_finite() && balance_rel_threshold >= 1.0) {
            return Err(Error::field(
                "balance_rel_threshold",
                balance_rel_threshold,
                "a ratio of at least 1",
            ));
        }
        if max_tree_blocks == 0 {
            return Err(Error::field("max_tree_blocks", 0, "at least 1"));
        }
        let tree = PrefixTree::new(max_tree_blocks, Picos::MAX);
        Ok(Self { options, draws: Draws::new(seed), tree, sent: PerInstance::default() })
    }
}

impl Policy for CacheAwareSmg {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let found = self.tree.longest_match(view, request);
        if found.rate > self.options.cache_threshold {
            let mean = Spread::of(view).mean();
            let load = |instance: &InstanceState| f64::from(instance.in_flight());
            let chosen = self.draws.lowest_of(found.instances.into_iter(), load);
            let spared = |id: &InstanceId| self.options.is_overloaded(&view.instances[id.index()], mean);
            if let Some(instance) = chosen.filter(|id| !spared(id)) {
                return Ok(instance);
            }
        }
        self.least_loaded(view)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.tree.insert(request, instance, now);
        *self.sent.entry(instance) += 1;
    }

    fn left(&mut self, instance: InstanceId) {
        self.tree.remove(instance);
        *self.sent.entry(instance) = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: CacheAwareSmgOptions) -> CacheAwareSmg {
        CacheAwareSmg::new(options, 0).unwrap()
    }

    #[test]
    fn the_least_busy_of_the_instances_with_the_match_takes_it() {
        let mut policy = policy(CacheAwareSmgOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 3);
        let turn = with_blocks(160, 10, 1);
        for instance in [0, 0, 1] {
            cluster.dispatch(&mut policy, turn.clone(), instance);
        }
        assert_eq!(cluster.place(&mut policy, &turn), 1);
        assert_eq!(cluster.place(&mut policy, &with_blocks(544, 10, 1)), 2, "10 of 34 blocks are a miss");
        assert_eq!(cluster.place(&mut policy, &request(160, 10)), 2, "so is a prompt without hashes");
    }

    #[test]
    fn an_overloaded_instance_spills_and_the_prefix_moves_along() {
        let options = CacheAwareSmgOptions {
            balance_abs_threshold: 2,
            balance_rel_threshold: 2.0,
            ..CacheAwareSmgOptions::default()
        };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 3);
        let turn = with_blocks(160, 10, 1);
        for _ in 0..3 {
            assert_eq!(cluster.route(&mut policy, turn.clone()), 0);
        }
        assert_eq!(cluster.route(&mut policy, turn.clone()), 0, "3 is not more than 1 + 2");
        assert_eq!(cluster.route(&mut policy, turn.clone()), 1, "4 is more than 2 x 4/3 and 4/3 + 2");
        assert_eq!(cluster.route(&mut policy, turn), 1, "which has it now, and is less busy");
    }

    #[test]
    fn equally_busy_instances_take_turns_by_requests_ever_sent() {
        let mut policy = policy(CacheAwareSmgOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 3);
        for expected in [0, 1, 2, 0] {
            assert_eq!(cluster.place(&mut policy, &request(10, 10)), expected);
            let key = cluster.dispatch(&mut policy, request(10, 10), expected);
            cluster.finish(&mut policy, key);
        }
        policy.left(InstanceId(0));
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0, "one that left starts clean");
    }

    #[test]
    fn bad_constants_are_named() {
        let default = CacheAwareSmgOptions::default();
        for (options, field) in [
            (CacheAwareSmgOptions { cache_threshold: -0.1, ..default }, "cache_threshold"),
            (CacheAwareSmgOptions { balance_rel_threshold: 0.5, ..default }, "balance_rel_threshold"),
            (CacheAwareSmgOptions { max_tree_blocks: 0, ..default }, "max_tree_blocks"),
        ] {
            let error = CacheAwareSmg::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
