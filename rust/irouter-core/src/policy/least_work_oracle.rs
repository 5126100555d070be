//! `least_work_oracle`: the least work by true lengths (an oracle).

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::time::Picos;

use super::configurable::{Configurable, NoOptions};
use super::estimate::{TokenTally, true_output_tokens, uncached_tokens};
use super::{ClusterView, End, Needs, Policy};

/// [`super::LeastWork`] with the true output lengths in place of the predicted ones: what perfect prediction would be
/// worth to it. The output still to come is the sum of the true lengths of the requests in flight less what they are
/// known to have produced. Ties go to the lowest number. No constants. For comparison only: a request without a true
/// length is an error.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeastWorkOracle {
    outputs: TokenTally,
}

impl Configurable for LeastWorkOracle {
    type Options = NoOptions;

    fn new(_options: NoOptions, _seed: u64) -> Result<Self> {
        Ok(Self::default())
    }
}

impl Policy for LeastWorkOracle {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, prefix: true, truth: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let own = u64::from(true_output_tokens(request)?);
        view.lowest(|instance| {
            let prompt = instance.queued_prefill_tokens() + u64::from(uncached_tokens(instance, request));
            let output = self.outputs.tokens(instance.id()).saturating_sub(instance.produced_tokens()) + own;
            instance.rates().seconds(prompt as f64, output as f64)
        })
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.outputs.add(instance, request.true_output_tokens.unwrap_or(0));
    }

    fn released(&mut self, request: &Request, instance: InstanceId, _end: End) {
        self.outputs.take(instance, request.true_output_tokens.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    fn of_length(prompt: u32, tokens: u32) -> Request {
        // The prediction is wrong on purpose.
        Request { true_output_tokens: Some(tokens), ..request(prompt, 8000) }
    }

    #[test]
    fn true_work_still_to_do_decides() {
        let mut policy = LeastWorkOracle::default();
        let mut cluster = Cluster::new(policy.needs(), 2);
        let long = cluster.dispatch(&mut policy, of_length(100, 700), 0);
        cluster.dispatch(&mut policy, of_length(2000, 400), 1);
        assert_eq!(cluster.place(&mut policy, &of_length(1, 1)), 1, "0.71 s against 0.60 s");
        cluster.progress(long, 200);
        assert_eq!(cluster.place(&mut policy, &of_length(1, 1)), 0, "0.50 s against 0.60 s");
        cluster.finish(&mut policy, long);
        assert_eq!(policy.outputs.tokens(InstanceId(0)), 0);
    }
}
