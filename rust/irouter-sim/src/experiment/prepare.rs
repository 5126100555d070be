//! What the policies of an experiment share: engines, windows, predictions, warm-up.

use std::ops::Range;
use std::sync::Arc;

use irouter_core::engine::EngineConfig;
use irouter_core::policy::PolicySpec;
use irouter_core::{Picos, Profile};

use crate::error::{Result, SimError};
use crate::metrics::{Outcome, Slo, Unloaded, mean, unloaded};
use crate::prediction::{Population, PredictionSource, Predictor};
use crate::simulator::{RunConfig, Simulator};
use crate::workload::{
    Draw, GeneratorSpec, ReplayPlan, ReplayReport, ReplaySpec, Sequels, Workload, spread_ticks,
};

use super::PolicyFactory;
use super::config::{Experiment, WorkloadSource, seconds};
use super::router_profile::router_profile;
use super::saturation::saturation_rate;

/// Mean E2Es of `round_robin` that are warm-up, and the largest share of a run that may be: one third.
const WARM_UP_E2ES: f64 = 5.0;
const WARM_UP_DIVISOR: usize = 3;
/// Measured arrivals without `requests`: ten minutes' worth, at most so many.
const WINDOW_SECONDS: f64 = 600.0;
const WINDOW_LIMIT: f64 = 20_000.0;
/// Requests of a generator that saturation and lengths are measured on.
const GENERATED_SAMPLE: usize = 20_000;
/// Seed of what is not part of a comparison, so that it shares no draw with any.
pub(super) const CALIBRATION_SEED: u64 = 1 << 40;

/// What all runs of an experiment share.
pub(crate) struct Prepared {
    pub(super) experiment: Experiment,
    pub(super) slo: Slo,
    /// Requests left out because they fit no context.
    pub(super) dropped: u64,
    pub(super) router_profile: Profile,
    /// Completions per second of the whole cluster when it never runs dry.
    pub(super) saturation_rate: f64,
    /// Arrivals per second; `None` where they depend on the run.
    pub(super) rate: Option<f64>,
    engine: Arc<EngineConfig>,
    router_engine: Arc<EngineConfig>,
    source: Source,
    pub(super) predictor: Predictor,
}

/// Where requests come from.
enum Source {
    Trace(Workload),
    Generator(GeneratorSpec),
}

/// The requests of a seed.
struct Arrivals {
    workload: Workload,
    sequels: Option<Arc<Sequels>>,
    /// How many of them, from the first on, are to be measured.
    requests: usize,
}

/// A seed as an agent meets it.
pub(crate) struct Episode {
    pub(crate) config: RunConfig,
    pub(crate) workload: Arc<Workload>,
    pub(crate) predictions: PredictionSource,
    pub(crate) unloaded: Vec<Unloaded>,
}

/// What the runs of one seed share.
pub(super) struct Window {
    pub(super) seed: u64,
    pub(super) workload: Arc<Workload>,
    /// Which rows follow which; `None` where every arrival is known before the run.
    pub(super) sequels: Option<Arc<Sequels>>,
    /// Rows that count: after the warm-up, before the tail that keeps up the load.
    pub(super) measured: Range<usize>,
    pub(super) unloaded: Vec<Unloaded>,
    pub(super) predictions: PredictionSource,
    /// About when the last request arrives.
    pub(super) last_arrival: Picos,
}

