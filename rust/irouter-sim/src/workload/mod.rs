//! What arrives: requests as columns, from a trace or a generator.

mod convert;
mod generate;
mod prefix;
mod replay;
mod sequels;
mod ticks;

pub use convert::{arrivals_from_seconds, counts_from_integers};
pub use generate::{
    ArrivalSpec, ChatSpec, Draw, GeneratorSpec, LengthSpec, LogNormalSpec, TaskSpec, TurnSpec,
};
pub use prefix::PrefixColumn;
pub use replay::{ReplayPlan, ReplayReport, ReplaySpec};
pub use sequels::{Clients, Sequels};
pub use ticks::spread_ticks;

use std::ops::Range;
use std::sync::Arc;

use irouter_core::Picos;

use crate::error::{Result, SimError};
use crate::prediction::Predictions;

/// The columns that a [`Workload`] is made from; row `i` of each is request `i`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadColumns {
    /// Arrival at the router, at or after the epoch, non-decreasing.
    pub arrival: Vec<Picos>,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: Vec<u32>,
    /// Tokens that the request will produce, at least 1.
    pub output_tokens: Vec<u32>,
    /// Most tokens that the request may produce, at least `output_tokens`. Without it, a run gives each request what
    /// the profile's `max_model_len` leaves beside its prompt.
    pub max_tokens: Option<Vec<u32>>,
    /// Class of the request that a router is told: application, or task of a mix.
    pub application: Option<Vec<u32>>,
    /// Tenant.
    pub tenant: Option<Vec<u32>>,
    /// Session that the request belongs to.
    pub session: Option<Vec<u64>>,
    /// Makes the sessions conversations: how long the user thinks between the end of the request before this one in its
    /// session and this one. The first request of a session arrives at its `arrival`, whatever stands here.
    pub think_time: Option<Vec<Picos>>,
    /// Priority; higher goes first.
    pub priority: Option<Vec<i32>>,
    /// Hashes of prompt prefixes.
    pub prefix: Option<PrefixColumn>,
    /// What a predictor said of each output length on reading its prompt.
    pub predicted: Option<Predictions>,
}

/// Requests in order of arrival, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    columns: WorkloadColumns,
}

impl Workload {
    /// Validates `columns`.
    ///
    /// # Errors
    /// [`SimError::Empty`] without rows, [`SimError::Columns`] when a column has another number of rows, and
    /// [`SimError::Row`] naming the first row with an arrival before the one above it or before the epoch, with a length
    /// of 0, with `max_tokens` below `output_tokens`, with a negative think time, or with a number of prefix hashes that
    /// does not fit its prompt.
    pub fn new(columns: WorkloadColumns) -> Result<Self> {
        let rows = columns.arrival.len();
        if rows == 0 {
            return Err(SimError::Empty { what: "workload", expected: "at least one request" });
        }
        let lengths = [
            ("prompt_tokens", Some(columns.prompt_tokens.len())),
            ("output_tokens", Some(columns.output_tokens.len())),
            ("max_tokens", columns.max_tokens.as_ref().map(Vec::len)),
            ("application", columns.application.as_ref().map(Vec::len)),
            ("tenant", columns.tenant.as_ref().map(Vec::len)),
            ("session", columns.session.as_ref().map(Vec::len)),
            ("think_time", columns.think_time.as_ref().map(Vec::len)),
            ("priority", columns.priority.as_ref().map(Vec::len)),
            ("prefix", columns.prefix.as_ref().map(PrefixColumn::len)),
            ("predicted", columns.predicted.as_ref().map(Predictions::len)),
        ];
        for (field, found) in lengths {
            if let Some(found) = found.filter(|&found| found != rows) {
                return Err(SimError::Columns { field, found, expected: rows });
            }
        }
        let mut earliest = Picos::ZERO;
        for (row, &arrival) in columns.arrival.iter().enumerate() {
            if arrival < earliest {
                return Err(SimError::row(row, "arrival", arrival, format!("at or after {earliest}")));
            }
            earliest = arrival;
        }
        for (field, counts) in
            [("prompt_tokens", &columns.prompt_tokens), ("output_tokens", &columns.output_tokens)]
        {
            if let Some(row) = counts.iter().position(|&tokens| tokens == 0) {
                return Err(SimError::row(row, field, 0, "at least 1 token"));
            }
        }
        if let Some(limits) = &columns.max_tokens {
            for (row, (&limit, &output)) in limits.iter().zip(&columns.output_tokens).enumerate() {
                if limit < output {
                    let expected = format!("at least `output_tokens` = {output}");
                    return Err(SimError::row(row, "max_tokens", limit, expected));
                }
            }
        }
        if let Some(pauses) = &columns.think_time {
            if columns.session.is_none() {
                return Err(SimError::Columns { field: "session", found: 0, expected: rows });
            }
            if let Some(row) = pauses.iter().position(|&pause| pause < Picos::ZERO) {
                return Err(SimError::row(row, "think_time", pauses[row], "zero or more"));
            }
        }
        if let Some(prefix) = &columns.prefix {
            prefix.validate(&columns.prompt_tokens)?;
        }
        Ok(Self { columns })
    }

