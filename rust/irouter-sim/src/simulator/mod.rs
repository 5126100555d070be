//! The simulator: true engines, a virtual clock, and the same router that serves live.
//!
//! Time moves from one reason to decide to the next: an arrival, an event that reaches the router while requests wait
//! (or while clients do), a timer of the router, an abort, a crash. Engines are advanced no further than what has become
//! known by then (now less the event delay), and only those that have news; their news is handed to the router before it
//! decides. What a policy does not need is not even looked up: a policy that counts nothing lets every engine run
//! undisturbed.

mod arrivals;
mod config;
mod disturbances;
mod occupancy;
mod recorder;
mod tally;
mod telling;

pub use config::{Aborts, Crash, Delays, NoiseLevels, Readings, RunConfig, Slow};
pub use occupancy::Occupancy;
pub(crate) use tally::Tally;

use std::num::NonZeroU32;
use std::sync::Arc;

use irouter_core::engine::{Executor, FastForward, Job, JobSlot, Noise};
use irouter_core::impact::{Estimator, Impact};
use irouter_core::policy::{ClusterView, Needs, Policy, QueueView};
use irouter_core::{
    Decision, EngineReport, Event, InstanceId, Outcome as Verdict, Picos, Request, RequestKey, Router,
    TenantId,
};

use crate::error::{Result, SimError};
use crate::metrics::{GapHistogram, RequestRecords};
use crate::prediction::{PredictionSource, Predictions};
use crate::workload::Workload;

use arrivals::Arrivals;
use disturbances::Disturbances;
use recorder::Recorder;

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
    /// The latency impact that the router expected of each dispatch, by row, where it estimates them.
    pub impacts: Vec<(usize, Impact)>,
    /// Queues and KV use over time, when asked for.
    pub occupancy: Option<Occupancy>,
    /// What the policy says of itself at the end.
    pub figures: Vec<(&'static str, f64)>,
    /// Decisions that the policy failed to make, where the router falls back.
    pub policy_failures: u64,
    /// How it failed last.
    pub policy_failure: Option<irouter_core::Error>,
}

/// A run at the time of a decision.
pub(crate) struct Look<'a> {
    /// The instances as the router knows them.
    pub(crate) cluster: ClusterView<'a>,
    /// The requests at the router.
    pub(crate) queue: QueueView<'a>,
    /// Sums over the requests so far.
    pub(crate) tally: &'a Tally,
    /// When the first token of each row was out.
    pub(crate) first_token: &'a [Picos],
}

/// One run of one policy.
pub struct Simulator {
    config: RunConfig,
    workload: Arc<Workload>,
    predictions: PredictionSource,
    router: Router,
    needs: Needs,
    engines: Vec<FastForward>,
    /// Before when no request of each engine gets its first token or finishes; `MAX` when none is to.
    next_event: Vec<Picos>,
    /// The same of anything that the router is to be told, progress included.
    next_news: Vec<Picos>,
    /// The last interval for which the engines' own reports were read.
    polled: i64,
    /// What was read then of each engine, until the router is told.
    reports: Vec<Option<EngineReport>>,
    arrivals: Arrivals,
    arrived_rows: usize,
    keys: Vec<Option<RequestKey>>,
    slots: Vec<Option<JobSlot>>,
    recorder: Recorder,
    impacts: Vec<(usize, Impact)>,
    disturbances: Disturbances,
    occupancy: Option<Occupancy>,
    now: Picos,
    /// When the router's hold runs out.
    hold_until: Option<Picos>,
    /// Measured requests that had not ended at the last look at every engine: when readings are taken must not decide
    /// when a run ends.
    open: usize,
}

