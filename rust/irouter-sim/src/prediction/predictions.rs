//! Predictions of a workload's requests, and how good they are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use irouter_core::LengthDistribution;
use irouter_core::length::LEVELS;

use super::kendall_tau_b;
use crate::error::{Result, SimError};
use crate::workload::Workload;

/// Predicted distributions of a workload's requests, shared between those that are told the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// The distinct distributions.
    table: Vec<Arc<LengthDistribution>>,
    /// Which of them each request has; [`UNTOLD`] for none.
    index: Vec<u32>,
}

const UNTOLD: u32 = u32::MAX;

/// How good predictions are, as measured on the workload that they were made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Kendall's tau-b of expected and true lengths; `None` when all of either are equal.
    pub tau_b: Option<f64>,
    /// Share of requests whose true length lies between the 10 % and the 90 % quantile, ends included; 0.8 when calibrated.
    pub coverage_80: f64,
}

impl Predictions {
    pub(super) fn new(table: Vec<Arc<LengthDistribution>>, index: impl Iterator<Item = usize>) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "an index of the table, which is small")]
        Self { table, index: index.map(|entry| entry as u32).collect() }
    }

    /// No predictions yet, for a run that learns to predict `rows` requests while it goes on.
    pub(super) fn untold(rows: usize) -> Self {
        Self { table: Vec::new(), index: vec![UNTOLD; rows] }
    }

    /// Notes what was told of request `row`.
    pub(super) fn record(&mut self, row: usize, length: &Arc<LengthDistribution>) {
        if !self.table.last().is_some_and(|last| Arc::ptr_eq(last, length)) {
            self.table.push(Arc::clone(length));
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most one entry per request")]
        {
            self.index[row] = (self.table.len() - 1) as u32;
        }
    }

    /// One distribution per distinct key.
    pub(super) fn by_key<Key: Ord>(
        keys: impl Iterator<Item = Key>,
        distribution: impl Fn(&Key) -> Result<LengthDistribution>,
    ) -> Result<Self> {
        let keys: Vec<Key> = keys.collect();
        let mut distinct: BTreeMap<&Key, usize> = keys.iter().map(|key| (key, 0)).collect();
        let mut table = Vec::with_capacity(distinct.len());
        for (key, entry) in &mut distinct {
            *entry = table.len();
            table.push(Arc::new(distribution(key)?));
        }
        Ok(Self::new(table, keys.iter().map(|key| distinct[key])))
    }

    /// The given quantiles of each request, at the levels of a distribution.
    ///
    /// # Errors
    /// [`SimError::Row`] naming the first request whose quantiles are none.
    pub fn from_quantiles(rows: &[[f64; LEVELS.len()]]) -> Result<Self> {
        let table = rows.iter().enumerate().map(|(row, quantiles)| {
            LengthDistribution::from_quantiles(quantiles).map(Arc::new).map_err(|error| {
                SimError::row(row, "predicted", format!("{quantiles:?}"), format!("quantiles: {error}"))
            })
        });
        Ok(Self::new(table.collect::<Result<_>>()?, 0..rows.len()))
    }

    /// Those of the requests named by `rows`, in that order.
    pub(crate) fn gather(&self, rows: &[usize]) -> Self {
        Self { table: self.table.clone(), index: rows.iter().map(|&row| self.index[row]).collect() }
    }

    /// The prediction for request `row`, which must have been told.
    pub fn get(&self, row: usize) -> &Arc<LengthDistribution> {
        &self.table[self.index[row] as usize]
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How good the predictions for `rows` are, all of them told, of the workload that they were made for.
    pub fn quality(&self, workload: &Workload, rows: Range<usize>) -> Quality {
        let entries: Vec<(f64, f64, f64)> = self
            .table
            .iter()
            .map(|length| (length.mean(u32::MAX), length.quantile(0.1), length.quantile(0.9)))
            .collect();
        let truth: Vec<f64> = workload.output_tokens()[rows.clone()].iter().copied().map(f64::from).collect();
        let mut expected = Vec::with_capacity(truth.len());
        let mut covered = 0_usize;
        for (&entry, &tokens) in self.index[rows].iter().zip(&truth) {
            let (mean, low, high) = entries[entry as usize];
            expected.push(mean);
            // The quantiles of a point mass lie a thousandth of a token apart, around the truth.
            covered += usize::from((low - 0.01..=high + 0.01).contains(&tokens));
        }
        Quality { tau_b: kendall_tau_b(&expected, &truth), coverage_80: covered as f64 / truth.len() as f64 }
    }
}
