//! `join_shortest_queue`: the fewest tokens still to process.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::configurable::{Configurable, NoOptions};
use super::{ClusterView, Needs, Policy};

/// The paper's join-shortest-queue (Jain et al., appendix A.2.1).
///
/// ```text
/// argmin  prompt tokens still to compute + output tokens still to come        (tokens)
/// ```
///
/// * prompt tokens: of the requests whose first token has not come, all of them: the paper knows no prefix cache;
/// * output tokens: the expected remainder of each request in flight given what it has produced, from its prediction.
///
/// A prompt token counts as much as an output token, which takes an engine much longer: [`super::LeastWork`] weighs
/// them. Ties go to the lowest number. No constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JoinShortestQueue;

impl Configurable for JoinShortestQueue {
    type Options = NoOptions;

    fn new(_options: NoOptions, _seed: u64) -> Result<Self> {
        Ok(Self)
    }
}

impl Policy for JoinShortestQueue {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|instance| instance.queued_prefill_tokens() as f64 + instance.remaining_output_tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request};

    #[test]
    fn tokens_still_to_process_decide() {
        let mut cluster = Cluster::new(JoinShortestQueue.needs(), 2);
        let mut policy = JoinShortestQueue;
        let long = cluster.dispatch(&mut policy, request(100, 800), 0);
        cluster.dispatch(&mut policy, request(500, 100), 1);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1, "900 against 600");
        cluster.progress(long, 400);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 0, "400 against 600");
    }
}
