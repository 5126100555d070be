//! The simulator: true engines, a virtual clock, and the same router that serves live.
//!
//! Time moves from one reason to decide to the next: an arrival, an event that reaches the router while requests wait
//! (or while clients do), a timer of the router, an abort, a crash. Engines are advanced no further than what has become known by then (now less
//! the event delay), and their events are handed to the router before it decides. What a policy does not need is not
//! even looked up: a policy that counts nothing lets every engine run undisturbed.

mod arrivals;
mod config;
mod disturbances;
mod occupancy;
mod recorder;

pub use config::{Aborts, Crash, Delays, NoiseLevels, Readings, RunConfig, Slow};
pub use occupancy::Occupancy;

use std::sync::Arc;

use irouter_core::engine::{Executor, FastForward, Job, JobSlot, Noise};
use irouter_core::policy::{Needs, Policy};
use irouter_core::{
    EngineReport, Event, InstanceId, Outcome as Verdict, Picos, Request, RequestKey, Router, TenantId,
};

use crate::error::{Result, SimError};
use crate::metrics::{GapHistogram, Outcome, RequestRecords};
use crate::prediction::{PredictionSource, Predictions};
use crate::workload::Workload;

use arrivals::Arrivals;
use disturbances::{Disturbance, Disturbances};
use recorder::{Note, Recorder};

/// Arrivals between two looks at engines that no decision looks at, so that what has finished is let go.
const SWEEP_ARRIVALS: usize = 256;

/// What a run gives.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// What happened to each request.
    pub records: RequestRecords,
    /// Gaps between tokens of all requests that arrived in the run.
    pub gaps: GapHistogram,
    /// What the router was told of output lengths.
    pub told: Predictions,
    /// Queues and KV use over time, when asked for.
    pub occupancy: Option<Occupancy>,
    /// What the policy says of itself at the end.
    pub figures: Vec<(&'static str, f64)>,
}

/// One run of one policy.
pub struct Simulator<'a> {
    config: &'a RunConfig,
    workload: &'a Workload,
    predictions: PredictionSource,
    router: Router,
    needs: Needs,
    engines: Vec<FastForward>,
    /// When each engine's next event happens; `MAX` when none is to come.
    due: Vec<Picos>,
    /// The last report interval for which each engine was read.
    polled: Vec<i64>,
    /// What was read then, until the router is told.
    reports: Vec<Option<EngineReport>>,
    arrivals: Arrivals<'a>,
    keys: Vec<Option<RequestKey>>,
    slots: Vec<Option<JobSlot>>,
    recorder: Recorder,
    disturbances: Disturbances,
    occupancy: Option<Occupancy>,
    now: Picos,
}

impl<'a> Simulator<'a> {
    /// Sets up a run of `config` over `workload`.
    ///
    /// # Errors
    /// [`SimError::Field`] for a configuration out of range, the core's errors for an unknown policy or a bad engine.
    pub fn new(
        config: &'a RunConfig,
        policy: Box<dyn Policy>,
        workload: &'a Workload,
        predictions: PredictionSource,
    ) -> Result<Self> {
        config.validate()?;
        let mut needs = policy.needs();
        if needs.reports.is_some() && config.staleness.is_some() {
            needs.reports = config.staleness;
        }
        let mut router = Router::new(config.policy_name.as_str(), policy, config.router.clone())?;
        let mut engines = Vec::new();
        for number in 0..config.instances {
            let event =
                Event::Joined { instance: InstanceId(number), config: Arc::clone(&config.router_engine) };
            router.observe(event, Picos::ZERO)?;
            engines.push(engine(config, number)?);
        }
        let rows = workload.len();
        Ok(Self {
            disturbances: Disturbances::new(config, workload),
            occupancy: config.readings.map(|readings| Occupancy::new(readings, config.instances)),
            recorder: Recorder::new(workload, config.measured.clone()),
            due: vec![Picos::MAX; engines.len()],
            polled: vec![-1; engines.len()],
            reports: vec![None; engines.len()],
            arrivals: Arrivals::new(workload, config.sequels.as_deref()),
            keys: vec![None; rows],
            slots: vec![None; rows],
            now: Picos::ZERO,
            config,
            workload,
            predictions,
            router,
            needs,
            engines,
        })
    }

