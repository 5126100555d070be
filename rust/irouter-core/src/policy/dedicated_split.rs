//! `dedicated_split`: long outputs to one group of instances, short ones to the other.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::configurable::Configurable;
use super::estimate::{expected_output_tokens, unloaded_decode_seconds};
use super::round_robin::Turn;
use super::{ClusterView, Needs, Policy};

/// The paper's dedicated small-large split (Jain et al., appendix A.1.4), for any number of instances.
///
/// ```text
/// heavy  <=>  expected output tokens x decode seconds per token >= heavy_seconds
/// ```
///
/// * expected output tokens: mean of the predicted distribution, cut at `max_tokens`;
/// * decode seconds per token: a decode step of one request at 1,024 tokens of context, from the instance's profile,
///   so that the classes carry over between models and accelerators, as in the paper's section 4.2.
///
/// Of the ready instances the first `heavy_share` by number, rounded, take heavy requests and the others the rest, each
/// group at least one; a single instance takes all. Round robin within a group. Load is not looked at.
#[derive(Clone, Debug)]
pub(crate) struct DedicatedSplit {
    options: DedicatedSplitOptions,
    heavy: Turn,
    light: Turn,
    /// Where the light group began at the last decision.
    first_light: Option<InstanceId>,
}

/// Constants of [`DedicatedSplit`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DedicatedSplitOptions {
    /// Decode time from which a request is heavy, in seconds: 5, the paper's.
    pub heavy_seconds: f64,
    /// Share of the instances that take heavy requests: 0.5, the paper's one of two.
    pub heavy_share: f64,
}

impl Default for DedicatedSplitOptions {
    fn default() -> Self {
        Self { heavy_seconds: 5.0, heavy_share: 0.5 }
    }
}

impl DedicatedSplit {
    fn is_heavy(&self, instance: &InstanceState, request: &Request) -> bool {
        expected_output_tokens(request) * unloaded_decode_seconds(instance.config())
            >= self.options.heavy_seconds
    }

    /// How many of `ready` instances take heavy requests.
    fn heavy_instances(&self, ready: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let count = libm::round(self.options.heavy_share * ready as f64) as usize;
        count.clamp(1, (ready - 1).max(1))
    }
}

impl Configurable for DedicatedSplit {
    type Options = DedicatedSplitOptions;

    fn new(options: DedicatedSplitOptions, _seed: u64) -> Result<Self> {
        if !(options.heavy_seconds.is_finite() && options.heavy_seconds > 0.0) {
            return Err(Error::field("heavy_seconds", options.heavy_seconds, "a positive number"));
        }
        if !(0.0..=1.0).contains(&options.heavy_share) {
            return Err(Error::field("heavy_share", options.heavy_share, "a share from 0 to 1"));
        }
        Ok(Self { options, heavy: Turn::default(), light: Turn::default(), first_light: None })
    }
}

impl Policy for DedicatedSplit {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let first = view.ready().next().ok_or_else(|| view.no_instance())?;
        let ready = view.ready().count();
        let split = self.heavy_instances(ready);
        self.first_light = view.ready().nth(split).map(InstanceState::id);
        let chosen = if ready == 1 || self.is_heavy(first, request) {
            self.heavy.next(view.ready().take(split))
        } else {
            self.light.next(view.ready().skip(split))
        };
        chosen.ok_or_else(|| view.no_instance())
    }

    fn dispatched(&mut self, _request: &Request, instance: InstanceId, _now: Picos) {
        if self.first_light.is_none_or(|first| instance < first) {
            self.heavy.took(instance);
        } else {
            self.light.took(instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    // A request on its own decodes a token in 1 ms: 5,000 tokens are heavy.
    const HEAVY: u32 = 5001;
    const LIGHT: u32 = 4999;

    fn policy(heavy_share: f64) -> DedicatedSplit {
        DedicatedSplit::new(DedicatedSplitOptions { heavy_share, ..Default::default() }, 0).unwrap()
    }

    #[test]
    fn each_class_goes_round_its_own_group() {
        let mut cluster = Cluster::new(Needs::default(), 4);
        let mut policy = policy(0.5);
        let outputs = [HEAVY, LIGHT, HEAVY, LIGHT, LIGHT, HEAVY];
        let went: Vec<u32> =
            outputs.iter().map(|&tokens| cluster.route(&mut policy, request(10, tokens))).collect();
        assert_eq!(went, [0, 2, 1, 3, 2, 0]);
    }

    #[test]
    fn each_group_keeps_an_instance_and_a_single_one_takes_all() {
        let mut cluster = Cluster::new(Needs::default(), 3);
        let mut policy = policy(1.0);
        let light = |cluster: &mut Cluster, policy: &mut _| cluster.route(policy, request(10, LIGHT));
        assert_eq!([light(&mut cluster, &mut policy), light(&mut cluster, &mut policy)], [2, 2]);
        cluster.drain(2);
        cluster.drain(1);
        assert_eq!(light(&mut cluster, &mut policy), 0);
    }

    #[test]
    fn bad_constants_are_named() {
        for (heavy_seconds, heavy_share, field) in
            [(0.0, 0.5, "heavy_seconds"), (f64::NAN, 0.5, "heavy_seconds"), (5.0, 1.5, "heavy_share")]
        {
            let error =
                DedicatedSplit::new(DedicatedSplitOptions { heavy_seconds, heavy_share }, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