impl Prepared {
    pub(crate) fn new(experiment: &Experiment, trace: Option<&Workload>) -> Result<Self> {
        let profile = experiment.engine_profile();
        let engine = Arc::new(EngineConfig::new(&profile)?);
        let router_profile = router_profile(experiment, &profile)?;
        let (source, sample, population, dropped) = match (&experiment.workload, trace) {
            (WorkloadSource::Generated { arrivals, lengths }, None) => {
                let spec = GeneratorSpec { arrivals: arrivals.clone(), lengths: lengths.clone() };
                let draw = Draw {
                    requests: GENERATED_SAMPLE,
                    rate: 1.0,
                    arrival_seed: 0,
                    length_seed: CALIBRATION_SEED,
                };
                let (sample, _) = fitting(experiment, &engine, spec.generate(&draw)?)?;
                let population = Population::new(&spec.output_population()?)?;
                (Source::Generator(spec), sample, population, 0)
            }
            (WorkloadSource::Trace { spread_arrivals_s }, Some(trace)) => {
                let trace = match spread_arrivals_s {
                    Some(tick) => {
                        spread_ticks(trace, seconds("workload.spread_arrivals_s", *tick)?, CALIBRATION_SEED)?
                    }
                    None => trace.clone(),
                };
                let (trace, dropped) = fitting(experiment, &engine, trace)?;
                let population = Population::new(trace.output_tokens())?;
                (Source::Trace(trace.clone()), trace, population, dropped)
            }
            (WorkloadSource::Generated { .. }, Some(_)) => {
                return Err(SimError::field("workload.kind", "generated", "`trace`, since a trace is given"));
            }
            (WorkloadSource::Trace { .. }, None) => {
                return Err(SimError::field("workload.kind", "trace", "a trace beside the experiment"));
            }
        };
        let saturation_rate = f64::from(experiment.instances) * saturation_rate(&engine, &sample)?;
        let wanted = experiment.rate.or(experiment.load.map(|load| load * saturation_rate));
        let rate = match (&source, wanted) {
            _ if experiment.clients.is_some() => None,
            (_, Some(rate)) => Some(rate),
            (Source::Trace(trace), None) => Some(trace.rate().ok_or_else(|| {
                SimError::field("rate", "missing", "a rate, since all rows arrive at once")
            })?),
            (Source::Generator(_), None) => {
                let expected = "`rate`, `load` or `clients` for a generated workload";
                return Err(SimError::field("rate", "missing", expected));
            }
        };
        Ok(Self {
            experiment: experiment.clone(),
            slo: experiment.slo()?,
            dropped,
            router_engine: Arc::new(EngineConfig::new(&router_profile)?),
            router_profile,
            saturation_rate,
            rate,
            engine,
            source,
            predictor: Predictor::fit(
                experiment.predictor.parse()?,
                population,
                experiment.confusion.as_ref(),
            )?,
        })
    }

    /// Arrivals as a share of saturation; `None` where they depend on the run.
    pub(super) fn load(&self) -> Option<f64> {
        self.rate.map(|rate| rate / self.saturation_rate)
    }

    /// At or above saturation there is no steady state: fixed arrivals, run until drained. Clients that wait never ask
    /// for more than the cluster can serve.
    pub(super) fn overload(&self) -> bool {
        self.load().is_some_and(|load| load >= 1.0)
    }

    /// How far the replays of the experiment's seeds are from the trace; `None` for a generated workload.
    pub(super) fn replay_report(&self) -> Result<Option<ReplayReport>> {
        let Source::Trace(trace) = &self.source else { return Ok(None) };
        self.replay(trace)?.report(self.experiment.seed_numbers()).map(Some)
    }

