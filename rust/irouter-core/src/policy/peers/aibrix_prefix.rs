//! `aibrix_prefix`: the `prefix-cache` strategy of the `AIBrix` gateway.

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

/// `AIBrix`'s `prefix-cache`, as of August 2026 (v0.7; B12 of the peers' list), without KV events.
///
/// ```text
/// candidates  =  the instances with min n, when max n - min n > imbalance_requests; else all
/// among the candidates with a match of at least one block and  n <= mean n + deviations x deviation of n:
///     argmax whole percent matched, then argmin n
/// when there is none: argmin n of all
/// ```
///
/// * `n`: requests in flight, by the gateway's own count; mean and standard deviation are over all ready instances;
/// * percent matched: leading blocks of the prompt that were dispatched to the instance, of its full blocks, rounded down.
///   `AIBrix`'s blocks are 128 characters, here 32 tokens at 4 characters a token: every second block hash.
///
/// Blocks idle for 20 minutes are forgotten, and the least recently used ones beyond `max_tree_blocks`. `AIBrix` keeps one
/// list for all instances, in which a block that several of them have counts once; here each instance has its own. A prompt
/// without block hashes matches nothing. Ties are broken at random, as in `AIBrix`. Output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct AibrixPrefix {
    options: AibrixPrefixOptions,
    draws: Draws,
    index: PrefixTree,
}

/// Constants of [`AibrixPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AibrixPrefixOptions {
    /// Requests between the busiest and the idlest instance above which only the idlest are candidates: 8.
    pub imbalance_requests: u32,
    /// Standard deviations above the mean that an instance with the prefix may be at: 1.
    pub deviations: f64,
    /// Blocks of 32 tokens remembered for an instance: 200,000.
    pub max_tree_blocks: u32,
    /// Minutes after which an unused block is forgotten: 20.
    pub idle_minutes: f64,
}

impl Default for AibrixPrefixOptions {
    fn default() -> Self {
        Self { imbalance_requests: 8, deviations: 1.0, max_tree_blocks: 200_000, idle_minutes: 20.0 }
    }
}

/// `AIBrix`'s blocks of the request: two of the router's make one, whose hash covers both.
fn blocks(request: &Request) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + '_ {
    request.prompt_blocks.as_deref().unwrap_or_default().chunks_exact(2).map(|pair| pair[1])
}

impl AibrixPrefix {
    /// Whole percent of the request's blocks that each candidate has, of those with at least one.
    fn matches<'a>(
        &mut self,
        view: &ClusterView<'a>,
        request: &Request,
        spread: &Spread,
    ) -> Vec<(&'a InstanceState, usize)> {
        let imbalanced = spread.most - spread.least > self.options.imbalance_requests;
        let candidates = view.ready().filter(|instance| !imbalanced || instance.in_flight() == spread.least);
        let percent = |instance: &'a InstanceState| {
            let matched = self.index.matched(blocks(request), instance.id(), view.now);
            (matched > 0).then(|| (instance, matched * 100 / blocks(request).len()))
        };
        candidates.filter_map(percent).collect()
    }
}

impl Configurable for AibrixPrefix {
    type Options = AibrixPrefixOptions;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "imbalance_requests", low: 0.0, high: 128.0, scale: Scale::Count },
        Tunable { option: "deviations", low: 0.0, high: 4.0, scale: Scale::Linear },
    ];

    fn new(options: AibrixPrefixOptions, seed: u64) -> Result<Self> {
        let AibrixPrefixOptions { deviations, max_tree_blocks, idle_minutes, .. } = options;
        if !(deviations.is_finite() && deviations >= 0.0) {
            return Err(Error::field("deviations", deviations, "zero or more"));
        }
        let idle = Picos::from_seconds(idle_minutes * 60.0).filter(|idle| *idle > Picos::ZERO);
        let idle =
            idle.ok_or_else(|| Error::field("idle_minutes", idle_minutes, "a positive number of minutes"))?;
        Ok(Self { options, draws: Draws::new(seed), index: PrefixTree::new(max_tree_blocks, idle)? })
    }
}