    /// Runs until every measured request has ended.
    ///
    /// # Errors
    /// The first error of the policy, the router or an engine.
    pub fn run(mut self) -> Result<RunOutput> {
        let mut arrived_rows = 0;
        let mut hold_until = None;
        // As of the last look at every engine: when readings are taken must not decide when a run ends.
        let mut open = self.recorder.open_measured;
        while open > 0 {
            let arrival = self.arrivals.next();
            let event = self.next_event_known(hold_until);
            let times = [arrival, event, self.disturbances.next()];
            let Some(now) = times.into_iter().flatten().min().filter(|&time| time < Picos::MAX) else {
                // Nothing is left but what the engines finish by themselves.
                self.sample(Picos::MAX)?;
                self.drain()?;
                if self.recorder.open_measured < open {
                    open = self.recorder.open_measured;
                    continue;
                }
                return Err(SimError::Stuck { waiting: self.router.waiting(), at: self.now.as_seconds() });
            };
            self.now = self.now.max(now);
            self.sample(self.now - self.config.delays.event)?;
            if self.observes() || self.tracks_events() || arrived_rows % SWEEP_ARRIVALS == 0 {
                self.synchronise()?;
                open = self.recorder.open_measured;
            }
            let disturbed = self.disturb()?;
            let arrival = self.arrivals.pop(self.now);
            if let Some((row, at)) = arrival {
                self.arrive(row, at)?;
                arrived_rows += 1;
            }
            if arrival.is_some() || disturbed || event.is_some_and(|event| event <= self.now) {
                hold_until = self.decide()?;
            }
        }
        Ok(RunOutput {
            figures: self.router.policy_figures(),
            records: self.recorder.records,
            gaps: self.recorder.gaps,
            told: self.predictions.into_told(),
            occupancy: self.occupancy,
        })
    }

    /// Whether the policy looks at anything that engines do.
    fn observes(&self) -> bool {
        let Needs { counts, progress, twin, prefix, reports, .. } = self.needs;
        counts || progress || twin || prefix || reports.is_some()
    }

    /// Whether an event may change what happens next by itself: requests wait at the router, or clients for their answers.
    fn tracks_events(&self) -> bool {
        self.router.waiting() > 0 || self.arrivals.follow_ends()
    }

    /// While events are tracked: when the router hears of the next one, or its timer runs out.
    fn next_event_known(&self, hold_until: Option<Picos>) -> Option<Picos> {
        self.tracks_events().then(|| {
            let event = self.due.iter().copied().min().unwrap_or(Picos::MAX);
            event.saturating_add(self.config.delays.event).min(hold_until.unwrap_or(Picos::MAX))
        })
    }

    /// Lets the router know what happened up to now, less the event delay.
    fn synchronise(&mut self) -> Result<()> {
        let known = self.now - self.config.delays.event;
        for index in 0..self.engines.len() {
            if let Some(interval) = self.needs.reports {
                self.poll(index, known, interval)?;
            }
            if self.due[index] <= known || self.needs.progress {
                self.advance(index, known)?;
            }
        }
        self.tell()?;
        if self.needs.progress {
            for (index, engine) in self.engines.iter().enumerate() {
                let slots = &self.slots;
                let produced = |row: u64| {
                    usize::try_from(row)
                        .ok()
                        .and_then(|row| slots[row])
                        .map_or(0, |slot| engine.produced(slot))
                };
                self.router.pull_progress(instance(index), produced)?;
            }
        }
        Ok(())
    }

    /// Takes the readings of queues and KV use up to `until`. The router is told of nothing earlier or later than without.
    fn sample(&mut self, until: Picos) -> Result<()> {
        while let Some(at) =
            self.occupancy.as_ref().and_then(Occupancy::next_sample).filter(|&at| at <= until)
        {
            for index in 0..self.engines.len() {
                if let Some(interval) = self.needs.reports {
                    self.read(index, at, interval)?;
                }
                self.advance(index, at)?;
            }
            let loads = self.engines.iter().map(|engine| (engine.load(), engine.config().kv.blocks));
            if let Some(occupancy) = &mut self.occupancy {
                occupancy.record(loads, self.router.waiting());
            }
        }
        Ok(())
    }

    /// Tells the router an engine's metrics as of the last multiple of `interval` that has become known.
    fn poll(&mut self, index: usize, known: Picos, interval: Picos) -> Result<()> {
        self.read(index, known, interval)?;
        if let Some(report) = self.reports[index].take()
            && self.disturbances.is_up(index)
        {
            self.router.observe(Event::EngineReport { instance: instance(index), report }, self.now)?;
        }
        Ok(())
    }

