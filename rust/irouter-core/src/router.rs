//! The router: a central queue, the state of every instance, and a policy, driven by events and explicit time.
//!
//! The host's contract, the same for a live proxy and the simulator:
//!
//! 1. time never goes back;
//! 2. [`Router::submit`] a request when it arrives, then call [`Router::decide`] until it does not dispatch;
//! 3. send what [`Outcome::Dispatch`] names; the decision has reserved its place already;
//! 4. tell what happens with [`Router::observe`], then decide again while requests wait;
//! 5. on [`Outcome::Hold`], decide again at the next event, at the latest at the time given.

use std::collections::BTreeMap;

use crate::decision::{Decision, Outcome};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::ids::{InstanceId, RequestKey};
use crate::impact::{Candidate, Estimator, Form, Impact};
use crate::policy::{ClusterView, End, Policy, QueueView, Verdict};
use crate::queue::Queue;
use crate::request::{Request, TenantId};
use crate::state::{Effort, InstanceState, Released, State, StateOptions};
use crate::time::Picos;

/// What to do when a policy fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Hand the error to the caller: the simulator's choice, where a wrong policy must not look right.
    Stop,
    /// Send the head of the queue to the instance with the least predicted work, and count it.
    Fallback,
}

/// How a router behaves, whatever its policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// The longest that a request may be held while an engine has room; `None` for ever.
    pub max_hold: Option<Picos>,
    /// The most predicted work, in seconds of the cluster, that may overtake a request of equal priority.
    pub overtaking_seconds: f64,
    /// Shares of tenants; those not named have weight 1.
    pub tenant_weights: BTreeMap<TenantId, f64>,
    /// Time from a decision until the engine has the request.
    pub dispatch_delay: Picos,
    /// Progress is known in multiples of this many tokens.
    pub progress_tokens: u32,
    /// What to do when the policy fails.
    pub on_failure: OnFailure,
    /// How the latency impact of each decision is estimated; none is without it. What an estimate needs of the state is then
    /// kept, whatever the policy asks for.
    pub impact: Option<Form>,
}

impl Default for RouterConfig {
    /// The defaults of a live router: 60 s of holding, 30 s of overtaking, 1 ms of delay, reports each 16 tokens, and no
    /// estimate of the impact.
    fn default() -> Self {
        Self {
            max_hold: Some(Picos::SECOND * 60),
            overtaking_seconds: 30.0,
            tenant_weights: BTreeMap::new(),
            dispatch_delay: Picos::MILLISECOND,
            progress_tokens: 16,
            on_failure: OnFailure::Fallback,
            impact: None,
        }
    }
}

/// Decides which instance serves each request.
pub struct Router {
    config: RouterConfig,
    policy_name: String,
    policy: Box<dyn Policy>,
    state: State,
    queue: Queue,
    estimator: Option<Estimator>,
    now: Picos,
    failures: u64,
    last_failure: Option<Error>,
}

impl Router {
    /// A router without instances; they come with [`Event::Joined`].
    ///
    /// # Errors
    /// [`Error::Field`] for a configuration out of range.
    pub fn new(
        policy_name: impl Into<String>,
        policy: Box<dyn Policy>,
        config: RouterConfig,
    ) -> Result<Self> {
        if config.progress_tokens == 0 {
            return Err(Error::field("progress_tokens", 0, "at least 1"));
        }
        let mut needs = policy.needs();
        if config.impact.is_some() {
            needs = needs.and(Estimator::NEEDS);
        }
        let options = StateOptions {
            needs,
            dispatch_delay: config.dispatch_delay,
            progress_tokens: config.progress_tokens,
        };
        Ok(Self {
            queue: Queue::new(config.overtaking_seconds, config.tenant_weights.clone())?,
            policy_name: policy_name.into(),
            policy,
            state: State::new(options),
            estimator: config.impact.map(Estimator::new),
            config,
            now: Picos(i64::MIN),
            failures: 0,
            last_failure: None,
        })
    }

    /// Every instance and request.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The latest time it was given.
    pub fn now(&self) -> Picos {
        self.now
    }

    /// Requests that wait at the router.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How often the policy failed, and how it failed last.
    pub fn failures(&self) -> (u64, Option<&Error>) {
        (self.failures, self.last_failure.as_ref())
    }

    /// What the policy says of itself ([`Policy::figures`]).
    pub fn policy_figures(&self) -> Vec<(&'static str, f64)> {
        self.policy.figures()
    }

