//! A trace at another rate, and many windows of one trace.

use std::collections::BTreeSet;

use irouter_core::Picos;
use irouter_core::hash::mix;
use rand_chacha::ChaCha8Rng;

use super::{Workload, WorkloadColumns};
use crate::error::{Result, SimError};
use crate::random::{Purpose, generator, index_below, uniform};

/// How long the measured part of a replay lasts unless its number of requests is given.
const DEFAULT_SECONDS: f64 = 600.0;
/// The most requests that it then has.
const DEFAULT_MOST: usize = 20_000;
/// Rows set apart per row that a window is expected to need, where how many it needs is a matter of chance.
const SLACK: f64 = 1.1;

/// What is wanted of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReplaySpec {
    /// Requests per second; the trace's own unless given.
    pub rate: Option<f64>,
    /// Measured requests. Unless given: the whole trace without a wanted rate, else ten minutes' worth, at most 20,000.
    pub requests: Option<usize>,
}

/// How a trace is replayed: at `factor` times its rate, over windows that differ from seed to seed.
///
/// * `factor` below 1: each row is kept with that probability.
/// * 1 to 2: time is compressed.
/// * Above 2: `ceil(factor / 2)` copies of the trace, each shifted around it, are superposed, then compressed.
///
/// The trace is a circle, closed by one mean gap. It is cut into as many windows as hold the measured requests; seeds (and
/// the copies of a seed) take them in a random order, so that they share no row while the windows last. Then the
/// circle is cut again at another place. Seed 0 of a replay without wanted rate and requests is the trace as it
/// stands.
#[derive(Clone, Debug)]
pub struct ReplayPlan<'a> {
    trace: &'a Workload,
    factor: f64,
    copies: usize,
    measured: usize,
    windows: usize,
    period: Picos,
}

/// How far a replay is from its trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayReport {
    /// Wanted rate over the trace's.
    pub factor: f64,
    /// Copies of the trace superposed.
    pub copies: usize,
    /// Whether no row of the trace is measured twice, over all seeds.
    pub disjoint: bool,
    /// How often a row that is measured at all is measured, on average over all seeds.
    pub row_reuse: f64,
    /// Coefficient of variation of the trace's gaps.
    pub cv_before: Option<f64>,
    /// The same of the measured arrivals, averaged over the seeds.
    pub cv_after: Option<f64>,
}

