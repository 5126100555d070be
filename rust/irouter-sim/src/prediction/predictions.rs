//! Predictions of a workload's requests, and how good they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use irouter_core::LengthDistribution;

use super::kendall_tau_b;
use crate::error::Result;
use crate::workload::Workload;

/// Predicted distributions of a workload's requests, shared between those that are told the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// The distinct distributions.
    table: Vec<Arc<LengthDistribution>>,
    /// Which of them each request has.
    index: Vec<u32>,
}

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

    /// Predictions as they were told, one per request in order: what a run with a learning predictor keeps.
    pub fn from_each(told: Vec<Arc<LengthDistribution>>) -> Self {
        let rows = told.len();
        Self::new(told, 0..rows)
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

    /// The prediction for request `row`.
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

    /// How good the predictions are for the workload that they were made for.
    pub fn quality(&self, workload: &Workload) -> Quality {
        let entries: Vec<(f64, f64, f64)> = self
            .table
            .iter()
            .map(|length| (length.mean(u32::MAX), length.quantile(0.1), length.quantile(0.9)))
            .collect();
        let truth: Vec<f64> = workload.output_tokens().iter().copied().map(f64::from).collect();
        let mut expected = Vec::with_capacity(truth.len());
        let mut covered = 0_usize;
        for (&entry, &tokens) in self.index.iter().zip(&truth) {
            let (mean, low, high) = entries[entry as usize];
            expected.push(mean);
            // The quantiles of a point mass lie a thousandth of a token apart, around the truth.
            covered += usize::from((low - 0.01..=high + 0.01).contains(&tokens));
        }
        Quality { tau_b: kendall_tau_b(&expected, &truth), coverage_80: covered as f64 / truth.len() as f64 }
    }
}
