//! `ordered_hold`: the central queue that holds by forecast.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::impact::Forecast;
use crate::request::Request;
use crate::state::InstanceState;

use super::central::{Central, ShortestFirst};
use super::least_work::LeastWork;
use super::registry::{Configurable, NoOptions, Scale, Tunable};
use super::room::Room;
use super::{ClusterView, Policy};

/// Room by what an instance will probably hold.
///
/// ```text
/// in flight < max_num_seqs + lookahead_requests
/// and  max over t of P(KV(t) > capacity) <= overflow_probability        with the request there
/// ```
///
/// The probability is that of the instance's [`Forecast`]. A limit on the expected peak alone loses under weak predictions:
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
        in_flight < slots.saturating_add(self.lookahead_requests)
            && Forecast::new(instance, view.residents(instance.id()))
                .with(request)
                .overflow_probability(instance.kv_capacity_tokens() as f64)
                <= self.overflow_probability
    }
}

/// Constants of `ordered_hold`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OrderedHoldOptions {
    /// Requests that may wait in an engine's own queue for a batch slot: 2.
    pub lookahead_requests: u32,
    /// Probability of a KV overflow up to which an instance has room: 0.05.
    pub overflow_probability: f64,
    /// Seconds of predicted work that a second of waiting makes up for: 0.005.
    pub ageing: f64,
}

impl Default for OrderedHoldOptions {
    fn default() -> Self {
        Self { lookahead_requests: 2, overflow_probability: 0.05, ageing: 0.005 }
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
