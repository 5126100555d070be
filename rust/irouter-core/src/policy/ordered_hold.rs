//! `ordered_hold`: the central queue that holds by forecast.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::impact::Candidate;
use crate::request::Request;
use crate::state::InstanceState;

use super::central::{Central, ShortestFirst};
use super::configurable::{Configurable, NoOptions, Scale, Tunable};
use super::estimate::expected_output_tokens;
use super::least_work::LeastWork;
use super::room::Room;
use super::{ClusterView, Policy};

/// Room by what an instance will probably hold.
///
/// ```text
/// in flight < max_num_seqs + lookahead_requests
/// and  max over t of P(KV(t) > capacity) <= overflow_probability        with the request there
/// ```
///
/// The probability is that of the instance's [`crate::impact::Forecast`]. A limit on the expected peak alone loses under weak predictions:
/// it reserves too much where lengths are certain and too little where they are not.
///
/// An instance without requests always has room, for no request is longer than the KV cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LikelyRoom {
    lookahead_requests: u32,
    overflow_probability: f64,
}

impl Room for LikelyRoom {
    fn is_in(&self, view: &ClusterView<'_>, instance: &InstanceState, request: &Request) -> bool {
        let in_flight = instance.in_flight();
        let slots = instance.config().scheduler.max_num_seqs;
        if in_flight == 0 {
            return true;
        }
        if in_flight >= slots.saturating_add(self.lookahead_requests) {
            return false;
        }
        let capacity = instance.kv_capacity_tokens() as f64;
        let own = f64::from(request.prompt_tokens) + expected_output_tokens(request);
        let all = instance.context_tokens() as f64 + instance.remaining_output_tokens() + own;
        // Nothing to forecast where they would not fill half of it if all stayed until the last is done.
        all <= FAR_FROM_FULL * capacity
            || view.forecast(instance).overflow_probability_with(&Candidate::new(request), capacity)
                <= self.overflow_probability
    }
}

/// Share of the KV cache up to which expected contexts need no forecast.
const FAR_FROM_FULL: f64 = 0.5;

/// Constants of `ordered_hold`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OrderedHoldOptions {
    /// Requests that may wait in an engine's own queue for a batch slot: 2.
    pub lookahead_requests: u32,
    /// Probability of a KV overflow up to which an instance has room: 0.2.
    pub overflow_probability: f64,
    /// Seconds of predicted work that a second of waiting makes up for: 0.005.
    pub ageing: f64,
}

impl Default for OrderedHoldOptions {
    fn default() -> Self {
        Self { lookahead_requests: 2, overflow_probability: 0.2, ageing: 0.005 }
    }
}

/// [`LeastWork`] behind a queue that is [`ShortestFirst`] and holds while no instance has [`LikelyRoom`]: order, hold and
/// placement by hand-written rules, without learning.
impl Configurable for Central<ShortestFirst, LikelyRoom> {
    type Options = OrderedHoldOptions;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "lookahead_requests", low: 0.0, high: 32.0, scale: Scale::Count },
        Tunable { option: "overflow_probability", low: 0.0001, high: 0.5, scale: Scale::Logarithmic },
        Tunable { option: "ageing", low: 0.0005, high: 0.5, scale: Scale::Logarithmic },
    ];

    fn new(options: OrderedHoldOptions, seed: u64) -> Result<Self> {
        let OrderedHoldOptions { lookahead_requests, overflow_probability, ageing } = options;
        if !(0.0..=1.0).contains(&overflow_probability) {
            return Err(Error::field("overflow_probability", overflow_probability, "a share from 0 to 1"));
        }
        let rule: Box<dyn Policy> = Box::new(LeastWork::new(NoOptions {}, seed)?);
        let room = LikelyRoom { lookahead_requests, overflow_probability };
        Ok(Self::around(rule, ShortestFirst::new(ageing)?, room))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::length::{LEVELS, LengthDistribution};
    use crate::policy::testing::{Cluster, at, request};

    fn policy(options: OrderedHoldOptions) -> Central<ShortestFirst, LikelyRoom> {
        Central::<ShortestFirst, LikelyRoom>::new(options, 0).unwrap()
    }

    #[test]
    fn the_less_certain_the_lengths_the_more_is_kept_free() {
        // Of 16,384 tokens two requests of 4,000 and about 2,500 take 13,000; a third has 3,384 left.
        let certain = request(4000, 2500);
        let quantiles = LEVELS.map(|level| 5000.0 * level);
        let vague = Request {
            predicted: Arc::new(LengthDistribution::from_quantiles(&quantiles).unwrap()),
            ..certain.clone()
        };
        let held = |like: &Request, prompt_tokens: u32| {
            let mut policy = policy(OrderedHoldOptions { overflow_probability: 0.01, ..Default::default() });
            let mut cluster = Cluster::new(policy.needs(), 1);
            cluster.dispatch(&mut policy, like.clone(), 0);
            cluster.dispatch(&mut policy, like.clone(), 0);
            cluster.wait(&mut policy, request(prompt_tokens, 10));
            cluster.decide(&mut policy, at(0.0)).0.is_none()
        };
        assert_eq!([3000, 9000].map(|prompt_tokens| held(&certain, prompt_tokens)), [false, true]);
        assert_eq!([3000, 9000].map(|prompt_tokens| held(&vague, prompt_tokens)), [true, true]);
    }

    #[test]
    fn an_idle_instance_takes_whatever_can_run() {
        let mut policy = policy(OrderedHoldOptions { overflow_probability: 0.0, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.wait(&mut policy, request(Cluster::CAPACITY_TOKENS - 1, 8000));
        assert_eq!(cluster.decide(&mut policy, at(0.0)).0, Some(0));
    }

    #[test]
    fn bad_constants_are_named() {
        let options = OrderedHoldOptions { overflow_probability: 1.5, ..Default::default() };
        let error = Central::<ShortestFirst, LikelyRoom>::new(options, 0).err().unwrap();
        assert!(error.to_string().contains("overflow_probability"), "{error}");
    }
}
