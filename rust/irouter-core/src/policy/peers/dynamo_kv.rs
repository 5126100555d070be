//! `dynamo_kv`: the cost of NVIDIA Dynamo's KV router.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;

use super::active_blocks::ActiveBlocks;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::estimate::{PerInstance, uncached_tokens};
use crate::policy::{ClusterView, End, Needs, Policy};
use crate::time::Picos;

/// Dynamo's KV cost, as of `ai-dynamo-runtime` 1.6 (B19 of the peers' list), for one cache tier.
///
/// ```text
/// argmin  prefill_load_scale x max(0, P - credit x overlap)  +  D  +  active_request_weight x n        (blocks)
/// credit = overlap_score_credit / (1 + overlap_score_credit_decay x (Q - min Q) / request blocks)
/// ```
///
/// * `P`: prompt tokens to compute, of the requests without a first token (`Q`, less what was cached) and of this one,
///   as blocks;
/// * `overlap`: leading blocks of this request that the instance is expected to cache, by the router's own index;
/// * `D`: full prompt blocks of the requests in flight, and of this one, blocks that requests share counted once. Output
///   blocks are not tracked, as by default in Dynamo;
/// * `n`: requests in flight;
/// * `Q - min Q`: prompt blocks queued beyond those of the instance with the fewest.
///
/// With `temperature` 0 the lowest cost wins, equals drawn at random. Otherwise an instance is drawn with probability
/// proportional to `exp(-cost / (temperature x (highest cost - lowest cost)))`.
///
/// Without block hashes nothing overlaps and nothing is shared, and the partial last block of a prompt counts too. A block is a KV block of the profile, 16 tokens.
#[derive(Clone, Debug)]
pub(crate) struct DynamoKv {
    options: DynamoKvOptions,
    draws: Draws,
    active: PerInstance<ActiveBlocks>,
}

/// Constants of [`DynamoKv`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DynamoKvOptions {
    /// Prefill blocks saved per cached block: 1.
    pub overlap_score_credit: f64,
    /// How fast the credit of a busy instance falls: 0, not at all.
    pub overlap_score_credit_decay: f64,
    /// Weight of prefill blocks against decode blocks: 1.
    pub prefill_load_scale: f64,
    /// Blocks that a request in flight counts in addition: 0.
    pub active_request_weight: f64,
    /// Randomness of the choice: 0, none.
    pub temperature: f64,
}

impl Default for DynamoKvOptions {
    fn default() -> Self {
        Self {
            overlap_score_credit: 1.0,
            overlap_score_credit_decay: 0.0,
            prefill_load_scale: 1.0,
            active_request_weight: 0.0,
            temperature: 0.0,
        }
    }
}

/// Constants that a search may set, of every rule with this cost.
pub(super) const COST_TUNABLE: &[Tunable] = &[
    Tunable { option: "overlap_score_credit", low: 0.0, high: 1.0, scale: Scale::Linear },
    Tunable { option: "overlap_score_credit_decay", low: 0.0, high: 4.0, scale: Scale::Linear },
    Tunable { option: "prefill_load_scale", low: 0.05, high: 20.0, scale: Scale::Logarithmic },
    Tunable { option: "active_request_weight", low: 0.0, high: 64.0, scale: Scale::Linear },
    Tunable { option: "temperature", low: 0.0, high: 1.0, scale: Scale::Linear },
];

impl DynamoKv {
    /// A request in flight has produced `tokens` so far, of `expected` if that is known.
    pub(super) fn grown(
        &mut self,
        request: &Request,
        instance: InstanceId,
        tokens: u32,
        block_tokens: u32,
        expected: Option<f64>,
    ) {
        self.active.entry(instance).grow(request, tokens, block_tokens, expected);
    }

    /// Cost in blocks; `least_queued` is the fewest queued prompt tokens of a ready instance.
    fn cost(&self, instance: &InstanceState, request: &Request, least_queued: u64) -> f64 {
        let options = &self.options;
        let block_tokens = instance.config().kv.block_tokens;
        let block = f64::from(block_tokens);
        let queued = instance.queued_prefill_tokens();
        let prefill = (queued + u64::from(request.prompt_tokens)) as f64 / block;
        let overlap = f64::from((request.prompt_tokens - uncached_tokens(instance, request)) / block_tokens);
        let excess =
            (queued - least_queued) as f64 / block / f64::from(request.prompt_tokens.div_ceil(block_tokens));
        let credit = options.overlap_score_credit / (1.0 + options.overlap_score_credit_decay * excess);
        let none = ActiveBlocks::default();
        let active = self.active.get(instance.id()).unwrap_or(&none);
        options.prefill_load_scale * (prefill - credit * overlap).max(0.0)
            + active.with(request, block)
            + options.active_request_weight * f64::from(instance.in_flight())
    }
}

/// Draws an index with probability proportional to `exp(-cost / (temperature x range))`.
fn soft_lowest(costs: &[f64], temperature: f64, draws: &mut Draws) -> usize {
    let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = highest - lowest;
    let weight =
        |cost: f64| if range > 0.0 { libm::exp((lowest - cost) / (range * temperature)) } else { 1.0 };
    let weights: Vec<f64> = costs.iter().map(|&cost| weight(cost)).collect();
    draws.weighted(&weights)
}

impl Configurable for DynamoKv {
    type Options = DynamoKvOptions;

