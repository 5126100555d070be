//! `paper_agent`: the paper's trained agents.

pub mod counts;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::network::{Network, Scratch, WeightsFile};
use crate::request::Request;
use crate::time::Picos;

use super::configurable::Configurable;
use super::ticks::Ticks;
use super::{ClusterView, Needs, Policy, QueueView, Verdict};

/// The greedy policy of an agent trained as in the paper (Jain et al., section 5.3 and appendix A.9).
///
/// ```text
/// argmax over the instances with spare capacity, and hold, of   Q(counts of the cluster and its queue)
/// ```
///
/// * `Q`: the trained network, from [`counts::encode`] to a value per instance and one for hold, the last;
/// * it decides at ticks, the multiples of its `tick_s`: then on the head of the queue alone; all others wait for the next
///   tick. A tick that comes late, by less than a tick, still counts.
///
/// The weights serve clusters of the size that they were trained for. Where a request has to go at once, hold is left out. Ties
/// go to the lowest number. There are no weights in the package: `irouter train --agent` trains them.
pub(crate) struct PaperAgent {
    network: Network,
    instances: usize,
    ticks: Ticks,
    scratch: Scratch,
}

/// Options of [`PaperAgent`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PaperAgentOptions {
    /// A file of weights in base64.
    pub weights: String,
}

/// What the header of a file of weights has to say; the rest of it is for people.
#[derive(Deserialize)]
struct Header {
    features: Vec<String>,
    tick_s: f64,
}

impl Configurable for PaperAgent {
    type Options = PaperAgentOptions;

    fn new(options: PaperAgentOptions, _seed: u64) -> Result<Self> {
        let bytes = STANDARD.decode(&options.weights).ok().filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| {
            let value = format!("text of {} letters", options.weights.len());
            Error::field("weights", value, "a file of weights in base64")
        })?;
        let file = WeightsFile::parse(&bytes)?;
        let Header { features, tick_s } = file.header()?;
        let network = Network::new(&file, "network.")?;
        let refuse =
            |message: String| Err(Error::Schema { what: "weights of `paper_agent`".into(), message });
        let Some(instances) = counts::instances(network.inputs()) else {
            return refuse(format!("the network has {} inputs, expected 3 + 6 m", network.inputs()));
        };
        if network.outputs() != instances + 1 {
            let (found, expected) = (network.outputs(), instances + 1);
            return refuse(format!("the network has {found} outputs, expected {expected}"));
        }
        if features != counts::names(instances) {
            return refuse(format!("they are for the features {features:?}, expected those of `counts`"));
        }
        let tick = Picos::from_seconds(tick_s).filter(|tick| *tick > Picos::ZERO);
        let tick = tick.ok_or_else(|| Error::field("tick_s", tick_s, "a positive number of seconds"))?;
        Ok(Self { network, instances, ticks: Ticks::new(tick), scratch: Scratch::default() })
    }
}

impl PaperAgent {
    /// The best open action: an instance, or `None` for hold.
    fn choose(
        &mut self,
        view: &ClusterView<'_>,
        numbers: &[f32],
        open: impl Fn(InstanceId) -> bool,
        may_hold: bool,
    ) -> Result<Option<InstanceId>> {
        if view.instances.len() != self.instances {
            let expected = format!("{}, which the weights were trained for", self.instances);
            return Err(Error::field("instances", view.instances.len(), expected));
        }
        let values = self.network.forward(numbers, &mut self.scratch);
        let mut best: Option<(f32, Option<InstanceId>)> = None;
        let instances = view.instances.iter().map(|instance| Some(instance.id()));
        for (&value, action) in values.iter().zip(instances.chain([None])) {
            let is_open = action.map_or(may_hold, &open);
            if is_open && best.is_none_or(|(highest, _)| value > highest) {
                best = Some((value, action));
            }
        }
        best.map(|(_, action)| action).ok_or_else(|| view.no_instance())
    }

    fn numbers(&self) -> Vec<f32> {
        vec![0.0; counts::width(self.instances)]
    }
}

impl Policy for PaperAgent {
    fn needs(&self) -> Needs {
        counts::needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let mut numbers = self.numbers();
        counts::encode_request(view, request, &mut numbers);
        let ready = |instance| view.offers(instance);
        self.choose(view, &numbers, ready, false)?.ok_or_else(|| view.no_instance())
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        if view.ready().next().is_none() {
            return Err(view.no_instance());
        }
        if self.ticks.is_open(view.now)
            && let Some(head) = queue.head()
        {
            self.ticks.close();
            let mut numbers = self.numbers();
            counts::encode(view, queue, &mut numbers);
            let open = |instance| counts::takes(view, instance, head.request);
            if let Some(instance) = self.choose(view, &numbers, open, true)? {
                return Ok(Verdict::Dispatch { request: head.key, instance });
            }
        }
        Ok(Verdict::Hold { until: Some(self.ticks.next(view.now)) })
    }
}

#[cfg(test)]
mod tests;
