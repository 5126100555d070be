//! `least_work`: the least predicted work.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use super::configurable::{Configurable, NoOptions};
use super::estimate::{expected_output_tokens, work_with};
use super::{ClusterView, Needs, Policy};

/// Least predicted work, the request's own included (B25 of the peers' list).
///
/// ```text
/// argmin  p x (queued prompt tokens + own uncached prompt tokens) + d x (remaining output + own output)        (seconds)
/// ```
///
/// * queued prompt tokens: of the requests whose first token has not come, less what the prefix index expects to be cached;
/// * own uncached prompt tokens: what this request would have to compute there, so that a cached prefix attracts it by
///   the time it saves and no more;
/// * remaining output: the expected remainder of each request in flight given what it has produced, from its prediction;
/// * own output: the same on equal instances; it tells fast from slow ones;
/// * `p`, `d`: seconds per token of the instance with full batches ([`crate::state::WorkRates`]), so that instances of
///   different speed compare.
///
/// Without block hashes nothing is expected to be cached. Ties go to the lowest number. No constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeastWork;

impl Configurable for LeastWork {
    type Options = NoOptions;

    fn new(_options: NoOptions, _seed: u64) -> Result<Self> {
        Ok(Self)
    }
}

impl Policy for LeastWork {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let output = expected_output_tokens(request);
        view.lowest(|instance| work_with(instance, request, output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    #[test]
    fn prompt_and_output_tokens_count_by_the_time_they_take() {
        let mut cluster = Cluster::new(LeastWork.needs(), 2);
        let mut policy = LeastWork;
        // 0.1 ms per prompt token, 1 ms per output token: 0.21 s against 0.25 s.
        cluster.dispatch(&mut policy, request(2000, 10), 0);
        cluster.dispatch(&mut policy, request(500, 200), 1);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 0);
        cluster.dispatch(&mut policy, request(100, 40), 0);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1);
    }

    #[test]
    fn a_cached_prefix_attracts_by_the_time_it_saves_and_no_more() {
        let mut cluster = Cluster::new(LeastWork.needs(), 2);
        let mut policy = LeastWork;
        let turn = with_blocks(1024, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 0);
        cluster.finish(&mut policy, first);
        // 63 of 64 blocks are expected to be cached on instance 0 (one token is always computed): 0.1008 s saved.
        cluster.dispatch(&mut policy, request(1, 100), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 0, "0.1001 s of work there, 0.1008 s saved");
        cluster.dispatch(&mut policy, request(1, 1), 0);
        assert_eq!(cluster.place(&mut policy, &turn), 1, "0.1012 s of work there");
    }
}
