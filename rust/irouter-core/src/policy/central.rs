//! `central_fcfs` and `central_shortest`: requests wait at the router, not in the engines.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::{InstanceState, Twin};

use super::estimate::{expected_output_tokens, work_with};
use super::registry::Configurable;
use super::{ClusterView, Needs, Policy, QueueView, Verdict};

/// Constants of [`CentralFcfs`], and of the queue that [`CentralShortest`] has in common with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CentralFcfsOptions {
    /// Requests that may wait in an engine's own queue for a batch slot: 2.
    pub lookahead_requests: u32,
    /// KV blocks left free for the growth of each request in flight: 1.
    pub growth_blocks: f64,
}

impl Default for CentralFcfsOptions {
    fn default() -> Self {
        Self { lookahead_requests: 2, growth_blocks: 1.0 }
    }
}

impl CentralFcfsOptions {
    fn validate(&self) -> Result<()> {
        if !(self.growth_blocks.is_finite() && self.growth_blocks >= 0.0) {
            return Err(Error::field("growth_blocks", self.growth_blocks, "zero or more"));
        }
        Ok(())
    }

    /// Whether the instance may have the request now.
    ///
    /// ```text
    /// in flight < max_num_seqs + lookahead_requests
    /// and  used + queued + own + growth_blocks x in flight <= KV blocks
    /// ```
    ///
    /// * used: blocks of the running requests in the twin, shared ones once;
    /// * queued: blocks of prompts not yet computed, by the twin; while requests are on their way to the engine, which
    ///   the twin does not count, at least those of all requests without a first token;
    /// * own: blocks of the whole prompt, since cached blocks that nobody uses count as free;
    /// * growth: one block is what a request gains in 16 steps. Without it an engine admits prompts into the last
    ///   blocks, and preempts somebody a few steps later; much more leaves cache unused.
    ///
    /// An idle instance always has room, for no request is longer than the KV cache.
    ///
    /// The look-ahead keeps the engine's own queue supplied when its batch slots run out: a slot that becomes free is
    /// filled at the next step from there. From the router it would stay empty until the event has come and the request
    /// has gone, which costs a whole step. Two, since an engine with 256 slots and outputs of 200 tokens frees 1.3 a
    /// step; more than a step frees would only bind early. There is no look-ahead beyond the KV cache: whatever waits
    /// in the engine's queue is admitted as soon as its prompt fits, growth or not, and the preemptions that follow cost
    /// far more than the round trip.
    fn has_room(&self, instance: &InstanceState, request: &Request) -> bool {
        let in_flight = instance.in_flight();
        let config = instance.config();
        let load = instance.twin().map(Twin::load).unwrap_or_default();
        let arrived = load.waiting + load.running >= in_flight;
        let told = if arrived { 0 } else { instance.queued_prefill_tokens() };
        let queued = load.queued_prefill_tokens.max(told);
        let block_tokens = u64::from(config.kv.block_tokens);
        let blocks = u64::from(load.used_blocks)
            + queued.div_ceil(block_tokens)
            + u64::from(request.prompt_tokens).div_ceil(block_tokens);
        in_flight < config.scheduler.max_num_seqs.saturating_add(self.lookahead_requests)
            && self.growth_blocks.mul_add(f64::from(in_flight), blocks as f64) <= f64::from(config.kv.blocks)
    }

    /// The instance with the least predicted work among those with room; `None` when none has.
    fn roomiest(&self, view: &ClusterView<'_>, request: &Request) -> Option<InstanceId> {
        let output = expected_output_tokens(request);
        let mut least: Option<(f64, InstanceId)> = None;
        for instance in view.ready().filter(|instance| self.has_room(instance, request)) {
            let work = work_with(instance, request, output);
            if least.is_none_or(|(lowest, _)| work < lowest) {
                least = Some((work, instance.id()));
            }
        }
        least.map(|(_, id)| id)
    }

    fn place(&self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let output = expected_output_tokens(request);
        match self.roomiest(view, request) {
            Some(instance) => Ok(instance),
            None => view.lowest(|instance| work_with(instance, request, output)),
        }
    }

    fn decide(&self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        let chosen = queue.head().and_then(|head| Some((head.key, self.roomiest(view, head.request)?)));
        match chosen {
            Some((request, instance)) => Ok(Verdict::Dispatch { request, instance }),
            None if view.ready().next().is_none() => Err(view.no_instance()),
            // Every ready instance has requests in flight, so that an event is to come.
            None => Ok(Verdict::Hold { until: None }),
        }
    }
}

