//! `decode_balancer`: the fewest true output tokens assigned (an oracle).

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::time::Picos;

use super::configurable::{Configurable, NoOptions};
use super::estimate::{TokenTally, true_output_tokens};
use super::{ClusterView, End, Needs, Policy};

/// The paper's decode balancer (Jain et al., appendix A.1.6): it knows the true output lengths and balances their sum.
///
/// ```text
/// argmin  sum of the true output tokens of the requests in flight        (tokens)
/// ```
///
/// Only requests in flight count, and each with its whole output: the paper does not say more, and a sum over all time
/// would charge an instance for ever for having been there first. Prompts do not count. Ties go to the lowest number.
/// No constants. For comparison only: a request without a true length is an error.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecodeBalancer {
    assigned: TokenTally,
}

impl Configurable for DecodeBalancer {
    type Options = NoOptions;

    fn new(_options: NoOptions, _seed: u64) -> Result<Self> {
        Ok(Self::default())
    }
}

impl Policy for DecodeBalancer {
    fn needs(&self) -> Needs {
        Needs { counts: true, truth: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        true_output_tokens(request)?;
        view.lowest(|instance| self.assigned.tokens(instance.id()) as f64)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, _now: Picos) {
        self.assigned.add(instance, request.true_output_tokens.unwrap_or(0));
    }

    fn released(&mut self, request: &Request, instance: InstanceId, _end: End) {
        self.assigned.take(instance, request.true_output_tokens.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    fn of_length(tokens: u32) -> Request {
        Request { true_output_tokens: Some(tokens), ..request(100, 1) }
    }

    #[test]
    fn true_output_tokens_in_flight_are_balanced() {
        let mut policy = DecodeBalancer::default();
        let mut cluster = Cluster::new(policy.needs(), 2);
        let went = [700, 300, 300, 200].map(|tokens| cluster.route(&mut policy, of_length(tokens)));
        assert_eq!(went, [0, 1, 1, 1]);
        let long = cluster.dispatch(&mut policy, of_length(500), 0);
        cluster.finish(&mut policy, long);
        assert_eq!(cluster.place(&mut policy, &of_length(1)), 0, "700 against 800");
    }

    #[test]
    fn without_a_true_length_it_refuses() {
        let cluster = Cluster::new(Needs::default(), 1);
        let error = cluster.try_place(&mut DecodeBalancer::default(), &request(1, 1)).unwrap_err();
        assert!(error.to_string().contains("true_output_tokens"), "{error}");
    }
}
