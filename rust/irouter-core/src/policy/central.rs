//! The central queue: requests wait at the router, not in the engines.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::{Effort, InstanceState};
use crate::time::Picos;

use super::configurable::{Configurable, NoOptions, Scale, Tunable};
use super::least_work::LeastWork;
use super::room::{FreeBlocks, Room};
use super::{ClusterView, End, Needs, Policy, QueueView, Verdict};

/// A rule that places requests at once, behind a central queue: late binding for any of them.
///
/// The head of the queue goes where the rule says among the instances that have [`Room`] for it: enough free KV cache by the
/// twin, and a free batch slot or one of a few places in the engine's own queue. When none has, it waits for the next
/// event, and nobody overtakes it. A request that waits here instead of in an engine goes to whichever instance frees up
/// first. Where one has to go at once and none has room, it goes where the rule says among all.
///
/// `central_fcfs` and `central_shortest` are this around [`LeastWork`]; `queued:NAME` and `queued-shortest:NAME` around any
/// other policy, of which only [`Policy::place`] is asked.
pub(crate) struct Central<O, R> {
    rule: Box<dyn Policy>,
    room: R,
    order: O,
    /// By number, whether an instance has room for the head of the queue.
    eligible: Vec<bool>,
}

/// In which order requests leave a central queue.
pub(crate) trait Order: Send {
    /// Lower goes first.
    fn key(&self, request: &Request, work_seconds: f64) -> f64;
}

/// In order of arrival.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByArrival;

impl Order for ByArrival {
    fn key(&self, request: &Request, _work_seconds: f64) -> f64 {
        request.arrival.as_seconds()
    }
}

/// By predicted work, shortest first, with linear ageing.
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
pub(crate) struct ShortestFirst {
    ageing: f64,
}

impl Default for ShortestFirst {
    fn default() -> Self {
        Self { ageing: CentralShortestOptions::default().ageing }
    }
}

impl ShortestFirst {
    /// # Errors
    /// [`Error::Field`] for a negative `ageing`.
    pub(super) fn new(ageing: f64) -> Result<Self> {
        if ageing.is_finite() && ageing >= 0.0 {
            Ok(Self { ageing })
        } else {
            Err(Error::field("ageing", ageing, "zero or more"))
        }
    }
}

impl Order for ShortestFirst {
    fn key(&self, request: &Request, work_seconds: f64) -> f64 {
        self.ageing.mul_add(request.arrival.as_seconds(), work_seconds)
    }
}

impl<O: Order, R: Room> Central<O, R> {
    /// `rule` behind the queue.
    pub(super) fn around(rule: Box<dyn Policy>, order: O, room: R) -> Self {
        Self { rule, room, order, eligible: Vec::new() }
    }

    /// Where the rule sends the request, of the instances that have room for it.
    fn place_in_room(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let view = view.only(&self.eligible);
        let instance = self.rule.place(&view, request)?;
        // The router would not notice: it only knows who is ready.
        if view.offers(instance) {
            Ok(instance)
        } else {
            let message = format!("it chose {instance}, which has no room");
            Err(Error::Policy { policy: "the queued rule".to_owned(), message })
        }
    }

    /// Notes which instances have room for the request; says whether one has.
    fn find_room(&mut self, view: &ClusterView<'_>, request: &Request) -> bool {
        let has_room =
            |instance: &InstanceState| view.offers(instance.id()) && self.room.is_in(view, instance, request);
        self.eligible.clear();
        self.eligible.extend(view.instances.iter().map(has_room));
        self.eligible.contains(&true)
    }
}

impl<O: Order, R: Room> Policy for Central<O, R> {
    fn needs(&self) -> Needs {
        let own = Needs { counts: true, twin: true, prefix: true, ..Needs::default() };
        self.rule.needs().and(own)
    }

