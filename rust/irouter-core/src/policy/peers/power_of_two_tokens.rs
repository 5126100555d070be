//! `power_of_two_tokens`: the lower `least_load` score of two random instances.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::smg_least_load::{SCORE_TUNABLE, SmgLeastLoad, SmgLeastLoadOptions, SmgScore};
use crate::policy::configurable::{Configurable, Tunable};
use crate::policy::draws::Draws;
use crate::policy::{ClusterView, Needs, Policy};

/// `power_of_two` of SMG, as of `smg` 1.13 (B6 of the peers' list).
///
/// Two random instances are compared by the score of [`SmgLeastLoad`], in seconds: queued and since dispatched prompt
/// tokens as time, plus a KV pressure term. Constants, defaults and staleness are those of that rule. Of equals the first
/// drawn wins. Output lengths and cached prefixes are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct PowerOfTwoTokens {
    score: SmgScore,
    draws: Draws,
}

impl Configurable for PowerOfTwoTokens {
    type Options = SmgLeastLoadOptions;

    const EQUALISED: &'static str = SmgLeastLoad::EQUALISED;
    const TUNABLE: &'static [Tunable] = SCORE_TUNABLE;

    fn new(options: SmgLeastLoadOptions, seed: u64) -> Result<Self> {
        Ok(Self { score: SmgScore::new(options)?, draws: Draws::new(seed) })
    }
}

impl Policy for PowerOfTwoTokens {
    fn needs(&self) -> Needs {
        self.score.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        self.draws.cheaper_of_two(view, self.score.cost(view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, at, request};

    #[test]
    fn tokens_decide_within_the_pair_and_the_worst_of_three_never_wins() {
        let mut policy = PowerOfTwoTokens::new(SmgLeastLoadOptions::default(), 1).unwrap();
        let mut cluster = Cluster::new(policy.needs(), 3);
        for (instance, queued_prefill_tokens) in [(0, 500), (1, 100), (2, 300)] {
            let report = EngineReport { at: at(10.0), queued_prefill_tokens, ..EngineReport::default() };
            cluster.report(instance, report);
        }
        // One long prompt against three short ones.
        cluster.dispatch(&mut policy, request(1000, 10), 1);
        for _ in 0..3 {
            cluster.dispatch(&mut policy, request(100, 10), 2);
        }
        let mut counts = [0_u32; 3];
        for _ in 0..3000 {
            counts[cluster.place(&mut policy, &request(1, 1)) as usize] += 1;
        }
        // 500, 1,100 and 600 tokens: instance 0 wins both of its pairs, 2/3 of the draws.
        let chi = (f64::from(counts[0]) - 2000.0).powi(2) / 2000.0
            + (f64::from(counts[2]) - 1000.0).powi(2) / 1000.0;
        assert!(counts[1] == 0 && chi < 6.63, "{counts:?}");
    }

    #[test]
    fn a_bad_constant_is_named() {
        let options = SmgLeastLoadOptions { throughput: 0.0, ..Default::default() };
        let error = PowerOfTwoTokens::new(options, 0).err().unwrap();
        assert!(error.to_string().contains("throughput"), "{error}");
    }
}
