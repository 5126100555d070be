//! Gradient-boosted regression trees for a quantile.
//!
//! Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 2001: each round fits a
//! tree to the gradient of the loss, then sets every leaf to the value that minimises the loss over its rows. The loss is
//! the pinball loss of Koenker and Bassett 1978, whose minimiser is the quantile, so that a leaf's value is a quantile of its
//! residuals. Splits are found on histograms, and the larger of two siblings gets its histogram by subtraction, as in
//! `LightGBM` (Ke et al., "A highly efficient gradient boosting decision tree", 2017).
//!
//! The gradient of the pinball loss takes two values, so a histogram holds whole numbers, and training gives the same
//! bits everywhere. One thread, no clock; randomness comes from the seed.

mod bins;
mod grow;
mod loss;
mod table;

pub use loss::{pinball_loss, sample_quantile};
pub use table::Table;

use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

use bins::Bins;
use grow::{Gradient, Grower};

/// How trees are boosted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoostOptions {
    /// The quantile that is predicted, between 0 and 1.
    pub quantile: f64,
    /// Trees, at least 1.
    pub rounds: u32,
    /// Splits between the root and a leaf, at most 16.
    pub max_depth: u32,
    /// Share of a leaf's value that is added, above 0, up to 1.
    pub learning_rate: f64,
    /// Rows of a leaf, at least 1.
    pub min_leaf_rows: u32,
    /// Added to the rows of a node in the denominator of its gain: zero or more.
    pub l2: f64,
    /// Gain below which a node is not split: zero or more.
    pub min_gain: f64,
    /// Share of the rows that a tree sees, above 0, up to 1.
    pub row_share: f64,
    /// Share of the columns that a tree sees, above 0, up to 1.
    pub column_share: f64,
}

impl Default for BoostOptions {
    /// The median by 100 trees of depth 6.
    fn default() -> Self {
        Self {
            quantile: 0.5,
            rounds: 100,
            max_depth: 6,
            learning_rate: 0.1,
            min_leaf_rows: 5,
            l2: 0.1,
            min_gain: 0.2,
            row_share: 0.8,
            column_share: 0.8,
        }
    }
}

/// The deepest tree: beyond it the number of leaves would be bounded by the rows alone.
const MOST_DEPTH: u32 = 16;

impl BoostOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::Field`] for the first that is out of range.
    pub fn validate(&self) -> Result<()> {
        let Self { quantile, rounds, max_depth, min_leaf_rows, .. } = *self;
        if !(quantile > 0.0 && quantile < 1.0) {
            return Err(Error::field("quantile", quantile, "a number between 0 and 1"));
        }
        for (field, count) in [("rounds", rounds), ("min_leaf_rows", min_leaf_rows)] {
            if count == 0 {
                return Err(Error::field(field, 0, "at least 1"));
            }
        }
        if !(1..=MOST_DEPTH).contains(&max_depth) {
            return Err(Error::field("max_depth", max_depth, "a number from 1 to 16"));
        }
        let shares = [
            ("learning_rate", self.learning_rate),
            ("row_share", self.row_share),
            ("column_share", self.column_share),
        ];
        for (field, share) in shares {
            if !(share > 0.0 && share <= 1.0) {
                return Err(Error::field(field, share, "a share above 0, up to 1"));
            }
        }
        for (field, value) in [("l2", self.l2), ("min_gain", self.min_gain)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::field(field, value, "zero or more"));
            }
        }
        Ok(())
    }
}

/// A trained model: a constant and the trees whose leaves are added to it.
#[derive(Clone, Debug, PartialEq)]
pub struct BoostedTrees {
    base: f64,
    nodes: Vec<Node>,
    roots: Vec<u32>,
}

/// A split, which sends values up to its threshold to `left` and others to the node after it; or a leaf.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Node {
    /// Column of a split, [`LEAF`] for a leaf.
    column: u32,
    /// Threshold of a split, value of a leaf.
    value: f32,
    left: u32,
}

const LEAF: u32 = u32::MAX;

impl BoostedTrees {
    /// Trains on every row of `table`. The same table, options and seed give the same model.
    ///
    /// # Errors
    /// [`Error::Field`] for an option out of range or a table without rows.
    pub fn train(table: &Table, options: &BoostOptions, seed: u64) -> Result<Self> {
        options.validate()?;
        if table.is_empty() {
            return Err(Error::field("table", "empty", "at least one row"));
        }
        let bins = Bins::new(table);
        let base = sample_quantile(&mut table.targets().to_vec(), options.quantile);
        let mut model = Self { base, nodes: Vec::new(), roots: Vec::new() };
        let mut residuals: Vec<f64> = table.targets().iter().map(|target| target - base).collect();
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..options.rounds {
            let rows = sampled_rows(table.rows(), options.row_share, &mut generator);
            let columns = sampled_columns(table.columns(), options.column_share, &mut generator);
            let gradient = Gradient { residuals: &residuals, quantile: options.quantile };
            let root = Grower::new(&bins, gradient, options, &columns).grow(rows, &mut model.nodes);
            model.roots.push(root);
            for (row, residual) in residuals.iter_mut().enumerate() {
                *residual -= f64::from(model.leaf(root, table.row(row)));
            }
        }
        Ok(model)
    }

    /// The predicted quantile for a row of features, as many as the table had columns.
    pub fn predict(&self, row: &[f32]) -> f64 {
        self.roots.iter().fold(self.base, |sum, &root| sum + f64::from(self.leaf(root, row)))
    }

    fn leaf(&self, root: u32, row: &[f32]) -> f32 {
        let mut node = self.nodes[root as usize];
        while node.column != LEAF {
            let next = node.left + u32::from(row[node.column as usize] > node.value);
            node = self.nodes[next as usize];
        }
        node.value
    }
}

/// Rows of a tree, ascending: each with the same probability, and never none.
fn sampled_rows(rows: usize, share: f64, generator: &mut ChaCha8Rng) -> Vec<u32> {
    let all = 0..u32::try_from(rows).unwrap_or(u32::MAX);
    if share >= 1.0 {
        return all.collect();
    }
    let sampled: Vec<u32> = all.clone().filter(|_| generator.random_bool(share)).collect();
    if sampled.is_empty() { all.collect() } else { sampled }
}

/// Columns of a tree, ascending: a fixed number, at least one.
fn sampled_columns(columns: usize, share: f64, generator: &mut ChaCha8Rng) -> Vec<usize> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to the columns")]
    let count = (libm::ceil(share * columns as f64) as usize).clamp(1, columns);
    let mut sampled = index::sample(generator, columns, count).into_vec();
    sampled.sort_unstable();
    sampled
}

#[cfg(test)]
mod tests;