    /// Reads an engine's metrics as of the last multiple of `interval` up to `known`, unless it was read then.
    fn read(&mut self, index: usize, known: Picos, interval: Picos) -> Result<()> {
        let tick = known.0.div_euclid(interval.0.max(1));
        if tick <= self.polled[index] {
            return Ok(());
        }
        self.polled[index] = tick;
        let at = Picos(tick * interval.0.max(1));
        self.advance(index, at)?;
        let load = self.engines[index].load();
        let blocks = f64::from(self.engines[index].config().kv.blocks);
        self.reports[index] = Some(EngineReport {
            at,
            waiting: load.waiting,
            running: load.running,
            kv_usage: (f64::from(load.used_blocks) / blocks).min(1.0),
            queued_prefill_tokens: load.queued_prefill_tokens,
        });
        Ok(())
    }

    fn advance(&mut self, index: usize, until: Picos) -> Result<()> {
        if until > self.engines[index].clock() {
            self.recorder.instance = u32::try_from(index).unwrap_or(u32::MAX);
            self.engines[index].advance(until, &mut self.recorder)?;
        }
        self.due[index] = self.engines[index].next_event().unwrap_or(Picos::MAX);
        Ok(())
    }

    /// Hands the engines' events to the router, in order of time.
    fn tell(&mut self) -> Result<()> {
        let mut notes = std::mem::take(&mut self.recorder.notes);
        notes.sort_by_key(|note| note.at);
        for Note { row, finished, at } in notes.drain(..) {
            let Some(request) = self.keys[row] else { continue };
            if !finished {
                let cached_tokens = self.recorder.cached(row);
                self.router.observe(Event::FirstToken { request, cached_tokens }, self.now)?;
                continue;
            }
            self.slots[row] = None;
            self.arrivals.ended(row, at + self.config.delays.event);
            self.predictions.finished(self.workload, row)?;
            if !self.disturbances.leaks(row) {
                let tokens = self.workload.output_tokens()[row];
                self.router.observe(Event::Finished { request, tokens: Some(tokens) }, self.now)?;
            }
        }
        self.recorder.notes = notes;
        Ok(())
    }

    fn arrive(&mut self, row: usize, at: Picos) -> Result<()> {
        self.recorder.arrived(row, at);
        self.disturbances.arrived(row, at);
        let predicted = self.predictions.predict(self.workload, row);
        let engine = &self.config.engine;
        let columns = self.workload.columns();
        let prompt_tokens = columns.prompt_tokens[row];
        let max_tokens = self.workload.max_tokens(row, engine.max_model_len).ok_or_else(|| {
            irouter_core::Error::TooLong {
                id: row as u64,
                prompt_tokens,
                output_tokens: columns.output_tokens[row],
                limit: "max_model_len",
                tokens: u64::from(engine.max_model_len),
            }
        })?;
        let request = Request {
            id: row as u64,
            arrival: at,
            prompt_tokens,
            max_tokens,
            predicted,
            prompt_blocks: if engine.kv.prefix_cache {
                self.workload.prompt_blocks(row, engine.kv.block_tokens)?
            } else {
                None
            },
            priority: columns.priority.as_ref().map_or(0, |column| column[row]),
            deadline: None,
            tenant: TenantId(columns.tenant.as_ref().map_or(0, |column| column[row])),
            session: columns.session.as_ref().map(|column| column[row]),
            true_output_tokens: self.needs.truth.then(|| columns.output_tokens[row]),
        };
        self.keys[row] = Some(self.router.submit(request, self.now)?);
        Ok(())
    }

    /// Lets the router dispatch what it will; returns the timer of its hold.
    fn decide(&mut self) -> Result<Option<Picos>> {
        if self.disturbances.all_down() {
            return Ok(None);
        }
        loop {
            let decision = match self.router.decide(self.now)? {
                Verdict::Dispatch(decision) => decision,
                Verdict::Hold { until } => return Ok(until),
                Verdict::Idle => return Ok(None),
            };
            let row = usize::try_from(decision.id).unwrap_or(usize::MAX);
            let index = decision.instance.index();
            let at = self.now + self.config.delays.dispatch;
            self.recorder.dispatched(row, self.now, at, decision.instance);
            if !self.disturbances.is_up(index) {
                // It is on its way to an instance whose crash the router has not heard of; the crash's event fails it.
                continue;
            }
            let job = Job {
                tag: decision.id,
                prompt_tokens: self.workload.prompt_tokens()[row],
                output_tokens: self.workload.output_tokens()[row],
                prompt_blocks: self.router.state().request(decision.key)?.prompt_blocks.clone(),
            };
            self.slots[row] = Some(self.engines[index].submit(at, job)?);
            self.due[index] = self.engines[index].next_event().unwrap_or(Picos::MAX);
        }
    }