impl Policy for AibrixPrefix {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let spread = Spread::of(view);
        let limit = spread.mean() + self.options.deviations * spread.deviation();
        let mut matches = self.matches(view, request, &spread);
        matches.retain(|(instance, _)| f64::from(instance.in_flight()) <= limit);
        let load = |instance: &InstanceState| f64::from(instance.in_flight());
        let Some(best) = matches.iter().map(|&(_, percent)| percent).max() else {
            return self.draws.lowest(view, load);
        };
        let best = matches.iter().filter(|&&(_, percent)| percent == best).map(|&(instance, _)| instance);
        self.draws.lowest_of(best, load).ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.index.insert_blocks(blocks(request), instance, now);
    }

    fn left(&mut self, instance: InstanceId) {
        self.index.remove(instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: AibrixPrefixOptions) -> AibrixPrefix {
        AibrixPrefix::new(options, 0).unwrap()
    }

    #[test]
    fn the_longest_match_wins_then_the_fewest_requests() {
        let mut policy = policy(AibrixPrefixOptions { deviations: 4.0, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 4);
        for (tokens, instance) in [(320, 0), (320, 0), (160, 1), (320, 2)] {
            cluster.dispatch(&mut policy, with_blocks(tokens, 10, 1), instance);
        }
        assert_eq!(cluster.place(&mut policy, &with_blocks(320, 10, 1)), 2, "100 % and 1 request");
        assert_eq!(cluster.place(&mut policy, &with_blocks(320, 10, 2)), 3, "no match, idle");
        assert_eq!(cluster.place(&mut policy, &request(320, 10)), 3, "no hashes");
        assert_eq!(cluster.place(&mut policy, &with_blocks(31, 10, 1)), 3, "no full block of 32 tokens");
    }

    #[test]
    fn matches_are_compared_in_whole_percent() {
        for (tokens, matched, expected) in [(480, [320, 160], 0), (12_800, [1312, 1280], 1)] {
            let mut policy = policy(AibrixPrefixOptions { deviations: 4.0, ..Default::default() });
            let mut cluster = Cluster::new(policy.needs(), 2);
            for (tokens, instance) in [(matched[0], 0), (matched[0], 0), (matched[1], 1)] {
                cluster.dispatch(&mut policy, with_blocks(tokens, 10, 1), instance);
            }
            let place = cluster.place(&mut policy, &with_blocks(tokens, 10, 1));
            assert_eq!(place, expected, "66 against 33 %, or 10 % on both and fewer requests");
        }
    }

    #[test]
    fn an_instance_far_above_the_mean_is_passed_over() {
        let mut policy = policy(AibrixPrefixOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 3);
        let turn = with_blocks(320, 10, 1);
        cluster.dispatch(&mut policy, with_blocks(320, 10, 1), 0);
        cluster.dispatch(&mut policy, with_blocks(160, 10, 1), 1);
        // Mean 2/3, deviation 0.47.
        assert_eq!(cluster.place(&mut policy, &turn), 0, "1 is within 1.14");
        cluster.dispatch(&mut policy, request(10, 10), 0);
        // Mean 1, deviation 0.82.
        assert_eq!(cluster.place(&mut policy, &turn), 1, "2 is above 1.82, and the next match is 50 %");
        let mut lenient = policy;
        lenient.options.deviations = 1.3;
        assert_eq!(cluster.place(&mut lenient, &turn), 0);
    }

    #[test]
    fn when_imbalanced_only_the_idlest_are_candidates() {
        let mut policy =
            policy(AibrixPrefixOptions { imbalance_requests: 1, deviations: 4.0, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 3);
        let turn = with_blocks(320, 10, 1);
        cluster.dispatch(&mut policy, turn.clone(), 0);
        let earlier = cluster.dispatch(&mut policy, with_blocks(160, 10, 1), 2);
        cluster.finish(&mut policy, earlier);
        assert_eq!(cluster.place(&mut policy, &turn), 0, "1 against 0");
        cluster.dispatch(&mut policy, turn.clone(), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 2, "2 against 0: half a match among the idle");
        policy.left(InstanceId(2));
        cluster.drain(2);
        assert_eq!(cluster.place(&mut policy, &turn), 1);
    }

    #[test]
    fn a_block_is_forgotten_after_its_idle_time() {
        let mut policy = policy(AibrixPrefixOptions { deviations: 4.0, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        let turn = with_blocks(320, 10, 1);
        cluster.dispatch(&mut policy, turn.clone(), 0);
        cluster.set_now(1200.0);
        assert_eq!(cluster.place(&mut policy, &turn), 0);
        cluster.set_now(1200.5);
        assert_eq!(cluster.place(&mut policy, &turn), 1);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = AibrixPrefixOptions::default();
        for (options, field) in [
            (AibrixPrefixOptions { deviations: -1.0, ..default }, "deviations"),
            (AibrixPrefixOptions { max_tree_blocks: 0, ..default }, "max_tree_blocks"),
            (AibrixPrefixOptions { idle_minutes: 0.0, ..default }, "idle_minutes"),
        ] {
            let error = AibrixPrefix::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