    fn order_key(&self, request: &Request, effort: Effort) -> f64 {
        self.order.key(request, effort.work_seconds)
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        if self.find_room(view, request) {
            self.place_in_room(view, request)
        } else {
            self.rule.place(view, request)
        }
    }

    fn decide(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) -> Result<Verdict> {
        if view.ready().next().is_none() {
            return Err(view.no_instance());
        }
        match queue.head() {
            Some(head) if self.find_room(view, head.request) => {
                let instance = self.place_in_room(view, head.request)?;
                Ok(Verdict::Dispatch { request: head.key, instance })
            }
            // Every ready instance has requests in flight, so that an event is to come.
            _ => Ok(Verdict::Hold { until: None }),
        }
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.rule.dispatched(request, instance, now);
    }

    fn first_token(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.rule.first_token(request, instance, now);
    }

    fn progressed(&mut self, request: &Request, instance: InstanceId, tokens: u32) {
        self.rule.progressed(request, instance, tokens);
    }

    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        self.rule.released(request, instance, end);
    }

    fn left(&mut self, instance: InstanceId) {
        self.rule.left(instance);
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        self.rule.figures()
    }
}

/// `central_fcfs`: [`LeastWork`] behind a queue in order of arrival, late binding alone.
impl Configurable for Central<ByArrival, FreeBlocks> {
    type Options = FreeBlocks;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "lookahead_requests", low: 0.0, high: 32.0, scale: Scale::Count },
        Tunable { option: "growth_blocks", low: 0.0, high: 16.0, scale: Scale::Linear },
    ];

    fn new(room: FreeBlocks, seed: u64) -> Result<Self> {
        room.validate()?;
        Ok(Self::around(Box::new(LeastWork::new(NoOptions {}, seed)?), ByArrival, room))
    }
}

/// Constants of `central_shortest`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CentralShortestOptions {
    /// As of [`FreeBlocks`]: 2.
    pub lookahead_requests: u32,
    /// As of [`FreeBlocks`]: 1.
    pub growth_blocks: f64,
    /// Seconds of predicted work that a second of waiting makes up for: 0.005.
    pub ageing: f64,
}

impl Default for CentralShortestOptions {
    fn default() -> Self {
        let FreeBlocks { lookahead_requests, growth_blocks } = FreeBlocks::default();
        Self { lookahead_requests, growth_blocks, ageing: 0.005 }
    }
}

