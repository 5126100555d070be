//! `ray_prefix_affinity`: the prefix-cache affinity router of Ray Serve LLM.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::prefix_tree::PrefixTree;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::estimate::PerInstance;
use crate::policy::{ClusterView, End, Needs, Policy};

/// Ray's `PrefixCacheAffinityRouter`, as of `ray` 2.60 (B21 of the peers' list).
///
/// ```text
/// max q - min q > imbalance_threshold    ->  the lower q of two instances at random
/// else  longest match >= match_threshold ->  argmin q of the instances that have it
/// else                                   ->  argmin q of the instances with the smallest tree
/// ```
///
/// * `q`: queue length, requests in flight. Ray keeps what it learned when it last sent something to the instance, and asks
///   again only when that is `queue_cache_seconds` old: a queue that has drained since looks full;
/// * longest match: share of the prompt, 0 to 1, that lies in the tree of some instance. Ray matches characters; here it is
///   full blocks of 16 tokens, 64 characters at 4 a token;
/// * tree size: what the instance's tree holds. Every dispatched prompt goes into the tree of its instance.
///
/// `imbalance_threshold` is absent as shipped, which stands for Ray's default of infinity: load is never looked at but to
/// choose among equals. A prompt without block hashes is a miss that takes up room. Ray never trims its tree as shipped; here
/// it holds `max_tree_blocks`, more than a run of hours reaches, and Ray's own trimming, off by default, is 6,250 blocks.
/// Ties are broken at random; Ray takes them in the order of a set. Output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct RayPrefixAffinity {
    options: RayPrefixAffinityOptions,
    draws: Draws,
    tree: PrefixTree,
    queues: Queues,
}

/// Constants of [`RayPrefixAffinity`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RayPrefixAffinityOptions {
    /// Requests between the longest and the shortest queue above which load decides: absent, which is never.
    pub imbalance_threshold: Option<u32>,
    /// Matched share of the prompt from which it counts as cached: 0.1.
    pub match_threshold: f64,
    /// Seconds for which a queue length is believed: 10. With 0, every length is exact.
    pub queue_cache_seconds: f64,
    /// Blocks that the tree of an instance holds: 1,048,576.
    pub max_tree_blocks: u32,
}

impl Default for RayPrefixAffinityOptions {
    fn default() -> Self {
        Self {
            imbalance_threshold: None,
            match_threshold: 0.1,
            queue_cache_seconds: 10.0,
            max_tree_blocks: 1 << 20,
        }
    }
}

/// Queue lengths as Ray's router believes them.
#[derive(Clone, Debug)]
struct Queues {
    believed_for: Picos,
    queues: PerInstance<Queue>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    length: u32,
    believed: u32,
    believed_since: Option<Picos>,
}

impl Queue {
    fn learn(&mut self, now: Picos) {
        (self.believed, self.believed_since) = (self.length, Some(now));
    }
}

impl Queues {
    /// Asks every ready instance whose length was learned too long ago.
    fn refresh(&mut self, view: &ClusterView<'_>) {
        for instance in view.ready() {
            let queue = self.queues.entry(instance.id());
            let is_old = |since: Picos| view.now.0.saturating_sub(since.0) >= self.believed_for.0;
            if queue.believed_since.is_none_or(is_old) {
                queue.learn(view.now);
            }
        }
    }

    fn length(&self, instance: &InstanceState) -> u32 {
        self.queues.get(instance.id()).map_or(0, |queue| queue.believed)
    }

    /// Whether the longest exceeds the shortest by more than the threshold.
    fn are_imbalanced(&self, view: &ClusterView<'_>, threshold: u32) -> bool {
        let lengths = view.ready().map(|instance| self.length(instance));
        let longest = lengths.clone().max().unwrap_or(0);
        lengths.min().is_some_and(|shortest| longest - shortest > threshold)
    }
}

impl Configurable for RayPrefixAffinity {
    type Options = RayPrefixAffinityOptions;

    const EQUALISED: &'static str = r#"{"queue_cache_seconds": 0.0}"#;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "imbalance_threshold", low: 0.0, high: 256.0, scale: Scale::Count },
        Tunable { option: "match_threshold", low: 0.0, high: 1.0, scale: Scale::Linear },
    ];

    fn new(options: RayPrefixAffinityOptions, seed: u64) -> Result<Self> {
        let RayPrefixAffinityOptions { match_threshold, queue_cache_seconds, max_tree_blocks, .. } = options;
        if !(0.0..=1.0).contains(&match_threshold) {
            return Err(Error::field("match_threshold", match_threshold, "a share from 0 to 1"));
        }
        let believed_for = Picos::from_seconds(queue_cache_seconds).filter(|time| *time >= Picos::ZERO);
        let believed_for = believed_for.ok_or_else(|| {
            Error::field("queue_cache_seconds", queue_cache_seconds, "zero or more seconds")
        })?;
        let tree = PrefixTree::new(max_tree_blocks, Picos::MAX)?;
        let queues = Queues { believed_for, queues: PerInstance::default() };
        Ok(Self { options, draws: Draws::new(seed), tree, queues })
    }
}

