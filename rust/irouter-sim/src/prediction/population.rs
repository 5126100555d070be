//! The output lengths that a predictor was trained on.

use irouter_core::LengthDistribution;
use irouter_core::length::sorted_quantile;

use crate::error::{Result, SimError};
use crate::random::normal_quantile;

/// Output lengths of a whole source: every row of a trace, or a large sample of a generator. Never only of the window that
/// is replayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Population {
    sorted: Vec<u32>,
}

impl Population {
    /// The population of the given output lengths.
    ///
    /// # Errors
    /// [`SimError::Empty`] without any.
    pub fn new(output_tokens: &[u32]) -> Result<Self> {
        if output_tokens.is_empty() {
            return Err(SimError::Empty { what: "population", expected: "at least one output length" });
        }
        let mut sorted = output_tokens.to_vec();
        sorted.sort_unstable();
        Ok(Self { sorted })
    }

    /// The lengths, ascending.
    pub fn lengths(&self) -> &[u32] {
        &self.sorted
    }

    /// The distribution of all lengths.
    pub fn distribution(&self) -> Result<LengthDistribution> {
        Ok(LengthDistribution::from_sorted_sample(&self.sorted)?)
    }

    /// Quantile at `level` (0 to 1).
    pub fn quantile(&self, level: f64) -> f64 {
        sorted_quantile(&self.sorted, level)
    }

    /// Whether all lengths are equal.
    pub(super) fn is_constant(&self) -> bool {
        self.sorted[0] == self.sorted[self.sorted.len() - 1]
    }

    /// Standard normal score of a length's rank: the mean rank of all that are equal to it. A length that is not in the
    /// population stands between its neighbours.
    pub(super) fn normal_score(&self, tokens: u32) -> f64 {
        let below = self.sorted.partition_point(|&length| length < tokens);
        let up_to = self.sorted.partition_point(|&length| length <= tokens);
        let rows = self.sorted.len() as f64;
        let level = f64::midpoint(below as f64, up_to as f64) / rows;
        normal_quantile(level.clamp(0.25 / rows, 1.0 - 0.25 / rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_rise_with_rank_and_ties_share_theirs() {
        let population = Population::new(&[30, 10, 20, 20, 40]).unwrap();
        let scores: Vec<f64> = [0, 10, 15, 20, 25, 30, 40, 99]
            .into_iter()
            .map(|tokens| population.normal_score(tokens))
            .collect();
        assert!(scores.is_sorted() && scores.iter().all(|score| score.is_finite()), "{scores:?}");
        // 20 holds ranks 1 and 2 of 5, so its mean rank is the level 0.4.
        assert!((scores[3] - normal_quantile(0.4)).abs() < 1e-12);
        assert!(Population::new(&[]).is_err());
    }
}