/// What both policies read.
const NEEDS: Needs =
    Needs { counts: true, progress: true, twin: true, prefix: true, truth: false, reports: None };

/// A central queue in order of arrival: late binding alone.
///
/// The head of the queue goes to the instance with the least predicted work, own uncached prefill included
/// ([`super::LeastWork`]), among those that have room for it: enough free KV cache by the twin, and a free batch slot or one
/// of `lookahead_requests` places in the engine's own queue. When none has room, it waits for the next event, and nobody
/// overtakes it. Where a request has to go at once, it goes by least work whether there is room or not.
///
/// A request that waits here instead of in an engine goes to whichever instance frees up first. Ties go to the lowest
/// number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CentralFcfs {
    options: CentralFcfsOptions,
}

impl Configurable for CentralFcfs {
    type Options = CentralFcfsOptions;

    fn new(options: CentralFcfsOptions, _seed: u64) -> Result<Self> {
        options.validate()?;
        Ok(Self { options })
    }
}

impl Policy for CentralFcfs {
    fn needs(&self) -> Needs {
        NEEDS
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        self.options.place(view, request)
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        self.options.decide(view, queue)
    }
}

/// The queue of [`CentralFcfs`] in order of predicted work, shortest first, with linear ageing.
///
/// ```text
/// order = predicted work + ageing x arrival time        (seconds; lower first)
/// ```
///
/// * predicted work: prompt and expected output at the rates of an instance with full batches, as of its arrival;
/// * ageing: a request that has waited `t` seconds longer goes before one with up to `ageing x t` seconds less work. All
///   keys age alike, so that their order does not depend on the time and each is computed once.
///
/// With 0.005 a request of 1,000 more output tokens than another (0.076 s of an H100's time with an 8B model) goes first
/// once it has waited 15 s longer: the mean gains from the order, and the tail stays bounded by it and by the router's
/// limit on overtaking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CentralShortest {
    queue: CentralFcfsOptions,
    ageing: f64,
}

/// Constants of [`CentralShortest`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CentralShortestOptions {
    /// As of [`CentralFcfsOptions`]: 2.
    pub lookahead_requests: u32,
    /// As of [`CentralFcfsOptions`]: 1.
    pub growth_blocks: f64,
    /// Seconds of predicted work that a second of waiting makes up for: 0.005.
    pub ageing: f64,
}

impl Default for CentralShortestOptions {
    fn default() -> Self {
        let CentralFcfsOptions { lookahead_requests, growth_blocks } = CentralFcfsOptions::default();
        Self { lookahead_requests, growth_blocks, ageing: 0.005 }
    }
}

impl Configurable for CentralShortest {
    type Options = CentralShortestOptions;

    fn new(options: CentralShortestOptions, _seed: u64) -> Result<Self> {
        let CentralShortestOptions { lookahead_requests, growth_blocks, ageing } = options;
        let queue = CentralFcfsOptions { lookahead_requests, growth_blocks };
        queue.validate()?;
        if !(ageing.is_finite() && ageing >= 0.0) {
            return Err(Error::field("ageing", ageing, "zero or more"));
        }
        Ok(Self { queue, ageing })
    }
}

impl Policy for CentralShortest {
    fn needs(&self) -> Needs {
        NEEDS
    }

