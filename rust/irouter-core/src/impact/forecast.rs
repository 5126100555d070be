//! Forecast curves: what an instance will hold at future decode steps, in expectation and spread.

use crate::engine::{Executor, FastForward};
use crate::profile::Scale;
use crate::request::Request;
use crate::state::{InstanceState, Resident, State, Twin};
use crate::time::Picos;

use super::curve::{Curve, GRID, POINTS, WIDTHS};
use super::line::Line;
use super::overflow::{Moments, probability};

/// Residents and KV cache of an instance over the coming decode steps, from predicted length distributions.
///
/// ```text
/// D(t) = sum of S_i(t)                              expected residents
/// K(t) = sum of c_i(t) S_i(t)                       expected tokens
/// C(s, t) = sum of c_i(s) c_i(t) S_i(t) (1 - S_i(s))    their covariance, s <= t
/// ```
///
/// * `S_i(t)`: probability that request `i` is still there after `t` more decode steps, given what it has produced; 0 from
///   its `max_tokens` on;
/// * `c_i(t)`: tokens that it holds in the KV cache then, half a block for its last one included;
/// * requests that wait in the engine's queue enter in order at the first step at which, in expectation, they find a batch
///   slot and room for their prompt.
///
/// Lengths are taken as independent. Blocks that requests share count for each of them, less what the twin says is shared
/// now. O([`GRID`]) per request.
///
/// [`Forecast::impact`] makes seconds of them: see there.
#[derive(Clone, Debug)]
pub struct Forecast {
    pub(super) residents: [f64; POINTS],
    tokens: [f64; POINTS],
    variance: [f64; POINTS],
    /// Of the tokens at each point and the one before.
    covariance: [f64; POINTS],
    /// Residents on average from each point to the next.
    pub(super) mean_residents: [f64; POINTS],
    /// The sum of their contexts.
    pub(super) mean_context: [f64; POINTS],
    /// Seconds of a step there.
    pub(super) step_seconds: [f64; POINTS],
    /// Seconds of all steps before each point.
    pub(super) elapsed_seconds: [f64; POINTS],
    /// Tokens that a request holds beyond its context, on average: half a block.
    slack_tokens: f64,
    /// Prompts that are to be computed before a newcomer's.
    pub(super) line: Line,
}

/// A request that may go to an instance.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    pub(super) request: &'a Request,
    /// As if it were admitted at once.
    pub(super) curve: Curve,
}

impl<'a> Candidate<'a> {
    /// The request as it waits at the router. O([`GRID`]), once for all instances.
    pub fn new(request: &'a Request) -> Self {
        Self { request, curve: Curve::new(request, 0, 0) }
    }

    /// Mean and variance of the tokens that it alone holds in the KV cache at each step of [`GRID`], with blocks of
    /// `block_tokens` tokens.
    pub fn tokens(&self, block_tokens: u32) -> ([f64; GRID.len()], [f64; GRID.len()]) {
        let slack = slack_tokens(block_tokens);
        let (mut means, mut variances) = ([0.0; POINTS], [0.0; POINTS]);
        for point in 0..POINTS {
            let held = self.curve.held(point, slack);
            means[point] = held * self.curve.there[point];
            variances[point] = held * means[point] * self.curve.gone[point];
        }
        (means, variances)
    }
}

impl Forecast {
    /// The forecast of an instance with the requests that it has in flight at `now`.
    pub fn new(state: &State, instance: &InstanceState, now: Picos) -> Self {
        let engine = instance.twin().map(Twin::engine);
        let block_tokens = f64::from(instance.config().kv.block_tokens);
        let arrives = now.saturating_add(state.dispatch_delay());
        let seen = engine.map_or(arrives, |engine| engine.seen_at(arrives));
        let mut forecast = Self {
            residents: [0.0; POINTS],
            tokens: [0.0; POINTS],
            variance: [0.0; POINTS],
            covariance: [0.0; POINTS],
            mean_residents: [0.0; POINTS],
            mean_context: [0.0; POINTS],
            step_seconds: [0.0; POINTS],
            elapsed_seconds: [0.0; POINTS],
            slack_tokens: slack_tokens(instance.config().kv.block_tokens),
            line: Line::new(engine.map_or(Scale::ONE, FastForward::speed), (seen - now).as_seconds()),
        };
        let mut waiting = Vec::new();
        for resident in state.residents(instance.id()) {
            let produced = produced(engine, &resident);
            let uncomputed = uncomputed(engine, &resident, produced);
            if uncomputed > 0 {
                waiting.push((resident.request, produced, uncomputed));
            } else {
                forecast.line.decodes(resident.request.prompt_tokens + produced);
                forecast.add(&Curve::new(resident.request, produced, 0));
            }
        }
        forecast.share(instance, block_tokens);
        // The engine serves its queue in the order of arrival there; the router's numbers are as good a guess.
        waiting.sort_by_key(|(request, ..)| (request.arrival, request.id));
        for (request, produced, uncomputed) in waiting {
            let input = request.prompt_tokens + produced;
            let room = forecast.room_after(instance, input, forecast.line.start());
            let start = forecast.line.join(instance.config(), room, uncomputed, input - uncomputed);
            forecast.add(&Curve::new(request, produced, start));
        }
        forecast.time_steps(instance);
        forecast
    }