    /// Number of requests, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a workload is never empty")]
    pub fn len(&self) -> usize {
        self.columns.arrival.len()
    }

    /// The columns.
    pub fn columns(&self) -> &WorkloadColumns {
        &self.columns
    }

    /// The columns, given away.
    pub fn into_columns(self) -> WorkloadColumns {
        self.columns
    }

    /// Arrivals at the router.
    pub fn arrival(&self) -> &[Picos] {
        &self.columns.arrival
    }

    /// Tokens of each prompt.
    pub fn prompt_tokens(&self) -> &[u32] {
        &self.columns.prompt_tokens
    }

    /// Tokens that each request will produce.
    pub fn output_tokens(&self) -> &[u32] {
        &self.columns.output_tokens
    }

    /// Whether requests of a session follow one another's ends, so that their arrivals depend on the run.
    pub fn is_conversations(&self) -> bool {
        self.columns.think_time.is_some()
    }

    /// Class of a request; 0 where the workload names none.
    pub fn application(&self, row: usize) -> u32 {
        self.columns.application.as_ref().map_or(0, |column| column[row])
    }

    /// What a predictor said of the output lengths; `None` where the workload names no predictions.
    pub fn predicted(&self) -> Option<&Predictions> {
        self.columns.predicted.as_ref()
    }

    /// Most tokens that a request may produce on an engine whose prompt and output may take `max_model_len` tokens;
    /// `None` when the prompt leaves no room for its output.
    pub fn max_tokens(&self, row: usize, max_model_len: u32) -> Option<u32> {
        let room = max_model_len.checked_sub(self.columns.prompt_tokens[row])?;
        let wanted = self.columns.max_tokens.as_ref().map_or(room, |column| column[row]);
        (wanted <= room && self.columns.output_tokens[row] <= room).then_some(wanted)
    }

    /// Hashes of a request's full prompt blocks of `block_tokens` tokens; `None` where the workload has none.
    ///
    /// # Errors
    /// [`SimError::Field`] unless the workload's hashes cover a multiple of `block_tokens`.
    pub fn prompt_blocks(&self, row: usize, block_tokens: u32) -> Result<Option<Arc<[u64]>>> {
        let blocks =
            |prefix: &PrefixColumn| prefix.engine_blocks(row, self.columns.prompt_tokens[row], block_tokens);
        self.columns.prefix.as_ref().map(blocks).transpose()
    }

    /// First to last arrival.
    pub fn span(&self) -> Picos {
        self.columns.arrival[self.len() - 1] - self.columns.arrival[0]
    }

    /// Requests per second: the inverse of the mean gap between arrivals; `None` when all arrive at once.
    pub fn rate(&self) -> Option<f64> {
        let span = self.span();
        (span > Picos::ZERO).then(|| (self.len() - 1) as f64 / span.as_seconds())
    }

    /// Coefficient of variation of the gaps between arrivals (1 for Poisson arrivals, 0 for a metronome); `None` when
    /// all arrive at once.
    pub fn arrival_cv(&self) -> Option<f64> {
        gap_variation(&self.columns.arrival)
    }

    /// Mean prompt in tokens.
    pub fn mean_prompt_tokens(&self) -> f64 {
        mean(&self.columns.prompt_tokens)
    }

    /// Mean output in tokens.
    pub fn mean_output_tokens(&self) -> f64 {
        mean(&self.columns.output_tokens)
    }

    /// The requests in `rows`, with their times as they are.
    ///
    /// # Errors
    /// [`SimError::Field`] when `rows` is empty or goes beyond the last row.
    pub fn slice(&self, rows: Range<usize>) -> Result<Self> {
        if rows.is_empty() || rows.end > self.len() {
            let expected = format!("a part of 0..{} that is not empty", self.len());
            return Err(SimError::field("rows", format!("{}..{}", rows.start, rows.end), expected));
        }
        Ok(Self { columns: self.columns.gather(&rows.collect::<Vec<_>>()) })
    }
}

