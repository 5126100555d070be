//! `max_capacity`: once a second, to the most free KV cache.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::configurable::Configurable;
use super::ticks::Ticks;
use super::{ClusterView, Needs, Policy, QueueView, Verdict};

/// The paper's maximum capacity usage (Jain et al., appendix A.2.2).
///
/// ```text
/// argmax  KV capacity - (prompt + known output tokens of all requests in flight)        (tokens)
/// ```
///
/// among the ready instances with room for the request: a free batch slot, and more free tokens than its prompt has. It
/// decides at ticks, the multiples of `interval_seconds`: then requests go out from the head of the queue until the
/// head fits nowhere; all others wait for the next tick. The paper says "once per second", and does not say whether for
/// one request or for all: one a second could not serve its load of 20 requests per second.
///
/// A tick that comes late, by less than an interval, still counts. Where a request has to go at once, room is not asked
/// for. Ties go to the lowest number.
#[derive(Clone, Debug)]
pub(crate) struct MaxCapacity {
    ticks: Ticks,
}

/// Constants of [`MaxCapacity`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MaxCapacityOptions {
    /// Seconds between ticks: 1, the paper's.
    pub interval_seconds: f64,
}

impl Default for MaxCapacityOptions {
    fn default() -> Self {
        Self { interval_seconds: 1.0 }
    }
}

fn free_tokens(instance: &InstanceState) -> u64 {
    instance.kv_capacity_tokens().saturating_sub(instance.context_tokens())
}

fn has_room(instance: &InstanceState, request: &Request) -> bool {
    instance.in_flight() < instance.config().scheduler.max_num_seqs
        && free_tokens(instance) > u64::from(request.prompt_tokens)
}

impl Configurable for MaxCapacity {
    type Options = MaxCapacityOptions;

    fn new(options: MaxCapacityOptions, _seed: u64) -> Result<Self> {
        let interval =
            Picos::from_seconds(options.interval_seconds).filter(|interval| *interval > Picos::ZERO);
        let interval = interval.ok_or_else(|| {
            Error::field("interval_seconds", options.interval_seconds, "a positive number of seconds")
        })?;
        Ok(Self { ticks: Ticks::new(interval) })
    }
}

impl Policy for MaxCapacity {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        view.lowest(|instance| -(free_tokens(instance) as f64))
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        if view.ready().next().is_none() {
            return Err(view.no_instance());
        }
        if self.ticks.is_open(view.now)
            && let Some(head) = queue.head()
        {
            // The last of equals by reversed number is the lowest number.
            let roomy = view.ready().filter(|instance| has_room(instance, head.request));
            let most = roomy.max_by_key(|instance| (free_tokens(instance), std::cmp::Reverse(instance.id())));
            if let Some(instance) = most {
                return Ok(Verdict::Dispatch { request: head.key, instance: instance.id() });
            }
        }
        Ok(Verdict::Hold { until: Some(self.ticks.next(view.now)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, at, request};

    fn policy() -> MaxCapacity {
        MaxCapacity::new(MaxCapacityOptions::default(), 0).unwrap()
    }

    const HOLD: Option<u32> = None;

    #[test]
    fn requests_go_out_at_ticks_to_the_most_free_cache() {
        let mut policy = policy();
        let mut cluster = Cluster::new(policy.needs(), 3);
        cluster.dispatch(&mut policy, request(600, 100), 0);
        cluster.dispatch(&mut policy, request(200, 100), 1);
        cluster.dispatch(&mut policy, request(500, 100), 2);
        for _ in 0..3 {
            cluster.wait(&mut policy, request(250, 10));
        }
        assert_eq!(cluster.decide(&mut policy, at(3.2)), (HOLD, Some(at(4.0))));
        assert_eq!(cluster.decide(&mut policy, at(3.9)), (HOLD, Some(at(4.0))));
        // The timer fires a little late; the tick counts for all that wait.
        let went: Vec<_> = (0..3).map(|_| cluster.decide(&mut policy, at(4.001)).0).collect();
        assert_eq!(went, [Some(1), Some(1), Some(2)]);
        cluster.wait(&mut policy, request(250, 10));
        assert_eq!(cluster.decide(&mut policy, at(4.5)), (HOLD, Some(at(5.0))), "this tick is over");
    }

    #[test]
    fn the_head_waits_for_room_and_nobody_overtakes_it() {
        let mut policy = policy();
        let mut cluster = Cluster::new(policy.needs(), 1);
        let capacity = Cluster::CAPACITY_TOKENS;
        let resident = cluster.dispatch(&mut policy, request(capacity - 100, 10), 0);
        cluster.wait(&mut policy, request(100, 10));
        cluster.wait(&mut policy, request(10, 10));
        assert_eq!(cluster.decide(&mut policy, at(1.0)), (HOLD, Some(at(2.0))));
        cluster.finish(&mut policy, resident);
        assert_eq!(cluster.decide(&mut policy, at(2.0)).0, Some(0));
    }

    #[test]
    fn a_bad_interval_is_named() {
        for interval_seconds in [0.0, -1.0, f64::NAN] {
            let error = MaxCapacity::new(MaxCapacityOptions { interval_seconds }, 0).err().unwrap();
            assert!(error.to_string().contains("interval_seconds"), "{error}");
        }
    }
}
