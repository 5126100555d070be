//! Forecast curves: what an instance will hold at future decode steps, in expectation and spread.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use crate::request::Request;
use crate::state::{InstanceState, Resident};

/// Future decode steps at which a forecast is taken: close together where much changes.
pub const GRID: [u32; 24] = [
    0, 8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1536,
    2048, 4096,
];
const POINTS: usize = GRID.len();

/// -zeta(1/2) / sqrt(2 pi).
const CONTINUITY: f64 = 0.5826;

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
/// * requests that wait in the engine's queue enter in order at the first step of [`GRID`] at which, in expectation, they
///   find a batch slot and room for their prompt.
///
/// Lengths are taken as independent. Blocks that requests share count for each of them, less what the twin says is shared
/// now. O([`GRID`]) per request.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    residents: [f64; POINTS],
    tokens: [f64; POINTS],
    variance: [f64; POINTS],
    /// Of the tokens at each point and the one before.
    covariance: [f64; POINTS],
    /// Tokens that a request holds beyond its context, on average: half a block.
    slack_tokens: f64,
}

impl Forecast {
    /// The forecast of an instance with these requests in flight.
    pub fn new<'a>(instance: &InstanceState, residents: impl Iterator<Item = Resident<'a>>) -> Self {
        let block_tokens = f64::from(instance.config().kv.block_tokens);
        let mut forecast = Self {
            residents: [0.0; POINTS],
            tokens: [0.0; POINTS],
            variance: [0.0; POINTS],
            covariance: [0.0; POINTS],
            slack_tokens: 0.5 * (block_tokens - 1.0),
        };
        let mut waiting = Vec::new();
        for resident in residents {
            let produced = produced(instance, &resident);
            if produced == 0 {
                waiting.push(resident.request);
            } else {
                forecast.add(resident.request, produced, 0);
            }
        }
        forecast.share(instance, block_tokens);
        // The engine serves its queue in the order of arrival there; the router's numbers are as good a guess.
        waiting.sort_by_key(|request| (request.arrival, request.id));
        for request in waiting {
            let start = forecast.start(instance, request);
            forecast.add(request, 0, start);
        }
        forecast
    }

    /// The same with one request more, which starts now.
    #[must_use]
    pub fn with(&self, request: &Request) -> Self {
        let mut forecast = self.clone();
        forecast.add(request, 0, 0);
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

    /// The probability that the requests at some step hold more than `capacity_tokens`, when nobody else comes.
    ///
    /// An approximation: tokens are taken as normal, and from one step of [`GRID`] to the next the distribution of the
    /// tokens, given that there was no overflow so far, is taken as normal again with its own mean and variance. For what
    /// happens between two steps the capacity is lowered by 0.5826 standard deviations of the change (Broadie, Glasserman
    /// and Kou, "A continuity correction for discrete barrier options", 1997). The largest probability at any one step would be far too low: what overflows at different steps in
    /// different futures adds up.
    pub fn overflow_probability(&self, capacity_tokens: f64) -> f64 {
        let mut safe = 1.0;
        // Mean and variance of the tokens at the point before, given no overflow up to it.
        let (mut mean, mut variance) = (self.tokens[0], 0.0);
        for point in 0..POINTS {
            let mut between = 0.0;
            if point > 0 {
                let change = self.variance[point] + self.variance[point - 1] - 2.0 * self.covariance[point];
                between = CONTINUITY * libm::sqrt(change.max(0.0));
                let before = self.variance[point - 1];
                let slope = if before > 0.0 { self.covariance[point] / before } else { 0.0 };
                mean = self.tokens[point] + slope * (mean - self.tokens[point - 1]);
                variance = self.variance[point] + slope * (slope * variance - self.covariance[point]);
            }
            // Exact lengths have no spread.
            let deviation = libm::sqrt(variance.max(1e-18));
            let limit = (capacity_tokens - between - mean) / deviation;
            let below = 0.5 * libm::erfc(-limit * FRAC_1_SQRT_2);
            safe *= below;
            if safe < 1e-12 {
                return 1.0;
            }
            // The normal distribution cut off at the limit.
            let density = libm::exp(-0.5 * limit * limit) * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI * 0.5 / below;
            mean -= density * deviation;
            variance *= (1.0 - density * (limit + density)).max(0.0);
        }
        1.0 - safe
    }

    /// Adds a request that has produced `produced` tokens and is there from step `GRID[start]` on.
    fn add(&mut self, request: &Request, produced: u32, start: usize) {
        let context = f64::from(request.prompt_tokens) + f64::from(produced) + self.slack_tokens;
        // At the point before: the tokens held, if there, and the probability of not being there.
        let (mut before, mut gone) = (0.0, 0.0);
        let steps = GRID[start..].iter().map(|step| step - GRID[start]);
        let chances = request.predicted.outlasts(produced, request.max_tokens, steps.clone());
        for ((point, steps), there) in (start..POINTS).zip(steps).zip(chances) {
            if there <= 0.0 {
                break;
            }
            let held = context + f64::from(steps);
            self.residents[point] += there;
            self.tokens[point] += held * there;
            self.variance[point] += held * held * there * (1.0 - there);
            self.covariance[point] += before * held * there * gone;
            (before, gone) = (held, 1.0 - there);
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

    /// The first point at which a request that waits in the engine finds a batch slot and room for its prompt.
    fn start(&self, instance: &InstanceState, request: &Request) -> usize {
        let slots = f64::from(instance.config().scheduler.max_num_seqs);
        let room = instance.kv_capacity_tokens() as f64 - f64::from(request.prompt_tokens);
        let fits = |point: &usize| self.residents[*point] + 1.0 <= slots && self.tokens[*point] <= room;
        (0..POINTS).find(fits).unwrap_or(POINTS - 1)
    }
}

/// Tokens that a request has produced: what the twin thinks, which is never behind what is known.
fn produced(instance: &InstanceState, resident: &Resident<'_>) -> u32 {
    match (instance.twin(), resident.slot) {
        (Some(twin), Some(slot)) => twin.produced(slot).max(resident.produced),
        _ => resident.produced,
    }
}