    fn replay<'t>(&self, trace: &'t Workload) -> Result<ReplayPlan<'t>> {
        let rate = self.rate.filter(|_| self.experiment.changes_rate());
        ReplayPlan::new(trace, &ReplaySpec { rate, requests: self.experiment.requests })
    }

    /// Requests after the measured ones: as many again keep the load up until the last measured one is done, where a run
    /// stops by itself. None in an overload run, and none for a trace as it stands.
    fn tail(&self, requests: usize) -> usize {
        let as_it_stands = matches!(self.source, Source::Trace(_))
            && self.experiment.clients.is_none()
            && !self.experiment.changes_rate()
            && self.experiment.requests.is_none();
        if self.overload() || as_it_stands { 0 } else { requests }
    }

    /// The requests of a seed that are to be measured, and `tail` of their number more.
    fn arrivals(&self, seed: u64, tail: impl FnOnce(usize) -> usize) -> Result<Arrivals> {
        let (workload, requests) = match &self.source {
            Source::Generator(spec) => {
                // Clients have no use for the times of arrival, whatever their rate.
                let rate = self.rate.unwrap_or(self.saturation_rate);
                let requests = self.experiment.requests.unwrap_or_else(|| generated_requests(rate));
                let length = requests + tail(requests);
                let draw = Draw { requests: length, rate, arrival_seed: seed, length_seed: seed };
                (spec.generate(&draw)?, requests)
            }
            Source::Trace(trace) => {
                let plan = self.replay(trace)?;
                (plan.generate(seed, plan.measured() + tail(plan.measured()))?, plan.measured())
            }
        };
        let (workload, _) = fitting(&self.experiment, &self.engine, workload)?;
        let requests = requests.min(workload.len());
        if let Some(clients) = self.experiment.clients
            && clients.count as usize > requests
        {
            let expected = format!("at most one per request, of which there are {requests}");
            return Err(SimError::field("clients.count", clients.count, expected));
        }
        let sequels = Sequels::new(&workload, self.experiment.clients()?, seed);
        let (workload, sequels) = match sequels {
            Some(sequels) => {
                let dispatch = self.experiment.delays()?.dispatch;
                let e2e = |row| self.unloaded(&workload, row, dispatch).e2e;
                let (workload, sequels) = sequels.in_expected_order(&workload, e2e)?;
                (workload, Some(Arc::new(sequels)))
            }
            None => (workload, None),
        };
        Ok(Arrivals { workload, sequels, requests })
    }

    /// How a request of the workload fares alone on an idle instance.
    fn unloaded(&self, workload: &Workload, row: usize, dispatch: Picos) -> Unloaded {
        unloaded(&self.engine, workload.prompt_tokens()[row], workload.output_tokens()[row], dispatch)
    }

    /// A seed as an agent meets it: every request of it counts, from the first to the last.
    pub(crate) fn episode(&self, seed: u64) -> Result<Episode> {
        let Arrivals { workload, sequels, .. } = self.arrivals(seed, |_| 0)?;
        let config = self.run_config(seed, 0..workload.len(), sequels, "agent")?;
        let unloaded = |row| self.unloaded(&workload, row, config.delays.dispatch);
        Ok(Episode {
            unloaded: (0..workload.len()).map(unloaded).collect(),
            predictions: self.predictor.predict(&workload, seed)?,
            workload: Arc::new(workload),
            config,
        })
    }

    /// The arrivals of a seed, with what every policy meets in them.
    pub(super) fn window(&self, seed: u64, policies: &dyn PolicyFactory) -> Result<Window> {
        let Arrivals { workload, sequels, requests } = self.arrivals(seed, |requests| self.tail(requests))?;
        let dispatch = self.experiment.delays()?.dispatch;
        let mut window = Window {
            seed,
            unloaded: (0..workload.len()).map(|row| self.unloaded(&workload, row, dispatch)).collect(),
            sequels,
            predictions: self.predictor.predict(&workload, seed)?,
            measured: 0..requests,
            last_arrival: workload.arrival()[workload.len() - 1],
            workload: Arc::new(workload),
        };
        if !self.overload() {
            self.rehearse(&mut window, policies)?;
        }
        Ok(window)
    }

    /// Runs `round_robin` to find the warm-up, the same for every policy: requests that arrive within five mean E2Es, at most
    /// a third of the run. Clients begin by thinking, so theirs lasts a mean think time longer.
    fn rehearse(&self, window: &mut Window, policies: &dyn PolicyFactory) -> Result<()> {
        let config = self.window_config(window, "round_robin")?;
        let policy = policies.build(&PolicySpec::named("round_robin"), window.seed)?;
        let simulator =
            Simulator::new(config, policy, Arc::clone(&window.workload), window.predictions.clone())?;
        let records = simulator.run()?.records;
        let completed = window.measured.clone().filter(|&row| records.outcome[row] == Outcome::Completed);
        let times: Vec<f64> =
            completed.map(|row| (records.finished[row] - records.arrival[row]).as_seconds()).collect();
        let mean = mean(&times).unwrap_or(0.0);
        let thinking = self.experiment.clients.map_or(0.0, |clients| clients.think_time_s);
        let warm_up = Picos::from_seconds(WARM_UP_E2ES * mean + thinking).unwrap_or(Picos::MAX);
        let arrivals = &records.arrival[window.measured.clone()];
        let start = arrivals.iter().copied().min().unwrap_or_default();
        let within = arrivals.iter().filter(|&&arrival| arrival - start < warm_up).count();
        window.measured.start = within.min(window.measured.end / WARM_UP_DIVISOR);
        if window.sequels.is_some() {
            window.last_arrival = arrivals.iter().copied().max().unwrap_or_default();
        }
        Ok(())
    }

    /// The configuration of a run over a window.
    pub(super) fn window_config(&self, window: &Window, policy_name: &str) -> Result<RunConfig> {
        self.run_config(window.seed, window.measured.clone(), window.sequels.clone(), policy_name)
    }

    fn run_config(
        &self,
        seed: u64,
        measured: Range<usize>,
        sequels: Option<Arc<Sequels>>,
        policy_name: &str,
    ) -> Result<RunConfig> {
        let experiment = &self.experiment;
        Ok(RunConfig {
            instances: experiment.instances,
            engine: Arc::clone(&self.engine),
            router_engine: Arc::clone(&self.router_engine),
            policy_name: policy_name.to_owned(),
            seed,
            noise_seed: seed,
            noise: experiment.noise(),
            router: experiment.router()?,
            delays: experiment.delays()?,
            staleness: experiment.staleness()?,
            measured,
            sequels,
            aborts: experiment.aborts(),
            leak_share: experiment.leaks.map_or(0.0, |leaks| leaks.share),
            crashes: experiment.crashes()?,
            slow: experiment.slow()?,
            readings: None,
        })
    }
}

