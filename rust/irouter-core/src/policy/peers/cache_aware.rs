//! `cache_aware`: the default policy of `sglang-router` and `vllm-router`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::prefix_tree::PrefixTree;
use super::spread::Spread;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// The `cache_aware` policy of `sglang-router` 0.3 and `vllm-router` 0.1 (B8 of the peers' list).
///
/// ```text
/// max n - min n > balance_abs_threshold  and  max n > balance_rel_threshold x min n   ->  argmin n
/// else  longest match > cache_threshold                                              ->  an instance that has it
/// else                                                                               ->  argmin n
/// ```
///
/// * `n`: requests in flight, by the router's own count;
/// * longest match: share of the prompt, 0 to 1, that lies in the tree of some instance. The routers match characters;
///   here it is full blocks of 16 tokens, 64 characters at 4 a token. Every dispatched
///   prompt goes into the tree of its instance.
///
/// Descriptions of the rule, and earlier versions, send a miss to the smallest tree; both packages send it to the fewest
/// requests, which their conformance test shows. `on_miss` `smallest_tree` gives the older rule.
///
/// A prompt without block hashes is a miss that takes up room. Trees are trimmed as they grow, where the routers do it every
/// 120 s. Fewest requests go to the lowest number, as in the routers; they take equal matches and equal trees in the order
/// of a hash map, here they are drawn at random. Work and output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct CacheAware {
    options: CacheAwareOptions,
    draws: Draws,
    tree: PrefixTree,
}

/// Constants of [`CacheAware`], with the defaults of the command lines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheAwareOptions {
    /// Matched share of the prompt above which it counts as cached: 0.3.
    pub cache_threshold: f64,
    /// Requests between the busiest and the idlest instance above which load may decide: 64.
    pub balance_abs_threshold: u32,
    /// Ratio between the two above which it does: 1.5.
    pub balance_rel_threshold: f64,
    /// Blocks that the tree of an instance holds: 1,048,576, which is `2^26` characters.
    pub max_tree_blocks: u32,
    /// Where a prompt goes that nobody has cached: `fewest_requests`.
    pub on_miss: OnMiss,
}

/// Where a prompt goes that nobody has cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnMiss {
    /// To the fewest requests in flight.
    #[default]
    FewestRequests,
    /// To the smallest tree, however busy its instance.
    SmallestTree,
}

impl Default for CacheAwareOptions {
    fn default() -> Self {
        Self {
            cache_threshold: 0.3,
            balance_abs_threshold: 64,
            balance_rel_threshold: 1.5,
            max_tree_blocks: 1 << 20,
            on_miss: OnMiss::default(),
        }
    }
}

impl CacheAwareOptions {
    fn is_imbalanced(&self, spread: &Spread) -> bool {
        let (least, most) = (spread.least, spread.most);
        most - least > self.balance_abs_threshold
            && f64::from(most) > self.balance_rel_threshold * f64::from(least)
    }
}

/// Thresholds of either rule of this name that a search may set.
pub(super) const THRESHOLDS_TUNABLE: &[Tunable] = &[
    Tunable { option: "cache_threshold", low: 0.0, high: 1.0, scale: Scale::Linear },
    Tunable { option: "balance_abs_threshold", low: 0.0, high: 256.0, scale: Scale::Count },
    Tunable { option: "balance_rel_threshold", low: 1.0, high: 8.0, scale: Scale::Logarithmic },
];

/// # Errors
/// [`Error::Field`] for a matched share outside 0 to 1, or a ratio of loads below 1.
pub(super) fn validate_thresholds(cache_threshold: f64, balance_rel_threshold: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&cache_threshold) {
        return Err(Error::field("cache_threshold", cache_threshold, "a share from 0 to 1"));
    }
    if !(balance_rel_threshold.is_finite() && balance_rel_threshold >= 1.0) {
        return Err(Error::field("balance_rel_threshold", balance_rel_threshold, "a ratio of at least 1"));
    }
    Ok(())
}

impl Configurable for CacheAware {
    type Options = CacheAwareOptions;

    const TUNABLE: &'static [Tunable] = THRESHOLDS_TUNABLE;