/// `central_shortest`: [`LeastWork`] behind a queue that is [`ShortestFirst`].
impl Configurable for Central<ShortestFirst, FreeBlocks> {
    type Options = CentralShortestOptions;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "lookahead_requests", low: 0.0, high: 32.0, scale: Scale::Count },
        Tunable { option: "growth_blocks", low: 0.0, high: 16.0, scale: Scale::Linear },
        Tunable { option: "ageing", low: 0.0005, high: 0.5, scale: Scale::Logarithmic },
    ];

    fn new(options: CentralShortestOptions, seed: u64) -> Result<Self> {
        let CentralShortestOptions { lookahead_requests, growth_blocks, ageing } = options;
        let room = FreeBlocks { lookahead_requests, growth_blocks };
        room.validate()?;
        let order = ShortestFirst::new(ageing)?;
        Ok(Self::around(Box::new(LeastWork::new(NoOptions {}, seed)?), order, room))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::policy::testing::{BLOCKS, Cluster, SLOTS, at, request};

    fn fcfs(room: FreeBlocks) -> Central<ByArrival, FreeBlocks> {
        Central::new(room, 0).unwrap()
    }

    /// Dispatches until the policy holds; the instances chosen.
    fn decide_all(cluster: &mut Cluster, policy: &mut impl Policy, seconds: f64) -> Vec<u32> {
        std::iter::from_fn(|| cluster.decide(policy, at(seconds)).0).collect()
    }

    #[test]
    fn batch_slots_are_filled_by_least_work_and_then_the_look_ahead() {
        let mut policy = fcfs(FreeBlocks::default());
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
        let mut policy = fcfs(FreeBlocks { lookahead_requests: 0, ..Default::default() });
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
        let mut policy = fcfs(FreeBlocks { lookahead_requests: 0, growth_blocks: 10.0 });
        let mut cluster = Cluster::new(policy.needs(), 1);
        let prompt = |blocks: u32| request(16 * blocks, 1000);
        // Two on their way: 600 blocks queued and 20 for growth leave 404.
        cluster.dispatch(&mut policy, prompt(300), 0);
        cluster.dispatch(&mut policy, prompt(300), 0);
        cluster.set_now(0.0);
        let room = |cluster: &Cluster, policy: &Central<ByArrival, FreeBlocks>, blocks: u32| {
            policy.room.is_in(&cluster.view(), cluster.instance(0), &prompt(blocks))
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
        let mut policy = fcfs(FreeBlocks { lookahead_requests: 0, growth_blocks: 1e9 });
        let mut cluster = Cluster::new(policy.needs(), 1);
        assert!(policy.room.is_in(&cluster.view(), cluster.instance(0), &request(16 * BLOCKS - 1, 10)));
        cluster.dispatch(&mut policy, request(16, 10), 0);
        assert!(!policy.room.is_in(&cluster.view(), cluster.instance(0), &request(16, 10)));
        assert_eq!(cluster.place(&mut policy, &request(16, 10)), 0);
    }

    #[test]
    fn the_shortest_go_first_and_waiting_makes_up_for_work() {
        let options = CentralShortestOptions { ageing: 0.1, ..Default::default() };
        let mut policy = Central::<ShortestFirst, FreeBlocks>::new(options, 0).unwrap();
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

    /// Passes on which hooks were called.
    struct Listener(Sender<&'static str>);

    impl Policy for Listener {
        fn needs(&self) -> Needs {
            Needs { progress: true, ..Needs::default() }
        }

        fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
            view.lowest(|_| 0.0)
        }

        fn dispatched(&mut self, _request: &Request, _instance: InstanceId, _now: Picos) {
            self.0.send("dispatched").unwrap();
        }

        fn first_token(&mut self, _request: &Request, _instance: InstanceId, _now: Picos) {
            self.0.send("first_token").unwrap();
        }

        fn progressed(&mut self, _request: &Request, _instance: InstanceId, _tokens: u32) {
            self.0.send("progressed").unwrap();
        }

        fn released(&mut self, _request: &Request, _instance: InstanceId, _end: End) {
            self.0.send("released").unwrap();
        }

        fn left(&mut self, _instance: InstanceId) {
            self.0.send("left").unwrap();
        }
    }

    #[test]
    fn a_rule_behind_the_queue_hears_of_everything() {
        let (sender, heard) = channel();
        let mut policy = Central::around(Box::new(Listener(sender)), ByArrival, FreeBlocks::default());
        let mut cluster = Cluster::new(policy.needs(), 1);
        let key = cluster.dispatch(&mut policy, request(16, 100), 0);
        cluster.first_token(&mut policy, key);
        cluster.progressed(&mut policy, key, 16);
        cluster.finish(&mut policy, key);
        policy.left(InstanceId(0));
        drop(policy);
        let everything = ["dispatched", "first_token", "progressed", "released", "left"];
        assert_eq!(heard.iter().collect::<Vec<_>>(), everything);
    }

    #[test]
    fn bad_constants_are_named() {
        let error = Central::<ByArrival, FreeBlocks>::new(
            FreeBlocks { growth_blocks: -1.0, ..Default::default() },
            0,
        )
        .err()
        .unwrap();
        assert!(error.to_string().contains("growth_blocks"), "{error}");
        let error = Central::<ShortestFirst, FreeBlocks>::new(
            CentralShortestOptions { ageing: f64::NAN, ..Default::default() },
            0,
        );
        assert!(error.err().unwrap().to_string().contains("ageing"));
    }
}