    /// Takes a request into the central queue.
    ///
    /// # Errors
    /// [`Error::Field`] for a request without tokens, [`Error::TooLong`] when it can run on no instance known.
    pub fn submit(&mut self, request: Request, now: Picos) -> Result<RequestKey> {
        self.clock(now)?;
        for (field, tokens) in [("prompt_tokens", request.prompt_tokens), ("max_tokens", request.max_tokens)]
        {
            if tokens == 0 {
                return Err(Error::field(format!("request {}: {field}", request.id), 0, "at least 1"));
            }
        }
        let effort = match self.state.instances().first() {
            Some(instance) => {
                self.fits(&request)?;
                instance.rates().effort(&request, self.state.needs())
            }
            None => Effort::default(),
        };
        let order = self.policy.order_key(&request, effort);
        if order.is_nan() {
            let message = format!("its order key of request {} is not a number", request.id);
            return Err(Error::Policy { policy: self.policy_name.clone(), message });
        }
        let (priority, tenant) = (request.priority, request.tenant);
        let key = self.state.submitted(request, effort);
        self.queue.insert(key, priority, tenant, order, self.policy.overtaking_seconds(effort));
        Ok(key)
    }

    /// Decides on one waiting request, or to hold them all. A dispatch is in the state when this returns.
    ///
    /// # Errors
    /// [`Error::NoInstance`]; a failing policy's error where [`OnFailure::Stop`] is set, or where no ready instance can hold
    /// the request either; [`Error::EndlessHold`].
    pub fn decide(&mut self, now: Picos) -> Result<Outcome> {
        self.clock(now)?;
        let Some(oldest) = self.queue.oldest() else { return Ok(Outcome::Idle) };
        self.state.advance_twins(now)?;
        let hold_ends = self.hold_end(oldest);
        if hold_ends.is_some_and(|end| end <= now)
            && let Some(verdict) = self.release_oldest(oldest)
        {
            return self.carry_out(verdict, now, false);
        }
        match self.ask(now) {
            Ok(Verdict::Hold { until }) => self.hold(until, hold_ends, now),
            Ok(verdict) => self.carry_out(verdict, now, false),
            Err(error @ Error::NoInstance { .. }) => Err(error),
            Err(error) if self.config.on_failure == OnFailure::Stop => Err(error),
            Err(error) => {
                let head = QueueView { queue: &self.queue, state: &self.state }.head().map(|head| head.key);
                let Some(verdict) = self.least_work(head.unwrap_or(oldest), |_| true) else {
                    let known = self.state.instances().len();
                    return Err(if self.state.ready() == 0 { Error::NoInstance { known } } else { error });
                };
                self.failures += 1;
                self.last_failure = Some(error);
                self.carry_out(verdict, now, true)
            }
        }
    }

    /// Which request the policy would send where now, without sending it; `None` when it would hold or nothing waits. For a
    /// host that follows somebody else's decisions and compares. What a policy draws at random is drawn again the next time.
    ///
    /// # Errors
    /// As [`Self::decide`] with [`OnFailure::Stop`].
    pub fn preview(&mut self, now: Picos) -> Result<Option<(RequestKey, InstanceId)>> {
        self.clock(now)?;
        if self.queue.oldest().is_none() {
            return Ok(None);
        }
        self.state.advance_twins(now)?;
        Ok(match self.ask(now)? {
            Verdict::Dispatch { request, instance } => Some((request, instance)),
            Verdict::Hold { .. } => None,
        })
    }

    /// What the policy would be shown now. For a host that decides by itself, with [`Self::dispatch`].
    ///
    /// # Errors
    /// [`Error::TimeWentBack`], and those of the engine model.
    pub fn view(&mut self, now: Picos) -> Result<(ClusterView<'_>, QueueView<'_>)> {
        self.clock(now)?;
        self.state.advance_twins(now)?;
        Ok((ClusterView::new(now, &self.state), QueueView { queue: &self.queue, state: &self.state }))
    }

    /// The latency impact that a waiting request would have on each instance that is ready and can hold it, by number.
    ///
    /// # Errors
    /// [`Error::Field`] for a router without [`RouterConfig::impact`], [`Error::UnknownRequest`] for a request that does not
    /// wait.
    pub fn impact(&mut self, request: RequestKey, now: Picos) -> Result<Vec<(InstanceId, Impact)>> {
        self.clock(now)?;
        let Some(estimator) = &mut self.estimator else {
            return Err(Error::field("impact", "off", "a router that was built with a form of it"));
        };
        self.state.advance_twins(now)?;
        let Some((waiting, _)) = self.state.waiting(request) else {
            return Err(Error::UnknownRequest { request });
        };
        let candidate = Candidate::new(waiting);
        let able = |instance: &&InstanceState| instance.is_ready() && instance.holds(waiting).is_ok();
        let impact = |instance: &InstanceState| {
            Ok((instance.id(), estimator.impact(&self.state, instance, &candidate, now)?))
        };
        self.state.instances().iter().filter(able).map(impact).collect()
    }