impl<'a> ReplayPlan<'a> {
    /// Plans the replay of `trace`.
    ///
    /// # Errors
    /// [`SimError::Field`] for a rate that is not above 0 or not finite, for 0 requests, and for a rate wanted of a trace
    /// whose requests all arrive at once.
    pub fn new(trace: &'a Workload, spec: &ReplaySpec) -> Result<Self> {
        if spec.requests == Some(0) {
            return Err(SimError::field("requests", 0, "at least 1"));
        }
        let factor = match (spec.rate, trace.rate()) {
            (None, _) => 1.0,
            (Some(wanted), _) if !wanted.is_finite() || wanted <= 0.0 => {
                return Err(SimError::field(
                    "rate",
                    wanted,
                    "a finite number of requests per second above 0",
                ));
            }
            (Some(wanted), None) => {
                return Err(SimError::field("rate", wanted, "none: the trace's requests all arrive at once"));
            }
            (Some(wanted), Some(rate)) => wanted / rate,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
        let whole = |number: f64| number as usize;
        let measured = match (spec.requests, spec.rate) {
            (Some(requests), _) => requests,
            (None, None) => trace.len(),
            (None, Some(rate)) => whole(libm::round(rate * DEFAULT_SECONDS)).clamp(1, DEFAULT_MOST),
        };
        let copies = if factor > 2.0 { whole(libm::ceil(factor / 2.0)) } else { 1 };
        let slack = if copies > 1 || factor < 1.0 { SLACK } else { 1.0 };
        let rows_per_window = measured as f64 / copies as f64 / factor.min(1.0) * slack;
        let windows = whole(trace.len() as f64 / rows_per_window).max(1);
        let rows = trace.len().cast_signed() as i64;
        let period = if rows > 1 { Picos(trace.span().0 / (rows - 1) * rows) } else { Picos::ZERO };
        Ok(Self { trace, factor, copies, measured, windows, period })
    }

    /// Number of measured requests: the first of every replay.
    pub fn measured(&self) -> usize {
        self.measured
    }

    /// The replay of `seed`, `requests` long. A longer one begins with the shorter one, so that arrivals can go on until the
    /// last measured request is done.
    ///
    /// A copy, and another lap around the trace, stands for other users: its sessions and prefixes are its own.
    ///
    /// # Errors
    /// [`SimError::Field`] for 0 requests, and when the replay goes on beyond 106 days.
    pub fn generate(&self, seed: u64, requests: usize) -> Result<Workload> {
        if requests == 0 {
            return Err(SimError::field("requests", 0, "at least 1"));
        }
        let picks = self.picks(seed, requests)?;
        let rows: Vec<usize> = picks.iter().map(|pick| pick.row).collect();
        let mut columns = self.trace.columns().gather(&rows);
        columns.arrival = picks.iter().map(|pick| pick.arrival).collect();
        for (position, pick) in picks.iter().enumerate() {
            pick.make_own(&mut columns, position);
        }
        Workload::new(columns)
    }

    /// How far the replays of `seeds` are from the trace.
    ///
    /// # Errors
    /// As [`ReplayPlan::generate`].
    pub fn report(&self, seeds: impl IntoIterator<Item = u64>) -> Result<ReplayReport> {
        let mut measured_times = vec![0_u32; self.trace.len()];
        let mut variations = Vec::new();
        for seed in seeds {
            let picks = self.picks(seed, self.measured)?;
            for pick in &picks {
                measured_times[pick.row] += 1;
            }
            let arrivals: Vec<Picos> = picks.iter().map(|pick| pick.arrival).collect();
            variations.extend(super::gap_variation(&arrivals));
        }
        let used = measured_times.iter().filter(|&&count| count > 0).count();
        let total: u64 = measured_times.iter().map(|&count| u64::from(count)).sum();
        Ok(ReplayReport {
            factor: self.factor,
            copies: self.copies,
            disjoint: measured_times.iter().all(|&count| count <= 1),
            row_reuse: if used > 0 { total as f64 / used as f64 } else { 0.0 },
            cv_before: self.trace.arrival_cv(),
            cv_after: crate::metrics::mean(&variations),
        })
    }

    /// The first `requests` rows of the replay with their times.
    fn picks(&self, seed: u64, requests: usize) -> Result<Vec<Pick>> {
        let mut copies: Vec<Copy> = (0..self.copies).map(|copy| Copy::new(self, seed, copy)).collect();
        let mut heads: Vec<Pick> = Vec::with_capacity(self.copies);
        for copy in &mut copies {
            heads.push(copy.next(self)?);
        }
        let mut queue: BTreeSet<(Picos, usize)> =
            heads.iter().enumerate().map(|(copy, head)| (head.arrival, copy)).collect();
        let mut picks = Vec::with_capacity(requests);
        while picks.len() < requests {
            let Some((_, copy)) = queue.pop_first() else { break };
            picks.push(heads[copy]);
            heads[copy] = copies[copy].next(self)?;
            queue.insert((heads[copy].arrival, copy));
        }
        let compression = if self.factor > 1.0 { self.factor / self.copies as f64 } else { 1.0 };
        // Beginning where the trace begins leaves a trace as it stands where it stands.
        let (first, origin) = (picks[0].arrival, self.trace.arrival()[0]);
        for pick in &mut picks {
            let since = pick.arrival - first;
            let scaled = if compression > 1.0 { scale(since, 1.0 / compression) } else { since };
            pick.arrival = origin + scaled;
        }
        Ok(picks)
    }

    /// Row of the trace where a copy of a seed begins.
    fn start(&self, seed: u64, copy: usize) -> usize {
        let index = u128::from(seed) * self.copies as u128 + copy as u128;
        let windows = self.windows as u128;
        #[expect(clippy::cast_possible_truncation, reason = "the number of a window; a cut may wrap")]
        let (cut, window) = ((index / windows) as u64, (index % windows) as usize);
        let mut generator = generator(cut, Purpose::Windows);
        let turn = if cut == 0 { 0 } else { index_below(&mut generator, self.trace.len()) };
        let mut order: Vec<usize> = (0..self.windows).collect();
        for position in (1..order.len()).rev() {
            order.swap(position, index_below(&mut generator, position + 1));
        }
        (turn + order[window] * self.trace.len() / self.windows) % self.trace.len()
    }
}

/// One arrival of a replay.
#[derive(Clone, Copy, Debug)]
struct Pick {
    arrival: Picos,
    row: usize,
    /// 0 for the first copy on its first lap; another number for each other copy and lap.
    population: u64,
}

impl Pick {
    /// Gives another population its own sessions and prefixes.
    fn make_own(&self, columns: &mut WorkloadColumns, position: usize) {
        if self.population == 0 {
            return;
        }
        if let Some(sessions) = &mut columns.session {
            sessions[position] = mix(sessions[position], self.population);
        }
        if let Some(prefix) = &mut columns.prefix {
            for hash in prefix.row_mut(position) {
                *hash = mix(*hash, self.population);
            }
        }
    }
}

/// One pass around the trace, row by row.
struct Copy {
    number: u64,
    start: Picos,
    row: usize,
    lap: u64,
    generator: ChaCha8Rng,
}

impl Copy {
    fn new(plan: &ReplayPlan<'_>, seed: u64, copy: usize) -> Self {
        let row = plan.start(seed, copy);
        let mut generator = generator(mix(seed, copy as u64), Purpose::Replay);
        let arrival = plan.trace.arrival();
        // Copies begin somewhere in the gap before their first row, else the first rows of all would coincide.
        let before = if row > 0 { arrival[row - 1] } else { arrival[arrival.len() - 1] - plan.period };
        let lead = if copy > 0 { scale(arrival[row] - before, uniform(&mut generator)) } else { Picos::ZERO };
        Self { number: copy as u64, start: arrival[row] - lead, row, lap: 0, generator }
    }

    /// The next row that is kept, by the time since the copy began.
    fn next(&mut self, plan: &ReplayPlan<'_>) -> Result<Pick> {
        loop {
            let (row, lap) = (self.row, self.lap);
            self.row += 1;
            if self.row == plan.trace.len() {
                (self.row, self.lap) = (0, lap + 1);
            }
            if plan.factor < 1.0 && uniform(&mut self.generator) >= plan.factor {
                continue;
            }
            let laps = i64::try_from(lap).ok().and_then(|lap| plan.period.0.checked_mul(lap));
            let arrival = laps
                .and_then(|laps| Picos(laps).checked_add(plan.trace.arrival()[row]))
                .ok_or_else(|| SimError::field("requests", lap, "laps around the trace within 106 days"))?;
            let population = if (self.number, lap) == (0, 0) { 0 } else { mix(self.number, lap) | 1 };
            return Ok(Pick { arrival: arrival - self.start, row, population });
        }
    }
}

fn scale(time: Picos, factor: f64) -> Picos {
    #[expect(clippy::cast_possible_truncation, reason = "a factor of at most 1 keeps the time within range")]
    Picos(libm::round(time.0 as f64 * factor) as i64)
}