    fn new(options: CacheAwareOptions, seed: u64) -> Result<Self> {
        let CacheAwareOptions { cache_threshold, balance_rel_threshold, max_tree_blocks, .. } = options;
        validate_thresholds(cache_threshold, balance_rel_threshold)?;
        let tree = PrefixTree::new(max_tree_blocks, Picos::MAX)?;
        Ok(Self { options, draws: Draws::new(seed), tree })
    }
}

impl Policy for CacheAware {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let Self { options, draws, tree } = self;
        let fewest = |instance: &InstanceState| f64::from(instance.in_flight());
        if options.is_imbalanced(&Spread::of(view)) {
            return view.lowest(fewest);
        }
        let found = tree.longest_match(view, request);
        if found.rate > options.cache_threshold
            && let Some(instance) = draws.lowest_of(found.instances.into_iter(), |_| 0.0)
        {
            return Ok(instance);
        }
        match options.on_miss {
            OnMiss::FewestRequests => view.lowest(fewest),
            OnMiss::SmallestTree => draws.lowest(view, |instance| tree.blocks(instance.id()) as f64),
        }
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
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: CacheAwareOptions) -> CacheAware {
        CacheAware::new(options, 0).unwrap()
    }

    #[test]
    fn a_match_above_the_threshold_beats_fewest_requests() {
        let mut policy = policy(CacheAwareOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        cluster.dispatch(&mut policy, with_blocks(480, 10, 1), 0);
        assert_eq!(cluster.place(&mut policy, &with_blocks(1584, 10, 1)), 0, "30 of 99 blocks");
        assert_eq!(
            cluster.place(&mut policy, &with_blocks(1600, 10, 1)),
            1,
            "30 of 100 are no more than 0.3"
        );
        assert_eq!(cluster.place(&mut policy, &request(480, 10)), 1, "no hashes, no match");
    }

    #[test]
    fn a_miss_may_go_to_the_smallest_tree_however_busy_its_instance() {
        let mut policy = policy(CacheAwareOptions { on_miss: OnMiss::SmallestTree, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        cluster.dispatch(&mut policy, with_blocks(160, 10, 1), 0);
        for _ in 0..3 {
            cluster.dispatch(&mut policy, with_blocks(144, 10, 2), 1);
        }
        assert_eq!(cluster.place(&mut policy, &with_blocks(160, 10, 3)), 1, "9 blocks, used three times");
        cluster.dispatch(&mut policy, request(17, 10), 1);
        assert_eq!(cluster.place(&mut policy, &with_blocks(160, 10, 3)), 0, "and 2 without hashes");
    }

    #[test]
    fn load_decides_when_both_thresholds_are_passed() {
        let options = CacheAwareOptions {
            balance_abs_threshold: 3,
            balance_rel_threshold: 2.0,
            ..CacheAwareOptions::default()
        };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(160, 10, 1);
        for _ in 0..3 {
            cluster.dispatch(&mut policy, turn.clone(), 0);
        }
        assert_eq!(cluster.place(&mut policy, &turn), 0, "3 against 0");
        cluster.dispatch(&mut policy, turn.clone(), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 1, "4 against 0");
        for _ in 0..4 {
            cluster.dispatch(&mut policy, turn.clone(), 0);
            cluster.dispatch(&mut policy, request(1, 10), 1);
        }
        assert_eq!(cluster.place(&mut policy, &turn), 0, "8 is not more than twice 4");
    }

    #[test]
    fn equal_trees_share_what_comes() {
        let mut policy = policy(CacheAwareOptions { on_miss: OnMiss::SmallestTree, ..Default::default() });
        let cluster = Cluster::new(policy.needs(), 2);
        let first = (0..1000).filter(|_| cluster.place(&mut policy, &request(1, 1)) == 0).count();
        // A binomial of 1,000 fair draws lies within 2.58 standard deviations (41) at 1 %.
        assert!(first.abs_diff(500) < 41, "{first}");
    }

    #[test]
    fn bad_constants_are_named() {
        let default = CacheAwareOptions::default();
        for (options, field) in [
            (CacheAwareOptions { cache_threshold: 1.5, ..default }, "cache_threshold"),
            (CacheAwareOptions { balance_rel_threshold: f64::NAN, ..default }, "balance_rel_threshold"),
            (CacheAwareOptions { max_tree_blocks: 0, ..default }, "max_tree_blocks"),
        ] {
            let error = CacheAware::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