    /// Sends a waiting request to an instance of the caller's choice, whatever the policy would do. The policy hears of it as
    /// of its own decisions.
    ///
    /// # Errors
    /// [`Error::BadChoice`] for an instance that takes no requests, [`Error::Policy`] for a request that does not wait.
    pub fn dispatch(&mut self, request: RequestKey, instance: InstanceId, now: Picos) -> Result<Decision> {
        self.clock(now)?;
        self.state.advance_twins(now)?;
        self.check(Verdict::Dispatch { request, instance })?;
        self.send(request, instance, now, false)
    }

    /// Sends a waiting request now, where the policy places it or, when that is one of `excluded` or the policy fails, where
    /// the least work is predicted. For hosts that cannot wait; the request overtakes all others.
    ///
    /// # Errors
    /// [`Error::NoInstance`] when no ready instance outside of `excluded` can hold the request, [`Error::Policy`] for a request
    /// that does not wait.
    pub fn place(&mut self, key: RequestKey, excluded: &[InstanceId], now: Picos) -> Result<Decision> {
        self.clock(now)?;
        self.state.advance_twins(now)?;
        let Some((request, _)) = self.state.waiting(key) else {
            let message = format!("{key} is to be placed, but does not wait");
            return Err(Error::Policy { policy: self.policy_name.clone(), message });
        };
        let placed = self.policy.place(&ClusterView::new(now, &self.state), request);
        let failed =
            match placed.and_then(|instance| self.check(Verdict::Dispatch { request: key, instance })) {
                Ok(Verdict::Dispatch { instance, .. }) if !excluded.contains(&instance) => {
                    return self.send(key, instance, now, false);
                }
                Err(error) if !matches!(error, Error::NoInstance { .. }) => Some(error),
                _ => None,
            };
        let eligible = |instance: &InstanceState| !excluded.contains(&instance.id());
        let Some(Verdict::Dispatch { instance, .. }) = self.least_work(key, eligible) else {
            return Err(Error::NoInstance { known: self.state.instances().len() });
        };
        let fallback = failed.is_some();
        self.failures += u64::from(fallback);
        self.last_failure = failed.or(self.last_failure.take());
        self.send(key, instance, now, fallback)
    }

    /// Takes in an event at the time at which the router learns of it. Returns the caller's numbers of the requests that
    /// it ended without a result: those on an instance that left.
    ///
    /// # Errors
    /// An error says that the event was refused, and that nothing has changed.
    pub fn observe(&mut self, event: Event, now: Picos) -> Result<Vec<u64>> {
        self.clock(now)?;
        match event {
            Event::Joined { instance, config } => self.state.joined(instance, config)?,
            Event::Draining { instance } => self.state.draining(instance)?,
            Event::Resumed { instance } => self.state.resumed(instance)?,
            Event::Left { instance } => {
                let keys = self.state.left(instance)?;
                let lost = keys.into_iter().map(|key| self.release(key, None, false, now)).collect();
                self.policy.left(instance);
                return lost;
            }
            Event::FirstToken { request, cached_tokens } => {
                let started = self.state.first_token(request, cached_tokens, now)?;
                self.started(request, started, now)?;
            }
            Event::Progress { request, tokens } => {
                if let Some(news) = self.state.progress(request, tokens, now)? {
                    self.started(request, news.started.then_some(news.instance), now)?;
                    self.policy.progressed(self.state.request(request)?, news.instance, tokens);
                }
            }
            Event::Finished { request, tokens } => {
                self.state.expect_dispatched("finished", request)?;
                self.release(request, tokens, true, now)?;
            }
            Event::Failed { request } => {
                self.state.expect_dispatched("failed", request)?;
                self.release(request, None, false, now)?;
            }
            Event::Cancelled { request } => {
                self.release(request, None, false, now)?;
                self.queue.cancelled(request);
            }
            Event::EngineReport { instance, report } => self.state.reported(instance, report)?,
        }
        Ok(Vec::new())
    }

    /// Lets the policy know when the router hears of a first token.
    fn started(&mut self, key: RequestKey, instance: Option<InstanceId>, now: Picos) -> Result<()> {
        if let Some(instance) = instance {
            self.policy.first_token(self.state.request(key)?, instance, now);
        }
        Ok(())
    }

    fn release(&mut self, key: RequestKey, tokens: Option<u32>, completed: bool, now: Picos) -> Result<u64> {
        let Released { request, instance, tokens: known } = self.state.released(key, now)?;
        if let Some(instance) = instance {
            let end = End { at: now, tokens: tokens.unwrap_or(known), completed };
            self.policy.released(&request, instance, end);
        }
        Ok(request.id)
    }