    /// Expected number of requests at each step of [`GRID`].
    pub fn residents(&self) -> &[f64; GRID.len()] {
        &self.residents
    }

    /// Expected tokens in the KV cache at each step of [`GRID`].
    pub fn tokens(&self) -> &[f64; GRID.len()] {
        &self.tokens
    }

    /// Variance of the tokens in the KV cache at each step of [`GRID`].
    pub fn variance(&self) -> &[f64; GRID.len()] {
        &self.variance
    }

    /// The probability that the requests at some step hold more than `capacity_tokens`, when nobody else comes: an
    /// approximation by normal distributions.
    pub fn overflow_probability(&self, capacity_tokens: f64) -> f64 {
        probability(capacity_tokens, (0..POINTS).map(|point| self.moments(point)))
    }

    /// The same with a request more, which starts now.
    pub fn overflow_probability_with(&self, candidate: &Candidate<'_>, capacity_tokens: f64) -> f64 {
        self.overflow_probability_along(&candidate.curve, capacity_tokens)
    }

    pub(super) fn overflow_probability_along(&self, curve: &Curve, capacity_tokens: f64) -> f64 {
        let with = (0..POINTS).map(|point| {
            let (own, here) = (self.own(curve, point), self.moments(point));
            Moments {
                mean: here.mean + own.mean,
                variance: here.variance + own.variance,
                covariance: here.covariance + own.covariance,
            }
        });
        probability(capacity_tokens, with)
    }

    /// The point at which, while a request more may be there, the most tokens are expected, and how many.
    pub(super) fn peak_along(&self, curve: &Curve) -> (usize, f64) {
        let with = |point| self.tokens[point] + self.own(curve, point).mean;
        (0..POINTS)
            .map(|point| (point, with(point)))
            .fold((0, 0.0), |most, here| if here.1 > most.1 { here } else { most })
    }

    /// Tokens that become free in a step, on average from a point until half of what is held there.
    pub(super) fn decline_from(&self, peak: usize) -> f64 {
        let held = self.tokens[peak];
        let half = (peak + 1..POINTS).find(|&point| self.tokens[point] <= 0.5 * held).unwrap_or(POINTS - 1);
        let steps = f64::from(GRID[half] - GRID[peak]).max(1.0);
        ((held - self.tokens[half]) / steps).max(1.0)
    }

