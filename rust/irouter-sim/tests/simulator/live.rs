//! The same cluster as a live host would drive it: engines that run step by step, and every event told when it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::sync::Arc;

use irouter_core::engine::{EngineLoad, Executor, Job, Observer, Stepwise};
use irouter_core::{Event, InstanceId, Outcome, Picos, Request, RequestKey, Router, TenantId};
use irouter_sim::Workload;
use irouter_sim::simulator::RunConfig;

use crate::support::{Entry, Spy, predictions};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    Produced(u32),
    Started,
    Finished,
}

/// What an engine has told, in its own order.
#[derive(Default)]
struct Notes(Vec<(Picos, u64, News)>);

impl Observer for Notes {
    fn first_token(&mut self, tag: u64, at: Picos) {
        self.0.push((at, tag, News::Started));
    }
    fn progress(&mut self, tag: u64, at: Picos, tokens: u32) {
        self.0.push((at, tag, News::Produced(tokens)));
    }
    fn finished(&mut self, tag: u64, at: Picos) {
        self.0.push((at, tag, News::Finished));
    }
}

/// An event: when it arrives, from which engine, which of all that were told, of which request, and what.
type OnItsWay = (Picos, usize, usize, u64, News);

/// A host: time goes from event to event, and nothing is looked up before it happens.
pub(crate) struct Host<'a> {
    config: &'a RunConfig,
    workload: &'a Workload,
    router: Router,
    engines: Vec<Stepwise>,
    keys: Vec<Option<RequestKey>>,
    events: BinaryHeap<Reverse<OnItsWay>>,
    told: usize,
    /// What each engine held at each dispatch.
    pub(crate) loads: Vec<Vec<EngineLoad>>,
}

impl<'a> Host<'a> {
    /// Runs every request, and returns what the policy was told.
    pub(crate) fn run(config: &'a RunConfig, policy: &str, workload: &'a Workload) -> (Self, Vec<Entry>) {
        let (policy, log) = Spy::on(policy);
        let mut router = Router::new("live", policy, config.router.clone()).unwrap();
        let cadence = NonZeroU32::new(config.router.progress_tokens).unwrap();
        let engine = Stepwise::new(Arc::clone(&config.engine), None).with_progress(cadence);
        for number in 0..config.instances {
            let router_engine = Arc::clone(&config.router_engine);
            let event = Event::Joined { instance: InstanceId(number), config: router_engine };
            router.observe(event, Picos::ZERO).unwrap();
        }
        let mut host = Self {
            config,
            workload,
            router,
            engines: vec![engine; config.instances as usize],
            keys: vec![None; workload.len()],
            events: BinaryHeap::new(),
            told: 0,
            loads: Vec::new(),
        };
        host.serve();
        let entries = std::mem::take(&mut *log.lock().unwrap());
        (host, entries)
    }

    fn serve(&mut self) {
        let mut predictions = predictions(self.workload);
        let mut row = 0;
        loop {
            let arrival = self.workload.arrival().get(row).copied();
            let step = self.engines.iter_mut().filter_map(Executor::next_event).min();
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let Some(now) = [arrival, step, event].into_iter().flatten().min() else { return };
            for number in 0..self.engines.len() {
                self.compute(number, now);
            }
            let mut asks = self.tell(now);
            if arrival == Some(now) {
                let predicted = predictions.predict(self.workload, row);
                let request = Request {
                    id: row as u64,
                    arrival: now,
                    prompt_tokens: self.workload.prompt_tokens()[row],
                    max_tokens: self.workload.max_tokens(row, self.config.engine.max_model_len).unwrap(),
                    predicted,
                    prompt_blocks: None,
                    priority: 0,
                    deadline: None,
                    tenant: TenantId(0),
                    session: None,
                    true_output_tokens: None,
                };
                self.keys[row] = Some(self.router.submit(request, now).unwrap());
                (row, asks) = (row + 1, true);
            }
            if asks {
                self.decide(now);
            }
        }
    }

    fn compute(&mut self, number: usize, now: Picos) {
        let mut notes = Notes::default();
        self.engines[number].advance(now, &mut notes).unwrap();
        for (at, tag, news) in notes.0 {
            self.told += 1;
            self.events.push(Reverse((at + self.config.delays.event, number, self.told, tag, news)));
        }
    }

    /// Whether anything came that ends a hold.
    fn tell(&mut self, now: Picos) -> bool {
        let mut asks = false;
        while let Some(&Reverse((at, _, _, tag, news))) = self.events.peek()
            && at <= now
        {
            self.events.pop();
            let row = usize::try_from(tag).unwrap();
            let request = self.keys[row].unwrap();
            let event = match news {
                News::Started => Event::FirstToken { request, cached_tokens: None },
                News::Produced(tokens) => Event::Progress { request, tokens },
                News::Finished => {
                    Event::Finished { request, tokens: Some(self.workload.output_tokens()[row]) }
                }
            };
            self.router.observe(event, at).unwrap();
            asks |= !matches!(news, News::Produced(_));
        }
        asks
    }

    fn decide(&mut self, now: Picos) {
        while let Outcome::Dispatch(decision) = self.router.decide(now).unwrap() {
            self.loads.push(self.engines.iter().map(Executor::load).collect());
            let row = usize::try_from(decision.id).unwrap();
            let job = Job {
                tag: decision.id,
                prompt_tokens: self.workload.prompt_tokens()[row],
                output_tokens: self.workload.output_tokens()[row],
                prompt_blocks: None,
            };
            let at = now + self.config.delays.dispatch;
            self.engines[decision.instance.index()].submit(at, job).unwrap();
        }
    }
}
