//! Rows of features and their targets.

use crate::error::{Error, Result};

/// What trees are trained on: rows of features, each with a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    columns: usize,
    features: Vec<f32>,
    targets: Vec<f64>,
}

impl Table {
    /// A table with `columns` features a row, at least one.
    ///
    /// # Errors
    /// [`Error::Field`] for none.
    pub fn new(columns: usize) -> Result<Self> {
        if columns == 0 {
            return Err(Error::field("columns", 0, "at least 1"));
        }
        Ok(Self { columns, features: Vec::new(), targets: Vec::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Field`] for another number of features, or a number that is not finite.
    pub fn push(&mut self, features: &[f32], target: f64) -> Result<()> {
        if features.len() != self.columns {
            let expected = format!("{} features", self.columns);
            return Err(Error::field("row", format!("{} features", features.len()), expected));
        }
        if let Some(bad) = features.iter().find(|feature| !feature.is_finite()) {
            return Err(Error::field("feature", bad, "a finite number"));
        }
        if !target.is_finite() {
            return Err(Error::field("target", target, "a finite number"));
        }
        self.features.extend_from_slice(features);
        self.targets.push(target);
        Ok(())
    }

    /// Features of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The features of a row.
    ///
    /// # Panics
    /// Beyond the last row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.features[row * self.columns..][..self.columns]
    }

    /// The target of every row.
    pub fn targets(&self) -> &[f64] {
        &self.targets
    }
}
