//! `guided`: the learned policy.

mod freshness;
mod weights;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::InstanceId;
use crate::network::{Network, Scratch};
use crate::request::Request;
use crate::state::Effort;
use crate::time::Picos;

use super::configurable::{Configurable, NoOptions};
use super::least_work::LeastWork;
use super::observation::{Observation, Observer};
use super::{ClusterView, End, Needs, Policy, QueueView, Verdict};
use freshness::Freshness;

/// Services of the mean request by which first tokens may be late before what is known of the instances counts as stale.
const STALE: f64 = 0.3;

/// Scores every pair of a waiting request and an instance with one small network, and holds where no pair is worth it.
///
/// ```text
/// (value, room) = network(features of the pair)
/// dispatch the pair of the highest value among those with room > 0; hold when there is none
/// ```
///
/// * features: [`super::observation::FEATURES`], of the 6 requests that are first in the queue's order and the 2 that have waited
///   longest, on the 16 ready instances with the least predicted work;
/// * the queue's order: least [`Effort::occupancy_seconds`] first, which is also what counts in overtaking;
/// * an idle instance is never left idle: where no pair has room, the best pair of an idle instance goes out.
///
/// Two outputs, since who goes first and whether there is room are two questions: a request that has waited long is worth more,
/// and still has to wait until its instance has room. Weights are shared over pairs, and features have no units, so that one file
/// serves any cluster. Where the request has to go at once, the pairs are those of that request, and room does not matter.
///
/// Where events come late by 0.3 services of the mean request ([`Freshness`]), instances look fuller than they are, and the first
/// in line goes to the least predicted work at once; `fallback_share` says in how many of the decisions.
pub(crate) struct Guided {
    network: Network,
    observer: Observer,
    scratch: Scratch,
    freshness: Freshness,
    fallback: LeastWork,
    /// Expected TTFT of the pair that was chosen last, in seconds.
    expected: Option<f32>,
    decisions: u64,
    fallbacks: u64,
}

/// Options of `guided`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GuidedOptions {
    /// A file of weights in base64, in place of those of the package.
    pub weights: Option<String>,
}

/// The file of weights that the package ships.
pub fn shipped_weights() -> &'static [u8] {
    weights::SHIPPED
}

impl Configurable for Guided {
    type Options = GuidedOptions;

    fn new(options: GuidedOptions, _seed: u64) -> Result<Self> {
        Ok(Self {
            network: weights::load(options.weights.as_deref())?,
            observer: Observer::default(),
            scratch: Scratch::default(),
            freshness: Freshness::default(),
            fallback: LeastWork::new(NoOptions {}, 0)?,
            expected: None,
            decisions: 0,
            fallbacks: 0,
        })
    }
}

impl Guided {
    /// Whether the fallback decides, which it then counts.
    fn falls_back(&mut self, now: Picos) -> bool {
        let service = f64::from(self.observer.mean_service_seconds());
        let falls_back = service > 0.0 && self.freshness.lag_seconds(now) > STALE * service;
        self.decisions += 1;
        self.fallbacks += u64::from(falls_back);
        falls_back
    }

    /// The pair to dispatch: number of the request and of the instance in the observation.
    fn choose(&mut self, must_go: bool) -> Option<(usize, usize)> {
        let observation = self.observer.latest();
        let instances = observation.instances.len();
        // The highest value so far and its pair: with room, on an idle instance, of all.
        let mut best = [None; 3];
        for (index, pair) in observation.pairs.iter().enumerate() {
            if !observation.fits[index] {
                continue;
            }
            let outputs = self.network.forward(pair, &mut self.scratch);
            let (value, room) = (outputs[0], outputs[1]);
            let counts = [room > 0.0, observation.idle[index % instances], must_go];
            for (best, counts) in best.iter_mut().zip(counts) {
                if counts && best.is_none_or(|(highest, _)| value > highest) {
                    *best = Some((value, index));
                }
            }
        }
        let (_, index) = best.into_iter().flatten().next()?;
        self.expected = Some(observation.ttft_seconds[index]);
        Some((index / instances, index % instances))
    }
}

impl Policy for Guided {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, twin: true, prefix: true, occupancy: true, ..Needs::default() }
    }

    fn order_key(&self, _request: &Request, effort: Effort) -> f64 {
        effort.occupancy_seconds
    }

    fn overtaking_seconds(&self, effort: Effort) -> f64 {
        effort.occupancy_seconds
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        if self.falls_back(view.now) {
            return self.fallback.place(view, request);
        }
        self.observer.observe_request(view, request);
        let (_, instance) = self.choose(true).ok_or_else(|| view.no_instance())?;
        Ok(self.observer.latest().instances[instance])
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        if self.falls_back(view.now) {
            return self.fallback.decide(view, queue);
        }
        self.observer.observe(view, queue);
        if self.observer.latest().instances.is_empty() {
            return Err(view.no_instance());
        }
        Ok(match self.choose(false) {
            Some((request, instance)) => {
                let Observation { requests, instances, .. } = self.observer.latest();
                Verdict::Dispatch { request: requests[request], instance: instances[instance] }
            }
            None => Verdict::Hold { until: None },
        })
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.observer.dispatched(request, instance);
        let ttft_seconds = self.expected.take().unwrap_or(0.0);
        self.freshness.dispatched(request.id, now, ttft_seconds.into());
    }

    fn first_token(&mut self, request: &Request, _instance: InstanceId, now: Picos) {
        self.freshness.first_token(request.id, now);
    }

    fn released(&mut self, request: &Request, instance: InstanceId, _end: End) {
        self.observer.released(instance);
        self.freshness.released(request.id);
    }

    fn left(&mut self, instance: InstanceId) {
        self.observer.released(instance);
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        vec![("fallback_share", self.fallbacks as f64 / self.decisions.max(1) as f64)]
    }
}

#[cfg(test)]
mod tests;