/// Ten minutes' worth of measured requests, within limits.
fn generated_requests(rate: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to the limit")]
    {
        (rate * WINDOW_SECONDS).clamp(1.0, WINDOW_LIMIT) as usize
    }
}

/// The requests that fit the context and the KV cache; those that do not are an error unless they are to be dropped.
fn fitting(experiment: &Experiment, engine: &EngineConfig, source: Workload) -> Result<(Workload, u64)> {
    let capacity = u64::from(engine.kv.blocks) * u64::from(engine.kv.block_tokens);
    let limit = capacity.min(u64::from(engine.max_model_len));
    let fits = |row: &usize| {
        u64::from(source.prompt_tokens()[*row]) + u64::from(source.output_tokens()[*row]) <= limit
    };
    let rows: Vec<usize> = (0..source.len()).filter(fits).collect();
    let dropped = source.len() - rows.len();
    if dropped == 0 {
        return Ok((source, 0));
    }
    let first = (0..source.len()).find(|row| !fits(row)).unwrap_or_default();
    if !experiment.drop_too_long || rows.is_empty() {
        let request = irouter_core::Error::TooLong {
            id: first as u64,
            prompt_tokens: source.prompt_tokens()[first],
            output_tokens: source.output_tokens()[first],
            limit: if limit < capacity { "max_model_len" } else { "kv.blocks" },
            tokens: limit,
        };
        return Err(SimError::TooLong { request, too_long: dropped, requests: source.len() });
    }
    Ok((Workload::new(source.into_columns().gather(&rows))?, dropped as u64))
}