    fn clock(&mut self, now: Picos) -> Result<()> {
        if now < self.now {
            return Err(Error::TimeWentBack { from: self.now, to: now });
        }
        self.now = now;
        Ok(())
    }

    /// Refuses a request that fits no instance.
    fn fits(&self, request: &Request) -> Result<()> {
        let mut holds = self.state.instances().iter().map(|instance| instance.holds(request));
        match holds.next() {
            Some(Err(error)) if holds.all(|holds| holds.is_err()) => Err(error),
            _ => Ok(()),
        }
    }

    fn hold_end(&self, oldest: RequestKey) -> Option<Picos> {
        let (request, _) = self.state.waiting(oldest)?;
        self.config.max_hold.map(|hold| request.arrival.saturating_add(hold))
    }

    /// A request held for too long goes where the least work is predicted, as soon as an engine has room.
    fn release_oldest(&self, oldest: RequestKey) -> Option<Verdict> {
        let (request, _) = self.state.waiting(oldest)?;
        let has_room = |instance: &InstanceState| {
            instance.in_flight() < instance.config().scheduler.max_num_seqs
                && instance.context_tokens() + u64::from(request.prompt_tokens)
                    < instance.kv_capacity_tokens()
        };
        self.least_work(oldest, has_room)
    }

    /// Sends a request where the least work is predicted, of the ready instances that can hold it and are `eligible`.
    fn least_work(&self, key: RequestKey, eligible: impl Fn(&InstanceState) -> bool) -> Option<Verdict> {
        let (request, _) = self.state.waiting(key)?;
        let view = ClusterView::new(self.now, &self.state);
        let fits = |instance: &&InstanceState| eligible(instance) && instance.holds(request).is_ok();
        let least = |left: &&InstanceState, right: &&InstanceState| {
            left.work_seconds().total_cmp(&right.work_seconds())
        };
        let instance = view.ready().filter(fits).min_by(least)?.id();
        Some(Verdict::Dispatch { request: key, instance })
    }

    fn ask(&mut self, now: Picos) -> Result<Verdict> {
        let view = ClusterView::new(now, &self.state);
        let queue = QueueView { queue: &self.queue, state: &self.state };
        self.policy.decide(&view, &queue).and_then(|verdict| self.check(verdict))
    }

    /// Refuses a verdict that names what is not there, or an instance that can never hold the request.
    fn check(&self, verdict: Verdict) -> Result<Verdict> {
        if let Verdict::Dispatch { request, instance } = verdict {
            let found =
                self.state.instance(instance).map_or("unknown", |instance| instance.status().describe());
            if found != "ready" {
                return Err(Error::BadChoice { policy: self.policy_name.clone(), instance, found });
            }
            let Some((waiting, _)) = self.state.waiting(request) else {
                let message = format!("it chose {request}, which does not wait");
                return Err(Error::Policy { policy: self.policy_name.clone(), message });
            };
            if let Err(reason) = self.state.instance(instance)?.holds(waiting) {
                let (policy, reason) = (self.policy_name.clone(), Box::new(reason));
                return Err(Error::NeverFits { policy, instance, reason });
            }
        }
        Ok(verdict)
    }

    fn hold(&self, until: Option<Picos>, hold_ends: Option<Picos>, now: Picos) -> Result<Outcome> {
        let timers = [until, hold_ends].into_iter().flatten().filter(|&timer| timer > now);
        let until = timers.min();
        if until.is_none() && !self.state.anything_in_flight() {
            return Err(Error::EndlessHold { policy: self.policy_name.clone(), waiting: self.queue.len() });
        }
        Ok(Outcome::Hold { until })
    }

    fn carry_out(&mut self, verdict: Verdict, now: Picos, fallback: bool) -> Result<Outcome> {
        let Verdict::Dispatch { request, instance } = verdict else {
            return Ok(Outcome::Hold { until: None });
        };
        self.send(request, instance, now, fallback).map(Outcome::Dispatch)
    }

    fn send(
        &mut self,
        key: RequestKey,
        instance: InstanceId,
        now: Picos,
        fallback: bool,
    ) -> Result<Decision> {
        let impact = match &mut self.estimator {
            Some(estimator) => {
                let candidate = Candidate::new(self.state.request(key)?);
                Some(estimator.impact(&self.state, self.state.instance(instance)?, &candidate, now)?)
            }
            None => None,
        };
        let cached_tokens = self.state.dispatched(key, instance, now)?;
        self.queue.dispatched(key, 1.0 / f64::from(self.state.ready().max(1)));
        let request = self.state.request(key)?;
        self.policy.dispatched(request, instance, now);
        Ok(Decision {
            key,
            id: request.id,
            instance,
            at: now,
            waited: now - request.arrival,
            cached_tokens,
            fallback,
            impact,
        })
    }
}
