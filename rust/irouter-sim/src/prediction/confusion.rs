//! How often a classifier takes lengths of one bucket for another.

use serde::Deserialize;

use crate::error::{Result, SimError};

/// Where the paper's buckets begin, in tokens: 0-256, 256-2048, 2048 and more.
const PAPER_EDGES: [u32; 2] = [256, 2048];

/// A confusion matrix over buckets of output lengths, as measured on requests whose lengths are known.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Counts")]
pub struct Confusion {
    /// Where each bucket but the first begins, in tokens.
    edges: Vec<u32>,
    /// Probability of each predicted bucket, by actual bucket.
    rows: Vec<Vec<f64>>,
}

/// A confusion matrix as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    /// Where each bucket but the first begins, in tokens.
    edges: Vec<u32>,
    /// Requests by actual bucket, then by predicted bucket.
    counts: Vec<Vec<u64>>,
}

impl TryFrom<Counts> for Confusion {
    type Error = SimError;

    fn try_from(Counts { edges, counts }: Counts) -> Result<Self> {
        if edges.is_empty() || edges[0] == 0 || !edges.is_sorted_by(|one, two| one < two) {
            let expected = "starts of all buckets but the first: at least one, above 0, ascending";
            return Err(SimError::field("confusion.edges", format!("{edges:?}"), expected));
        }
        let buckets = edges.len() + 1;
        if counts.len() != buckets || counts.iter().any(|row| row.len() != buckets) {
            let expected = format!("{buckets} rows of {buckets} counts");
            return Err(SimError::field("confusion.counts", format!("{counts:?}"), expected));
        }
        let rows = counts.iter().enumerate().map(|(actual, row)| {
            let total: u64 = row.iter().sum();
            if total == 0 {
                // Nothing was measured of this bucket: taken to be recognised.
                return (0..buckets).map(|predicted| f64::from(u8::from(predicted == actual))).collect();
            }
            row.iter().map(|&count| count as f64 / total as f64).collect()
        });
        Ok(Self { rows: rows.collect(), edges })
    }
}

impl Confusion {
    /// A classifier over the paper's buckets that is right with probability `accuracy`; its errors go to a neighbour,
    /// either one alike.
    pub(super) fn of_accuracy(accuracy: f64) -> Self {
        let wrong = 1.0 - accuracy;
        let rows = [[accuracy, wrong, 0.0], [wrong / 2.0, accuracy, wrong / 2.0], [0.0, wrong, accuracy]]
            .map(Vec::from);
        Self { edges: PAPER_EDGES.to_vec(), rows: rows.to_vec() }
    }

    /// Where each bucket but the first begins, in tokens.
    pub(super) fn edges(&self) -> &[u32] {
        &self.edges
    }

    /// Number of buckets.
    pub(super) fn buckets(&self) -> usize {
        self.rows.len()
    }

    /// The bucket of a length.
    pub(super) fn bucket(&self, tokens: u32) -> usize {
        self.edges.partition_point(|&edge| edge <= tokens)
    }

    /// Probability that a length of bucket `actual` is said to lie in bucket `predicted`.
    pub(super) fn probability(&self, actual: usize, predicted: usize) -> f64 {
        self.rows[actual][predicted]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> std::result::Result<Confusion, String> {
        serde_json::from_str(json).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn counts_become_probabilities_by_actual_bucket() {
        let confusion =
            read(r#"{"edges": [100, 500], "counts": [[3, 1, 0], [0, 0, 0], [1, 1, 2]]}"#).unwrap();
        assert_eq!([99, 100, 499, 500].map(|tokens| confusion.bucket(tokens)), [0, 1, 1, 2]);
        let row = |actual| [0, 1, 2].map(|predicted| confusion.probability(actual, predicted));
        assert_eq!([row(0), row(1), row(2)], [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]);
    }

    #[test]
    fn a_matrix_of_another_shape_is_refused() {
        let error = read(r#"{"edges": [100], "counts": [[3, 1]]}"#).unwrap_err();
        assert!(error.contains("`confusion.counts` is [[3, 1]], expected 2 rows of 2 counts"), "{error}");
        let error = read(r#"{"edges": [100, 100], "counts": []}"#).unwrap_err();
        assert!(error.contains("`confusion.edges` is [100, 100], expected starts"), "{error}");
    }
}
