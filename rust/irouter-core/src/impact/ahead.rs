//! Fast-forward: an instance's twin run to its end, with and without the request.

use crate::engine::{Executor, FastForward, Job, Observer};
use crate::error::Result;
use crate::hash::mix;
use crate::request::Request;
use crate::state::{InstanceState, State};
use crate::time::Picos;

use super::Impact;

/// At which lengths a twin is run ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    /// What a request is known to have produced and the mean of what is to come, given that.
    Mean,
    /// The quantile (0 to 1, exclusive) of its length, given what it has produced.
    Quantile(f64),
    /// Drawn from its distribution, given what it has produced: by this number and that of the request, so that a request
    /// is as lucky in one run as in the next.
    Drawn(u64),
}

impl Lengths {
    /// Output tokens of a request, of which `produced` are known and `remaining` are expected.
    fn tokens(self, request: &Request, produced: u32, remaining: f64) -> u32 {
        let quantile = |level| request.predicted.quantile_beyond(produced, level, request.max_tokens);
        let tokens = match self {
            Self::Mean => f64::from(produced) + remaining,
            Self::Quantile(level) => quantile(level),
            Self::Drawn(seed) => {
                let uniform = ((mix(seed, request.id) >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
                quantile(uniform)
            }
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to max_tokens")]
        {
            libm::round(tokens) as u32
        }
    }
}

/// Number of the request in a run ahead; those in flight have the numbers of their slots.
pub(crate) const OWN_TAG: u64 = u64::MAX;

/// A copy of the instance's twin that ends its requests at these lengths; `None` without a twin.
pub(crate) fn run_ahead(state: &State, instance: &InstanceState, lengths: Lengths) -> Option<FastForward> {
    let mut engine = instance.twin()?.engine().forecast();
    for resident in state.residents(instance.id()) {
        if let Some(slot) = resident.slot {
            let tokens = lengths.tokens(resident.request, resident.produced, resident.remaining_tokens);
            engine.set_output_tokens(slot, tokens);
        }
    }
    Some(engine)
}

/// The request as the copy gets it; `None` when its prompt leaves no room for a token.
pub(crate) fn own_job(instance: &InstanceState, request: &Request, lengths: Lengths) -> Option<Job> {
    let room = instance.config().longest_request().saturating_sub(request.prompt_tokens);
    let tokens = lengths.tokens(request, 0, request.predicted.mean(request.max_tokens));
    (room > 0).then(|| Job {
        tag: OWN_TAG,
        prompt_tokens: request.prompt_tokens,
        output_tokens: tokens.clamp(1, room),
        prompt_blocks: request.prompt_blocks.clone(),
    })
}

/// What happens in a run to the end.
#[derive(Clone, Debug, Default)]
struct Run {
    /// Of the requests in flight, in order of their numbers.
    ends: Vec<(u64, Picos)>,
    own_first_token: Option<Picos>,
    own_end: Option<Picos>,
    preemptions: u32,
    peak_blocks: u32,
}

impl Observer for Run {
    fn first_token(&mut self, tag: u64, at: Picos) {
        if tag == OWN_TAG {
            self.own_first_token = Some(at);
        }
    }

    fn preempted(&mut self, _tag: u64, _at: Picos) {
        self.preemptions += 1;
    }

    fn finished(&mut self, tag: u64, at: Picos) {
        if tag == OWN_TAG {
            self.own_end = Some(at);
        } else {
            self.ends.push((tag, at));
        }
    }
}

impl Run {
    fn to_the_end(mut engine: FastForward) -> Result<Self> {
        let mut run = Self::default();
        engine.advance(Picos::MAX, &mut run)?;
        run.ends.sort_unstable();
        run.peak_blocks = engine.peak_blocks();
        Ok(run)
    }
}

/// The runs of an instance without the request, kept until an event changes something there.
#[derive(Clone, Debug)]
pub(super) struct Baseline {
    version: u64,
    /// When the first of the requests ends in one of them: a twin, which waits for the event, then goes on otherwise.
    holds_until: Picos,
    runs: Vec<Run>,
}

impl Baseline {
    pub(super) fn new(state: &State, instance: &InstanceState, lengths: &[Lengths]) -> Result<Self> {
        let engines = lengths.iter().filter_map(|&lengths| run_ahead(state, instance, lengths));
        let runs = engines.map(Run::to_the_end).collect::<Result<Vec<_>>>()?;
        let ends = runs.iter().flat_map(|run| &run.ends).map(|&(_, end)| end);
        let holds_until = ends.min().unwrap_or(Picos::MAX);
        Ok(Self { version: instance.version(), holds_until, runs })
    }

    /// Whether it is what would be found now.
    pub(super) fn holds(&self, instance: &InstanceState, now: Picos) -> bool {
        self.version == instance.version() && now < self.holds_until
    }

    /// The latency impact of a request, on average over the runs.
    ///
    /// ```text
    /// inflicted = sum over the requests there of (end with it - end without it)
    /// ```
    pub(super) fn impact(
        &self,
        state: &State,
        instance: &InstanceState,
        request: &Request,
        now: Picos,
        lengths: &[Lengths],
    ) -> Result<Impact> {
        let cached_tokens = instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref());
        let mut mean = Impact {
            ttft_seconds: 0.0,
            e2e_seconds: 0.0,
            inflicted_seconds: 0.0,
            largest_inflicted_seconds: 0.0,
            kv_peak_share: 0.0,
            overflow_probability: 0.0,
            preemptions: None,
            cached_tokens,
            residents: instance.in_flight(),
            prompts_ahead: instance.awaiting_first_token(),
        };
        let share = 1.0 / self.runs.len() as f64;
        let seconds = |at: Option<Picos>| at.map_or(f64::INFINITY, |at| (at - now).as_seconds());
        let mut preemptions = 0.0;
        for (without, &lengths) in self.runs.iter().zip(lengths) {
            let (Some(mut engine), Some(job)) =
                (run_ahead(state, instance, lengths), own_job(instance, request, lengths))
            else {
                continue;
            };
            engine.submit(now.saturating_add(state.dispatch_delay()), job)?;
            let with = Run::to_the_end(engine)?;
            let mut largest = 0.0_f64;
            for (&(_, before), &(_, after)) in without.ends.iter().zip(&with.ends) {
                let delay = (after - before).as_seconds();
                mean.inflicted_seconds += share * delay;
                largest = largest.max(delay);
            }
            mean.ttft_seconds += share * seconds(with.own_first_token);
            mean.e2e_seconds += share * seconds(with.own_end);
            mean.largest_inflicted_seconds += share * largest;
            mean.kv_peak_share +=
                share * f64::from(with.peak_blocks) / f64::from(instance.config().kv.blocks);
            mean.overflow_probability += share * f64::from(u8::from(with.preemptions > 0));
            preemptions += share * (f64::from(with.preemptions) - f64::from(without.preemptions));
        }
        mean.preemptions = Some(preemptions);
        Ok(mean)
    }
}
