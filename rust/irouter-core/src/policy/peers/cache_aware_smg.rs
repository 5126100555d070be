//! `cache_aware_smg`: the default policy of SMG (Shepherd Model Gateway).

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::cache_aware::{THRESHOLDS_TUNABLE, validate_thresholds};
use super::prefix_tree::PrefixTree;
use super::smg_least_load::{SmgLeastLoad, SmgLeastLoadOptions, SmgScore};
use super::spread::Spread;
use crate::policy::configurable::{Configurable, Tunable};
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// SMG's `cache_aware` with its approximate tree, as of `smg` 1.13 (B9 of the peers' list).
///
/// ```text
/// longest match > cache_threshold  ->  argmin least_load score of the instances that have it and are not overloaded,
///                                      else of all that are not overloaded
/// else                             ->  argmin least_load score of all
///
/// overloaded  <=>  n > balance_rel_threshold x mean n  and  n > mean n + margin
/// margin  =  min(balance_abs_threshold, max(4, ceil(2 sqrt(mean n))))        (requests)
/// ```
///
/// * longest match: share of the prompt, 0 to 1, that lies in the tree of some instance, in full blocks of 16 tokens; every
///   dispatched prompt goes into the tree of its instance, so that a hot prefix spreads to where it spills;
/// * `n`: requests in flight, by the router's own count; its mean is that of the ready instances;
/// * `margin`: two standard deviations of a count with that mean, so that small fleets can spill at all;
/// * score: that of [`super::smg_least_load`] in seconds, with its constants and its staleness.
///
/// It differs from [`super::cache_aware`] in two ways: a miss goes by expected wait and not by requests, and load is held
/// against the chosen instance and not against the whole fleet. Decay by backlog and random selection are off by default in SMG and
/// left out, as are KV events, which would give the engine's true blocks.
///
/// A prompt without block hashes is a miss. Trees are trimmed as they grow, where SMG does it every 60 s. For the first
/// minute of an instance SMG also sends it a quarter of the misses (`--worker-warmup-secs`), which is left out. Ties are
/// broken at random. Output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct CacheAwareSmg {
    options: CacheAwareSmgOptions,
    draws: Draws,
    tree: PrefixTree,
    score: SmgScore,
}

/// Constants of [`CacheAwareSmg`]: those of [`SmgLeastLoadOptions`], and four more.
// Names that are neither are refused by the registry: serde cannot refuse them beside flattened ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CacheAwareSmgOptions {
    /// Those of the score.
    #[serde(flatten)]
    pub score: SmgLeastLoadOptions,
    /// Matched share of the prompt above which it counts as cached: 0.3.
    pub cache_threshold: f64,
    /// Requests above the mean beyond which an instance is spared, at most: 64.
    pub balance_abs_threshold: u32,
    /// Ratio to the mean beyond which it is: 1.5.
    pub balance_rel_threshold: f64,
    /// Blocks that the tree of an instance holds: 1,048,576, which is `2^26` characters.
    pub max_tree_blocks: u32,
}

impl Default for CacheAwareSmgOptions {
    fn default() -> Self {
        Self {
            score: SmgLeastLoadOptions::default(),
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
        let swing = libm::ceil(2.0 * libm::sqrt(mean)).max(LEAST_SWING);
        let margin = f64::from(self.balance_abs_threshold).min(swing);
        load > self.balance_rel_threshold * mean && load > mean + margin
    }
}

/// The least that a count of requests is taken to swing.
const LEAST_SWING: f64 = 4.0;

impl Configurable for CacheAwareSmg {
    type Options = CacheAwareSmgOptions;

    const EQUALISED: &'static str = SmgLeastLoad::EQUALISED;
    const TUNABLE: &'static [Tunable] = THRESHOLDS_TUNABLE;

    fn new(options: CacheAwareSmgOptions, seed: u64) -> Result<Self> {
        let CacheAwareSmgOptions { cache_threshold, balance_rel_threshold, max_tree_blocks, .. } = options;
        validate_thresholds(cache_threshold, balance_rel_threshold)?;
        let tree = PrefixTree::new(max_tree_blocks, Picos::MAX)?;
        Ok(Self { options, draws: Draws::new(seed), tree, score: SmgScore::new(options.score)? })
    }
}

impl Policy for CacheAwareSmg {
    fn needs(&self) -> Needs {
        self.score.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let found = self.tree.longest_match(view, request);
        let cost = self.score.cost(view);
        if found.rate > self.options.cache_threshold {
            let mean = Spread::of(view).mean();
            let has_room = |instance: &&InstanceState| !self.options.is_overloaded(instance, mean);
            let holders = found.instances.into_iter().filter(has_room);
            let chosen = self.draws.lowest_of(holders, &cost);
            let chosen = chosen.or_else(|| self.draws.lowest_of(view.ready().filter(has_room), &cost));
            if let Some(instance) = chosen {
                return Ok(instance);
            }
        }
        self.draws.lowest(view, cost)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.tree.insert(request, instance, now);
    }

    fn left(&mut self, instance: InstanceId) {
        self.tree.remove(instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, at, request, with_blocks};

    fn policy(options: CacheAwareSmgOptions) -> CacheAwareSmg {
        CacheAwareSmg::new(options, 0).unwrap()
    }

    #[test]
    fn the_idlest_of_the_instances_with_the_match_takes_it() {
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
    fn a_miss_goes_where_the_wait_is_shortest_not_where_requests_are_fewest() {
        let mut policy = policy(CacheAwareSmgOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        for (instance, queued_prefill_tokens) in [(0, 9000), (1, 100)] {
            let report = EngineReport { at: at(10.0), queued_prefill_tokens, ..EngineReport::default() };
            cluster.report(instance, report);
        }
        cluster.set_now(10.0);
        cluster.dispatch(&mut policy, with_blocks(1600, 10, 1), 1);
        assert_eq!(cluster.place(&mut policy, &with_blocks(160, 10, 2)), 1, "9,000 against 1,700 tokens");
    }

    #[test]
    fn the_margin_is_two_deviations_of_the_mean_at_least_four_and_at_most_the_threshold() {
        let mut policy = policy(CacheAwareSmgOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 4);
        for _ in 0..10 {
            cluster.dispatch(&mut policy, request(1, 1), 0);
        }
        let over = |options: CacheAwareSmgOptions, mean| options.is_overloaded(cluster.instance(0), mean);
        let default = CacheAwareSmgOptions::default();
        assert!(!over(default, 5.0) && over(default, 4.9), "ceil(2 sqrt 5) = 5");
        assert!(over(default, 1.0), "at least 4");
        let low = CacheAwareSmgOptions { balance_abs_threshold: 2, ..default };
        assert!(over(low, 6.5) && !over(low, 6.7), "1.5 x 6.7 is more than 10");
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