impl Simulator {
    /// Sets up a run of `config` over `workload`.
    ///
    /// # Errors
    /// [`SimError::Field`] for a configuration out of range, the core's errors for an unknown policy or a bad engine.
    pub fn new(
        config: RunConfig,
        policy: Box<dyn Policy>,
        workload: Arc<Workload>,
        predictions: PredictionSource,
    ) -> Result<Self> {
        config.validate()?;
        let mut needs = policy.needs();
        if config.router.impact.is_some() {
            needs = needs.and(Estimator::NEEDS);
        }
        if needs.reports.is_some() && config.staleness.is_some() {
            needs.reports = config.staleness;
        }
        let mut router = Router::new(config.policy_name.as_str(), policy, config.router.clone())?;
        let mut engines = Vec::new();
        for number in 0..config.instances {
            let event =
                Event::Joined { instance: InstanceId(number), config: Arc::clone(&config.router_engine) };
            router.observe(event, Picos::ZERO)?;
            engines.push(engine(&config, needs, number)?);
        }
        let rows = workload.len();
        Ok(Self {
            disturbances: Disturbances::new(&config, &workload),
            occupancy: config.readings.map(|readings| Occupancy::new(readings, config.instances)),
            recorder: Recorder::new(&workload, config.measured.clone()),
            impacts: Vec::new(),
            next_event: vec![Picos::MAX; engines.len()],
            next_news: vec![Picos::MAX; engines.len()],
            polled: -1,
            reports: vec![None; engines.len()],
            arrivals: Arrivals::new(config.sequels.clone()),
            arrived_rows: 0,
            keys: vec![None; rows],
            slots: vec![None; rows],
            now: Picos::ZERO,
            hold_until: None,
            open: config.measured.len(),
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
        while self.proceed()? {
            self.decide()?;
        }
        let (policy_failures, policy_failure) = self.router.failures();
        Ok(RunOutput {
            figures: self.router.policy_figures(),
            policy_failures,
            policy_failure: policy_failure.cloned(),
            records: self.recorder.records,
            gaps: self.recorder.gaps,
            told: self.predictions.into_told(),
            impacts: self.impacts,
            occupancy: self.occupancy,
        })
    }

    /// Runs up to the next reason to decide; false when every measured request has ended. Whoever calls it decides
    /// before the next call, or lets the router do so ([`Self::decide`]).
    pub(crate) fn proceed(&mut self) -> Result<bool> {
        while self.open > 0 {
            let arrival = self.arrivals.next(&self.workload);
            let event = self.next_event_known();
            let times = [arrival, event, self.disturbances.next()];
            let Some(now) = times.into_iter().flatten().min().filter(|&time| time < Picos::MAX) else {
                // Nothing is left but what the engines finish by themselves.
                self.sample(Picos::MAX)?;
                self.drain()?;
                if self.recorder.open_measured < self.open {
                    self.open = self.recorder.open_measured;
                    continue;
                }
                return Err(SimError::Stuck { waiting: self.router.waiting(), at: self.now.as_seconds() });
            };
            self.now = self.now.max(now);
            self.sample(self.now - self.config.delays.event)?;
            let disturbed = self.disturbances.next().is_some_and(|at| at <= self.now);
            let sweep = self.arrived_rows.is_multiple_of(SWEEP_ARRIVALS);
            if self.observes() || self.tracks_events() || disturbed || sweep {
                self.synchronise()?;
                self.open = self.recorder.open_measured;
            }
            self.disturb()?;
            let arrival = self.arrivals.pop(&self.workload, self.now);
            if let Some((row, at)) = arrival {
                self.arrive(row, at)?;
                self.arrived_rows += 1;
            }
            if arrival.is_some() || disturbed || event.is_some_and(|event| event <= self.now) {
                return Ok(true);
            }
        }
        Ok(false)
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
    fn next_event_known(&self) -> Option<Picos> {
        self.tracks_events().then(|| {
            let event = self.next_event.iter().copied().min().unwrap_or(Picos::MAX);
            event.saturating_add(self.config.delays.event).min(self.hold_until.unwrap_or(Picos::MAX))
        })
    }

    /// Takes the readings of queues and KV use up to `until`. The router is told of nothing earlier or later than without.
    fn sample(&mut self, until: Picos) -> Result<()> {
        while let Some(at) =
            self.occupancy.as_ref().and_then(Occupancy::next_sample).filter(|&at| at <= until)
        {
            self.read(at)?;
            for index in 0..self.engines.len() {
                self.advance(index, at)?;
            }
            let loads = self.engines.iter().map(|engine| (engine.load(), engine.config().kv.blocks));
            if let Some(occupancy) = &mut self.occupancy {
                occupancy.record(loads, self.router.waiting());
            }
        }
        Ok(())
    }

    fn arrive(&mut self, row: usize, at: Picos) -> Result<()> {
        self.recorder.arrived(row, at);
        self.disturbances.arrived(row, at);
        let predicted = self.predictions.predict(&self.workload, row);
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

    /// Lets the router dispatch what it will.
    pub(crate) fn decide(&mut self) -> Result<()> {
        self.hold_until = None;
        if self.disturbances.all_down() {
            return Ok(());
        }
        loop {
            match self.router.decide(self.now)? {
                Verdict::Dispatch(decision) => self.send(&decision)?,
                Verdict::Hold { until } => {
                    self.hold_until = until;
                    return Ok(());
                }
                Verdict::Idle => return Ok(()),
            }
        }
    }

    /// Sends a waiting request to an instance, whatever the router's policy would do.
    pub(crate) fn dispatch(&mut self, request: RequestKey, instance: InstanceId) -> Result<()> {
        let decision = self.router.dispatch(request, instance, self.now)?;
        self.send(&decision)
    }

    /// What the router's policy would be shown now, and the sums so far.
    pub(crate) fn look(&mut self) -> Result<Look<'_>> {
        let (cluster, queue) = self.router.view(self.now)?;
        let Recorder { tally, records, .. } = &self.recorder;
        Ok(Look { cluster, queue, tally, first_token: &records.first_token })
    }

    /// Gives each row a weight in [`Self::tally`], before the first arrives.
    pub(crate) fn weigh(&mut self, weights: Vec<f64>) {
        self.recorder.tally.weigh(weights);
    }

    /// Sums over the requests so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.recorder.tally
    }

    /// The time of the latest reason to decide.
    pub(crate) fn now(&self) -> Picos {
        self.now
    }

    /// Requests that wait at the router.
    pub(crate) fn waiting(&self) -> usize {
        self.router.waiting()
    }

    /// Sends a request that the router has decided on to its engine.
    fn send(&mut self, decision: &Decision) -> Result<()> {
        let row = usize::try_from(decision.id).unwrap_or(usize::MAX);
        let index = decision.instance.index();
        self.impacts.extend(decision.impact.map(|impact| (row, impact)));
        let at = self.now + self.config.delays.dispatch;
        self.recorder.dispatched(row, self.now, at, decision.instance);
        if !self.disturbances.is_up(index) {
            // It is on its way to an instance whose crash the router has not heard of; the crash's event fails it.
            return Ok(());
        }
        let job = Job {
            tag: decision.id,
            prompt_tokens: self.workload.prompt_tokens()[row],
            output_tokens: self.workload.output_tokens()[row],
            prompt_blocks: self.router.state().request(decision.key)?.prompt_blocks.clone(),
        };
        self.slots[row] = Some(self.engines[index].submit(at, job)?);
        self.look_ahead(index);
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
fn engine(config: &RunConfig, needs: Needs, number: u32) -> Result<FastForward> {
    let NoiseLevels { slice_sigma, instance_sigma } = config.noise;
    let noise = (slice_sigma > 0.0 || instance_sigma > 0.0)
        .then(|| Noise::new(config.noise_seed, number, slice_sigma, instance_sigma))
        .transpose()?;
    let engine = FastForward::new(Arc::clone(&config.engine), noise);
    let cadence = NonZeroU32::new(config.router.progress_tokens).filter(|_| needs.progress);
    Ok(match cadence {
        Some(cadence) => engine.with_progress(cadence),
        None => engine,
    })
}