    const TUNABLE: &'static [Tunable] = COST_TUNABLE;

    fn new(options: DynamoKvOptions, seed: u64) -> Result<Self> {
        let DynamoKvOptions { overlap_score_credit: credit, overlap_score_credit_decay, .. } = options;
        if !(0.0..=1.0).contains(&credit) {
            return Err(Error::field("overlap_score_credit", credit, "a number from 0 to 1"));
        }
        for (field, value) in [
            ("overlap_score_credit_decay", overlap_score_credit_decay),
            ("prefill_load_scale", options.prefill_load_scale),
            ("active_request_weight", options.active_request_weight),
            ("temperature", options.temperature),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::field(field, value, "zero or more"));
            }
        }
        Ok(Self { options, draws: Draws::new(seed), active: PerInstance::default() })
    }
}

impl Policy for DynamoKv {
    fn needs(&self) -> Needs {
        Needs { counts: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let queued = view.ready().map(InstanceState::queued_prefill_tokens);
        let least_queued = queued.min().ok_or_else(|| view.no_instance())?;
        let costs: Vec<f64> =
            view.ready().map(|instance| self.cost(instance, request, least_queued)).collect();
        if self.options.temperature > 0.0 {
            let index = soft_lowest(&costs, self.options.temperature, &mut self.draws);
            return view.ready().nth(index).map(InstanceState::id).ok_or_else(|| view.no_instance());
        }
        self.draws.lowest_cost(view, costs)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.active.entry(instance).add(request);
    }

    fn released(&mut self, request: &Request, instance: InstanceId, _end: End) {
        self.active.entry(instance).remove(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(options: DynamoKvOptions) -> DynamoKv {
        DynamoKv::new(options, 0).unwrap()
    }

    fn cost(cluster: &Cluster, policy: &DynamoKv, request: &Request, instance: u32) -> f64 {
        policy.cost(cluster.instance(instance), request, 0)
    }

    #[test]
    fn the_cost_is_prefill_blocks_less_overlap_and_decode_blocks() {
        let mut policy = policy(DynamoKvOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 1);
        let turn = with_blocks(160, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 0);
        cluster.dispatch(&mut policy, request(40, 10), 0);
        // Prefill: (160 + 40 + 160) / 16, less 9 blocks (one token is always computed). Decode: 10 shared blocks once,
        // and 40 tokens.
        assert!((cost(&cluster, &policy, &turn, 0) - (22.5 - 9.0 + 12.5)).abs() < 1e-12);
        // Without hashes nothing overlaps: 10 blocks more on both sides.
        assert!((cost(&cluster, &policy, &request(160, 10), 0) - (22.5 + 22.5)).abs() < 1e-12);
        cluster.progress(first, 1);
        assert!((cost(&cluster, &policy, &turn, 0) - (12.5 - 9.0 + 12.5)).abs() < 1e-12);
        cluster.finish(&mut policy, first);
        // Still cached, but no longer active: its 10 blocks come back with the request.
        assert!((cost(&cluster, &policy, &turn, 0) - (12.5 - 9.0 + 12.5)).abs() < 1e-12);
        assert!((cost(&cluster, &policy, &request(16, 10), 0) - (3.5 + 3.5)).abs() < 1e-12);
    }

    #[test]
    fn scale_credit_decay_and_request_weight_enter_as_written() {
        let options = DynamoKvOptions {
            overlap_score_credit: 0.5,
            overlap_score_credit_decay: 2.0,
            prefill_load_scale: 3.0,
            active_request_weight: 7.0,
            temperature: 0.0,
        };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 1);
        let turn = with_blocks(160, 10, 1);
        cluster.dispatch(&mut policy, turn.clone(), 0);
        // Excess: 10 queued blocks over a request of 10; credit 0.5 / (1 + 2) for each of 9 blocks.
        let expected = 3.0 * (20.0 - 1.5) + 10.0 + 7.0;
        assert!((cost(&cluster, &policy, &turn, 0) - expected).abs() < 1e-12);
    }

    #[test]
    fn the_lowest_cost_wins_without_temperature_and_by_weight_with_it() {
        let mut cold = policy(DynamoKvOptions::default());
        let mut cluster = Cluster::new(cold.needs(), 2);
        cluster.dispatch(&mut cold, request(160, 10), 0);
        assert_eq!(cluster.place(&mut cold, &request(16, 10)), 1);
        // The lowest cost has weight 1, the highest e^(-1/0.5).
        let mut draws = Draws::new(1);
        let first = (0..2000).filter(|_| soft_lowest(&[5.0, 25.0], 0.5, &mut draws) == 0).count() as f64;
        let expected = 2000.0 / (1.0 + libm::exp(-2.0));
        // 2.58 standard deviations: 1 %.
        assert!(
            (first - expected).abs() < 2.58 * libm::sqrt(expected * (1.0 - expected / 2000.0)),
            "{first}"
        );
    }

    #[test]
    fn bad_constants_are_named() {
        let default = DynamoKvOptions::default();
        for (options, field) in [
            (DynamoKvOptions { overlap_score_credit: 2.0, ..default }, "overlap_score_credit"),
            (DynamoKvOptions { prefill_load_scale: -1.0, ..default }, "prefill_load_scale"),
            (DynamoKvOptions { temperature: f64::NAN, ..default }, "temperature"),
        ] {
            let error = DynamoKv::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