impl WorkloadColumns {
    /// The rows named by `rows`, in that order.
    pub(crate) fn gather(&self, rows: &[usize]) -> Self {
        Self {
            arrival: pick(&self.arrival, rows),
            prompt_tokens: pick(&self.prompt_tokens, rows),
            output_tokens: pick(&self.output_tokens, rows),
            max_tokens: self.max_tokens.as_ref().map(|column| pick(column, rows)),
            application: self.application.as_ref().map(|column| pick(column, rows)),
            tenant: self.tenant.as_ref().map(|column| pick(column, rows)),
            session: self.session.as_ref().map(|column| pick(column, rows)),
            think_time: self.think_time.as_ref().map(|column| pick(column, rows)),
            priority: self.priority.as_ref().map(|column| pick(column, rows)),
            prefix: self.prefix.as_ref().map(|column| column.gather(rows)),
            predicted: self.predicted.as_ref().map(|column| column.gather(rows)),
        }
    }
}

/// Coefficient of variation of the gaps between ascending times; `None` when all are equal.
fn gap_variation(times: &[Picos]) -> Option<f64> {
    let gaps = times.len().saturating_sub(1);
    let mean = (*times.last()? - times[0]).as_seconds() / gaps as f64;
    if gaps == 0 || mean <= 0.0 {
        return None;
    }
    let deviation = |pair: &[Picos]| (pair[1] - pair[0]).as_seconds() - mean;
    let squares: f64 = times.windows(2).map(|pair| deviation(pair) * deviation(pair)).sum();
    Some(libm::sqrt(squares / gaps as f64) / mean)
}

fn pick<T: Copy>(column: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().map(|&row| column[row]).collect()
}

fn mean(counts: &[u32]) -> f64 {
    counts.iter().map(|&count| u64::from(count)).sum::<u64>() as f64 / counts.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> WorkloadColumns {
        WorkloadColumns {
            arrival: [0, 1, 3].map(|seconds| Picos::SECOND * seconds).to_vec(),
            prompt_tokens: vec![10, 20, 30],
            output_tokens: vec![1, 2, 6],
            ..WorkloadColumns::default()
        }
    }

    #[test]
    fn figures_follow_their_definitions() {
        let workload = Workload::new(columns()).unwrap();
        assert_eq!(workload.rate(), Some(2.0 / 3.0));
        // Gaps 1 and 2: mean 1.5, standard deviation 0.5.
        assert!((workload.arrival_cv().unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((workload.mean_prompt_tokens(), workload.mean_output_tokens()), (20.0, 3.0));
    }

    #[test]
    fn every_bad_row_is_named() {
        let bad = |change: &dyn Fn(&mut WorkloadColumns)| {
            let mut columns = columns();
            change(&mut columns);
            Workload::new(columns).unwrap_err().to_string()
        };
        assert_eq!(
            bad(&|columns| columns.arrival[2] = Picos::MILLISECOND),
            "row 2 (counted from 0): `arrival` is 0.001 s, expected at or after 1 s"
        );
        assert_eq!(
            bad(&|columns| columns.output_tokens[1] = 0),
            "row 1 (counted from 0): `output_tokens` is 0, expected at least 1 token"
        );
        assert_eq!(
            bad(&|columns| columns.max_tokens = Some(vec![9, 9, 5])),
            "row 2 (counted from 0): `max_tokens` is 5, expected at least `output_tokens` = 6"
        );
        assert_eq!(
            bad(&|columns| columns.session = Some(vec![1])),
            "column `session` has 1 rows, expected 3 like `arrival`"
        );
        assert_eq!(
            bad(&|columns| columns.think_time = Some(vec![Picos::ZERO; 3])),
            "column `session` has 0 rows, expected 3 like `arrival`"
        );
        assert_eq!(
            bad(&|columns| {
                columns.session = Some(vec![1; 3]);
                columns.think_time = Some(vec![Picos::ZERO, Picos(-1), Picos::ZERO]);
            }),
            "row 1 (counted from 0): `think_time` is -0.000000000001 s, expected zero or more"
        );
        assert_eq!(
            bad(&|columns| *columns = WorkloadColumns::default()),
            "workload is empty, expected at least one request"
        );
    }

    #[test]
    fn a_request_may_produce_what_its_prompt_leaves_of_the_context() {
        let mut columns = columns();
        let workload = Workload::new(columns.clone()).unwrap();
        assert_eq!(workload.max_tokens(2, 100), Some(70));
        assert_eq!(workload.max_tokens(2, 35), None);
        columns.max_tokens = Some(vec![50; 3]);
        let workload = Workload::new(columns).unwrap();
        assert_eq!(workload.max_tokens(2, 100), Some(50));
        assert_eq!(workload.max_tokens(2, 79), None);
    }

    #[test]
    fn a_slice_keeps_rows_and_times() {
        let mut columns = columns();
        columns.application = Some(vec![7, 8, 9]);
        let slice = Workload::new(columns).unwrap().slice(1..3).unwrap();
        assert_eq!((slice.len(), slice.arrival()[0], slice.application(1)), (2, Picos::SECOND, 9));
        assert!(slice.slice(1..3).is_err());
    }
}