    /// The first step, from `not_before` on, at which an input finds a batch slot and room, by expectations.
    ///
    /// Between two points of the grid slots and tokens in use are taken as linear. Requests that start and end there are in
    /// neither of the points: once the line has come as far as into a span, what is used of it on average counts as used from
    /// its beginning on.
    pub(super) fn room_after(&self, instance: &InstanceState, input_tokens: u32, not_before: u32) -> u32 {
        let config = instance.config();
        let slots = f64::from(config.scheduler.max_num_seqs) - 1.0;
        let kept = f64::from(config.watermark_blocks()) * f64::from(config.kv.block_tokens);
        let room = (instance.kv_capacity_tokens() as f64 - f64::from(input_tokens) - kept).max(1.0);
        if not_before == 0 && self.residents[0] <= slots && self.tokens[0] <= room || self.residents[0] <= 0.0
        {
            return not_before;
        }
        let first = GRID.partition_point(|&step| step <= not_before).saturating_sub(1);
        for point in first..POINTS - 1 {
            // Those of the line that start in a span are there at its end.
            let inside = not_before > GRID[point];
            let crossing = |curve: &[f64; POINTS], limit: f64| match (curve[point], curve[point + 1]) {
                (_, below) if inside && below <= limit => 0.0,
                (above, _) if !inside && above <= limit => 0.0,
                (above, below) if !inside && below <= limit => (above - limit) / (above - below),
                _ => 1.0,
            };
            let mut share = crossing(&self.residents, slots).max(crossing(&self.tokens, room));
            if inside {
                let tokens = self.mean_context[point] + self.slack_tokens * self.mean_residents[point];
                share = share.max(tokens / room).max(self.mean_residents[point] / (slots + 1.0));
            }
            if share < 1.0 {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "below the next point"
                )]
                let start = GRID[point] + libm::ceil(share * WIDTHS[point]) as u32;
                return start.max(not_before);
            }
        }
        GRID[POINTS - 1].max(not_before)
    }

    fn moments(&self, point: usize) -> Moments {
        Moments {
            mean: self.tokens[point],
            variance: self.variance[point],
            covariance: self.covariance[point],
        }
    }

    /// What one request adds at a point.
    #[inline]
    fn own(&self, curve: &Curve, point: usize) -> Moments {
        let held = curve.held(point, self.slack_tokens);
        let mean = held * curve.there[point];
        let before = point.saturating_sub(1);
        let covariance = mean * curve.held(before, self.slack_tokens) * curve.gone[before];
        Moments { mean, variance: held * mean * curve.gone[point], covariance }
    }

    /// Adds a request. Over all points, since a loop without branches is faster than a short one with them.
    fn add(&mut self, curve: &Curve) {
        for (point, width) in WIDTHS.iter().enumerate() {
            let Moments { mean, variance, covariance } = self.own(curve, point);
            self.residents[point] += curve.there[point];
            self.tokens[point] += mean;
            self.variance[point] += variance;
            self.covariance[point] += covariance;
            let steps = curve.steps[point] / width;
            self.mean_residents[point] += steps;
            self.mean_context[point] += curve.mean_context(point) * steps;
        }
    }

    /// Takes off what the running requests share, by the twin's count of the blocks in use, and less the fewer are left.
    fn share(&mut self, instance: &InstanceState, block_tokens: f64) {
        let Some(twin) = instance.twin() else { return };
        let used = f64::from(twin.load().used_blocks) * block_tokens;
        let (now, there) = (self.tokens[0], self.residents[0]);
        if used > 0.0 && used < now {
            for (tokens, residents) in self.tokens.iter_mut().zip(&self.residents) {
                *tokens -= (now - used) * residents / there;
            }
        }
    }

    fn time_steps(&mut self, instance: &InstanceState) {
        let steps = &instance.config().steps;
        let mut elapsed = 0.0;
        for (point, width) in WIDTHS.iter().enumerate() {
            let (residents, context) = (self.mean_residents[point], self.mean_context[point]);
            self.elapsed_seconds[point] = elapsed;
            self.step_seconds[point] = steps.decode_seconds(residents, context, self.line.speed());
            elapsed += width * self.step_seconds[point];
        }
    }
}

/// Tokens that a request holds beyond its context, on average: half a block.
fn slack_tokens(block_tokens: u32) -> f64 {
    0.5 * (f64::from(block_tokens) - 1.0)
}

/// Tokens that a request has produced: what the twin thinks, which is never behind what is known.
fn produced(engine: Option<&FastForward>, resident: &Resident<'_>) -> u32 {
    match (engine, resident.slot) {
        (Some(engine), Some(slot)) => engine.produced(slot).max(resident.produced),
        _ => resident.produced,
    }
}

/// Tokens of its input that no step computes yet, less what was expected in the prefix cache.
fn uncomputed(engine: Option<&FastForward>, resident: &Resident<'_>, produced: u32) -> u32 {
    let Resident { request, uncached_tokens, .. } = *resident;
    match (engine, resident.slot) {
        (Some(engine), Some(slot)) => {
            let uncomputed = engine.uncomputed(slot);
            // One that prefills already has what was cached.
            let waits = uncomputed >= request.prompt_tokens + produced;
            if waits { uncomputed - (request.prompt_tokens - uncached_tokens) } else { uncomputed }
        }
        _ if produced == 0 => uncached_tokens,
        _ => 0,
    }
}