    fn order_key(&self, request: &Request, work_seconds: f64) -> f64 {
        self.ageing.mul_add(request.arrival.as_seconds(), work_seconds)
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        self.queue.place(view, request)
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        self.queue.decide(view, queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{BLOCKS, Cluster, SLOTS, at, request};

    fn fcfs(options: CentralFcfsOptions) -> CentralFcfs {
        CentralFcfs::new(options, 0).unwrap()
    }

    /// Dispatches until the policy holds; the instances chosen.
    fn decide_all(cluster: &mut Cluster, policy: &mut impl Policy, seconds: f64) -> Vec<u32> {
        std::iter::from_fn(|| cluster.decide(policy, at(seconds)).0).collect()
    }

    #[test]
    fn batch_slots_are_filled_by_least_work_and_then_the_look_ahead() {
        let mut policy = fcfs(CentralFcfsOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 2);
        for _ in 0..2 * SLOTS + 10 {
            cluster.wait(&mut policy, request(16, 100));
        }
        let first = decide_all(&mut cluster, &mut policy, 0.0);
        assert_eq!(first, [0, 1].repeat(SLOTS as usize + 2), "equal work: in turn, two beyond the slots");
        let load = |cluster: &Cluster, instance| cluster.instance(instance).twin().unwrap().load();
        cluster.set_now(0.5);
        assert_eq!([0, 1].map(|instance| load(&cluster, instance).waiting), [2, 2]);
        assert!(decide_all(&mut cluster, &mut policy, 0.6).is_empty());
    }

    #[test]
    fn a_freed_slot_is_given_to_the_engine_that_freed_it() {
        let mut policy = fcfs(CentralFcfsOptions { lookahead_requests: 0, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        let keys: Vec<_> =
            (0..2 * SLOTS).map(|i| cluster.dispatch(&mut policy, request(16, 100), i % 2)).collect();
        cluster.wait(&mut policy, request(16, 100));
        cluster.wait(&mut policy, request(16, 100));
        assert!(decide_all(&mut cluster, &mut policy, 0.5).is_empty());
        cluster.finish(&mut policy, keys[5]);
        assert_eq!(decide_all(&mut cluster, &mut policy, 0.6), [1]);
    }

    #[test]
    fn the_kv_cache_is_filled_to_the_growth_reserve() {
        let mut policy = fcfs(CentralFcfsOptions { lookahead_requests: 0, growth_blocks: 10.0 });
        let mut cluster = Cluster::new(policy.needs(), 1);
        let prompt = |blocks: u32| request(16 * blocks, 1000);
        // Two on their way: 600 blocks queued and 20 for growth leave 404.
        cluster.dispatch(&mut policy, prompt(300), 0);
        cluster.dispatch(&mut policy, prompt(300), 0);
        cluster.set_now(0.0);
        let room = |cluster: &Cluster, policy: &CentralFcfs, blocks: u32| {
            policy.options.has_room(cluster.instance(0), &prompt(blocks))
        };
        assert!(room(&cluster, &policy, BLOCKS - 620) && !room(&cluster, &policy, BLOCKS - 619));
        // Computed, the blocks are in use instead: 600 and what they have grown.
        cluster.set_now(2.0);
        let load = cluster.instance(0).twin().unwrap().load();
        assert_eq!((load.running, load.queued_prefill_tokens), (2, 0));
        assert!(load.used_blocks > 600, "{load:?}");
        cluster.wait(&mut policy, prompt(1));
        cluster.wait(&mut policy, prompt(1000));
        assert_eq!(decide_all(&mut cluster, &mut policy, 2.0), [0], "the long prompt waits");
    }

    #[test]
    fn an_idle_instance_takes_whatever_can_run_and_one_that_must_take_more_does() {
        let mut policy = fcfs(CentralFcfsOptions { lookahead_requests: 0, growth_blocks: 1e9 });
        let mut cluster = Cluster::new(policy.needs(), 1);
        assert!(policy.options.has_room(cluster.instance(0), &request(16 * BLOCKS - 1, 10)));
        cluster.dispatch(&mut policy, request(16, 10), 0);
        assert!(!policy.options.has_room(cluster.instance(0), &request(16, 10)));
        assert_eq!(cluster.place(&mut policy, &request(16, 10)), 0);
    }

    #[test]
    fn the_shortest_go_first_and_waiting_makes_up_for_work() {
        let options = CentralShortestOptions { ageing: 0.1, ..Default::default() };
        let mut policy = CentralShortest::new(options, 0).unwrap();
        let mut cluster = Cluster::new(policy.needs(), 1);
        // Work of 1.01, 0.51 and 0.11 s; the last comes 10 s later, which weighs 1 s.
        cluster.wait(&mut policy, request(100, 1000));
        cluster.wait(&mut policy, request(200, 490));
        cluster.wait(&mut policy, Request { arrival: at(10.0), ..request(300, 80) });
        let order = [(); 3].map(|()| {
            cluster.decide(&mut policy, at(10.0));
            cluster.last_prompt_tokens()
        });
        assert_eq!(order, [200, 100, 300]);
    }

    #[test]
    fn bad_constants_are_named() {
        let error = CentralFcfs::new(CentralFcfsOptions { growth_blocks: -1.0, ..Default::default() }, 0)
            .err()
            .unwrap();
        assert!(error.to_string().contains("growth_blocks"), "{error}");
        let error =
            CentralShortest::new(CentralShortestOptions { ageing: f64::NAN, ..Default::default() }, 0);
        assert!(error.err().unwrap().to_string().contains("ageing"));
    }
}
