//! `lmetric`: prefill tokens times batch size.

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;

use crate::policy::configurable::{Configurable, NoOptions};
use crate::policy::draws::Draws;
use crate::policy::estimate::uncached_tokens;
use crate::policy::{ClusterView, Needs, Policy};

/// The rule of the `LMetric` paper (OSDI'26): a product without weights.
///
/// ```text
/// argmin  (queued prompt tokens + own uncached prompt tokens) x (n + 1)        (tokens x requests)
/// ```
///
/// * queued prompt tokens: of the requests whose first token has not come, less what was cached: the time until this
///   request's own prefill begins;
/// * own uncached prompt tokens: what this request would compute there, so that a cached prefix attracts it;
/// * `n`: requests in flight, the batch that it would slow down and be slowed down by. This request is counted too:
///   otherwise every idle instance would cost 0 whatever it has cached.
///
/// A product needs no exchange rate between its two terms: each only has to rank. Without block hashes nothing counts
/// as cached. Output lengths are not known to it. Ties are broken at random. No constants.
#[derive(Clone, Debug)]
pub(crate) struct Lmetric {
    draws: Draws,
}

impl Configurable for Lmetric {
    type Options = NoOptions;

    fn new(_options: NoOptions, seed: u64) -> Result<Self> {
        Ok(Self { draws: Draws::new(seed) })
    }
}

impl Policy for Lmetric {
    fn needs(&self) -> Needs {
        Needs { counts: true, prefix: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        self.draws.lowest(view, |instance| {
            let tokens = instance.queued_prefill_tokens() + u64::from(uncached_tokens(instance, request));
            tokens as f64 * (f64::from(instance.in_flight()) + 1.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    #[test]
    fn the_product_of_prefill_tokens_and_batch_decides() {
        let mut policy = Lmetric::new(NoOptions {}, 0).unwrap();
        let mut cluster = Cluster::new(policy.needs(), 2);
        let started = cluster.dispatch(&mut policy, request(5000, 10), 0);
        cluster.progress(started, 1);
        cluster.dispatch(&mut policy, request(99, 10), 1);
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 0, "100 x 2 against 199 x 2");
        let started = cluster.dispatch(&mut policy, request(5000, 10), 0);
        cluster.progress(started, 1);
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 0, "100 x 3 against 199 x 2");
        let started = cluster.dispatch(&mut policy, request(5000, 10), 0);
        cluster.progress(started, 1);
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 1, "100 x 4 against 199 x 2");
    }

    #[test]
    fn an_idle_instance_with_the_prefix_is_better_than_one_without() {
        let mut policy = Lmetric::new(NoOptions {}, 0).unwrap();
        let mut cluster = Cluster::new(policy.needs(), 3);
        let turn = with_blocks(320, 10, 1);
        let first = cluster.dispatch(&mut policy, turn.clone(), 2);
        cluster.finish(&mut policy, first);
        assert_eq!(cluster.place(&mut policy, &turn), 2);
    }
}
