//! `guided`: the learned policy.

mod weights;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::InstanceId;
use crate::network::{Network, Scratch};
use crate::request::Request;
use crate::state::Effort;
use crate::time::Picos;

use super::configurable::Configurable;
use super::observation::{Observation, Observer};
use super::{ClusterView, End, Needs, Policy, QueueView, Verdict};

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
pub(crate) struct Guided {
    network: Network,
    observer: Observer,
    scratch: Scratch,
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
        })
    }
}

impl Guided {
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
        self.observer.observe_request(view, request);
        let (_, instance) = self.choose(true).ok_or_else(|| view.no_instance())?;
        Ok(self.observer.latest().instances[instance])
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
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

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.observer.dispatched(request, instance);
    }

    fn released(&mut self, _request: &Request, instance: InstanceId, _end: End) {
        self.observer.released(instance);
    }

    fn left(&mut self, instance: InstanceId) {
        self.observer.released(instance);
    }
}

#[cfg(test)]
mod tests;