    /// Carries out the aborts, crashes and returns that are due; says whether there were any.
    fn disturb(&mut self) -> Result<bool> {
        let mut any = false;
        while let Some(disturbance) = self.disturbances.pop(self.now) {
            any = true;
            match disturbance {
                Disturbance::Abort(row) => self.abort(row)?,
                Disturbance::Crash(index) => {
                    self.advance(index, self.now)?;
                    self.engines[index] = engine(self.config, u32::try_from(index).unwrap_or(u32::MAX))?;
                    self.engines[index].set_speed(self.disturbances.pace(index, self.now));
                    self.due[index] = Picos::MAX;
                    // Tokens up to the crash were streamed; they are told before it.
                    self.tell()?;
                }
                Disturbance::CrashKnown(index) => {
                    for lost in self.router.observe(Event::Left { instance: instance(index) }, self.now)? {
                        let row = usize::try_from(lost).unwrap_or(usize::MAX);
                        self.slots[row] = None;
                        self.recorder.ended(row, self.now, Outcome::Failed);
                        self.arrivals.ended(row, self.now);
                    }
                }
                Disturbance::Pace(index) => {
                    let at = self.now - self.config.delays.event;
                    self.advance(index, at)?;
                    self.engines[index].set_speed(self.disturbances.pace(index, at));
                    self.due[index] = self.engines[index].next_event().unwrap_or(Picos::MAX);
                }
                Disturbance::Return(index) => {
                    self.engines[index].advance(self.now, &mut self.recorder)?;
                    let config = Arc::clone(&self.config.router_engine);
                    self.router.observe(Event::Joined { instance: instance(index), config }, self.now)?;
                }
            }
        }
        Ok(any)
    }

    /// The client of a request goes away, unless the request has ended.
    fn abort(&mut self, row: usize) -> Result<()> {
        if self.slots[row].is_some() {
            // No policy may have asked after its engine; what has ended by now has ended all the same.
            let index = self.recorder.records.instance[row] as usize;
            self.advance(index, self.now - self.config.delays.event)?;
        }
        self.tell()?;
        let open = self.recorder.records.outcome[row] == Outcome::Open;
        let Some(request) = self.keys[row].filter(|_| open) else { return Ok(()) };
        let in_flight = self.slots[row].is_some();
        if let Some(slot) = self.slots[row].take() {
            let index = self.recorder.records.instance[row] as usize;
            self.engines[index].cancel(self.now + self.config.delays.dispatch, slot)?;
            self.due[index] = self.engines[index].next_event().unwrap_or(Picos::MAX);
        }
        self.recorder.ended(row, self.now, Outcome::Aborted);
        self.arrivals.ended(row, self.now);
        // What waits at the router cannot leak: the router itself hears the client go.
        if !(in_flight && self.disturbances.leaks(row)) {
            self.router.observe(Event::Cancelled { request }, self.now)?;
        }
        Ok(())
    }

    /// Runs every engine to its end.
    fn drain(&mut self) -> Result<()> {
        for index in 0..self.engines.len() {
            while let Some(at) = self.engines[index].next_event() {
                self.advance(index, at)?;
                self.now = self.now.max(at + self.config.delays.event);
            }
        }
        self.tell()
    }
}

fn instance(index: usize) -> InstanceId {
    InstanceId(u32::try_from(index).unwrap_or(u32::MAX))
}

/// The true engine of an instance, idle.
fn engine(config: &RunConfig, number: u32) -> Result<FastForward> {
    let NoiseLevels { slice_sigma, instance_sigma } = config.noise;
    let noise = (slice_sigma > 0.0 || instance_sigma > 0.0)
        .then(|| Noise::new(config.noise_seed, number, slice_sigma, instance_sigma))
        .transpose()?;
    Ok(FastForward::new(Arc::clone(&config.engine), noise))
}