impl Policy for RayPrefixAffinity {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let Self { options, draws, tree, queues } = self;
        queues.refresh(view);
        let queue = |instance: &InstanceState| f64::from(queues.length(instance));
        if options.imbalance_threshold.is_some_and(|threshold| queues.are_imbalanced(view, threshold)) {
            return draws.cheaper_of_two(view, queue);
        }
        let found = tree.longest_match(view, request);
        if found.rate >= options.match_threshold
            && let Some(instance) = draws.lowest_of(found.instances.into_iter(), queue)
        {
            return Ok(instance);
        }
        let smallest = view.ready().map(|instance| tree.blocks(instance.id())).min();
        let smallest = view.ready().filter(|instance| Some(tree.blocks(instance.id())) == smallest);
        draws.lowest_of(smallest, queue).ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.tree.insert(request, instance, now);
        let queue = self.queues.queues.entry(instance);
        queue.length += 1;
        queue.learn(now);
    }

    fn released(&mut self, _request: &Request, instance: InstanceId, _end: End) {
        self.queues.queues.entry(instance).length -= 1;
    }

    fn left(&mut self, instance: InstanceId) {
        self.tree.remove(instance);
        *self.queues.queues.entry(instance) = Queue::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: RayPrefixAffinityOptions) -> RayPrefixAffinity {
        RayPrefixAffinity::new(options, 0).unwrap()
    }

    #[test]
    fn a_match_decides_however_busy_its_instance_is() {
        let mut policy = policy(RayPrefixAffinityOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        for _ in 0..100 {
            cluster.dispatch(&mut policy, with_blocks(160, 10, 1), 0);
        }
        assert_eq!(cluster.place(&mut policy, &with_blocks(1600, 10, 1)), 0, "10 of 100 blocks");
        assert_eq!(cluster.place(&mut policy, &with_blocks(1616, 10, 1)), 1, "10 of 101");
        assert_eq!(cluster.place(&mut policy, &request(160, 10)), 1, "no hashes, no match");
    }

    #[test]
    fn equal_matches_and_equal_trees_go_by_the_queue() {
        let mut policy = policy(RayPrefixAffinityOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 3);
        for instance in [0, 1, 0] {
            cluster.dispatch(&mut policy, with_blocks(160, 10, 1), instance);
        }
        cluster.dispatch(&mut policy, with_blocks(176, 10, 2), 2);
        assert_eq!(cluster.place(&mut policy, &with_blocks(160, 10, 1)), 1);
        assert_eq!(cluster.place(&mut policy, &with_blocks(160, 10, 3)), 1, "10, 10 and 11 blocks");
    }

    #[test]
    fn beyond_the_threshold_the_lower_queue_of_two_decides() {
        let options = RayPrefixAffinityOptions { imbalance_threshold: Some(1), ..Default::default() };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(160, 10, 1);
        cluster.dispatch(&mut policy, turn.clone(), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 0, "1 against 0");
        cluster.dispatch(&mut policy, turn.clone(), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 1, "2 against 0");
    }

    #[test]
    fn a_drained_queue_looks_full_until_it_is_asked_again() {
        let stale = RayPrefixAffinityOptions { imbalance_threshold: Some(1), ..Default::default() };
        let exact = RayPrefixAffinityOptions { queue_cache_seconds: 0.0, ..stale };
        for (options, expected) in [(stale, [1, 1, 0]), (exact, [0, 0, 0])] {
            let mut policy = policy(options);
            let mut cluster = Cluster::new(policy.needs(), 2);
            let turn = with_blocks(160, 10, 1);
            let keys = [0, 0].map(|instance| cluster.dispatch(&mut policy, turn.clone(), instance));
            for key in keys {
                cluster.finish(&mut policy, key);
            }
            let places = [0.0, 9.5, 10.0].map(|seconds| {
                cluster.set_now(seconds);
                cluster.place(&mut policy, &turn)
            });
            assert_eq!(places, expected, "{options:?}");
        }
    }

    #[test]
    fn an_instance_that_left_starts_with_an_empty_tree() {
        let mut policy = policy(RayPrefixAffinityOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(160, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 0);
        cluster.finish(&mut policy, first);
        cluster.dispatch(&mut policy, with_blocks(16, 10, 2), 1);
        policy.left(InstanceId(0));
        assert_eq!(cluster.place(&mut policy, &with_blocks(160, 10, 3)), 0);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = RayPrefixAffinityOptions::default();
        for (options, field) in [
            (RayPrefixAffinityOptions { match_threshold: 2.0, ..default }, "match_threshold"),
            (RayPrefixAffinityOptions { queue_cache_seconds: -1.0, ..default }, "queue_cache_seconds"),
            (RayPrefixAffinityOptions { max_tree_blocks: 0, ..default }, "max_tree_blocks"),
        ] {
            let error = RayPrefixAffinity::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
