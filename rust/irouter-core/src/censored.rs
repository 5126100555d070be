//! Samples of output lengths of which some were cut.

use crate::error::{Error, Result};
use crate::length::LEVELS;

/// What is known of a request's output length once it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObservedLength {
    /// Tokens produced.
    pub tokens: u32,
    /// Whether a limit ended it, so that the length is at least this.
    pub cut: bool,
}

impl ObservedLength {
    /// A request that ended by itself.
    pub fn whole(tokens: u32) -> Self {
        Self { tokens, cut: false }
    }

    /// A request that a limit ended.
    pub fn cut(tokens: u32) -> Self {
        Self { tokens, cut: true }
    }
}

/// The distribution of a sample of lengths, some of which were cut.
///
/// Without cut lengths its quantiles are those of [`crate::length::sorted_quantile`]. With some, the product-limit estimate (Kaplan and
/// Meier, 1958) weighs the whole ones, which take the levels that a sample without cuts would give them; beyond the last
/// length the hazard is constant, the ends per token of the whole sample (one end where there was none).
#[derive(Clone, Debug)]
pub struct CensoredSample {
    /// Level and length of each whole length, ascending.
    knots: Vec<(f64, f64)>,
    longest: f64,
    hazard: f64,
}

impl CensoredSample {
    /// The distribution of a sample.
    ///
    /// # Errors
    /// [`Error::Field`] for an empty one.
    pub fn new(mut sample: Vec<ObservedLength>) -> Result<Self> {
        // Whole before cut among equals: what was cut at a length was still alive when others ended there.
        sample.sort_unstable();
        let longest = sample.last().ok_or_else(|| Error::field("lengths", "empty", "at least one length"))?;
        let longest = f64::from(longest.tokens);
        let mut alive = 1.0;
        let mut first_weight = None;
        let mut knots: Vec<(f64, f64)> = Vec::with_capacity(sample.len());
        for (index, observed) in sample.iter().enumerate().filter(|(_, observed)| !observed.cut) {
            let weight = alive / (sample.len() - index) as f64;
            alive -= weight;
            let first = *first_weight.get_or_insert(weight);
            let level = if first < 1.0 { (1.0 - alive - first) / (1.0 - first) } else { 1.0 };
            knots.push((level, f64::from(observed.tokens)));
        }
        let exposure: f64 = sample.iter().map(|observed| f64::from(observed.tokens)).sum();
        let hazard = knots.len().max(1) as f64 / exposure.max(1.0);
        Ok(Self { knots, longest, hazard })
    }

    /// Quantile at `level` (0 to 1, exclusive).
    pub fn quantile(&self, level: f64) -> f64 {
        let above = self.knots.partition_point(|knot| knot.0 <= level);
        let below = self.knots[..above].last().copied();
        match (below, self.knots.get(above)) {
            (Some(low), Some(high)) => ((level - low.0) / (high.0 - low.0)).mul_add(high.1 - low.1, low.1),
            (None, Some(high)) => high.1,
            // Nobody was seen to end here: from the longest that was seen on.
            (below, None) => {
                let ended = below.map_or(0.0, |knot| knot.0);
                self.longest + libm::log((1.0 - ended) / (1.0 - level)) / self.hazard
            }
        }
    }

    /// Quantiles at [`LEVELS`].
    pub(crate) fn quantiles(&self) -> [f64; LEVELS.len()] {
        LEVELS.map(|level| self.quantile(level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths 1 to 1,000 in a scrambled order, cut at a limit that differs from request to request.
    fn sample(limit: impl Fn(u32) -> u32) -> Vec<ObservedLength> {
        let sample: Vec<ObservedLength> = (0..1000_u32)
            .map(|index| {
                let (tokens, limit) = (index * 37 % 1000 + 1, limit(index));
                if tokens > limit { ObservedLength::cut(limit) } else { ObservedLength::whole(tokens) }
            })
            .collect();
        sample
    }

    fn quantiles(sample: Vec<ObservedLength>) -> [f64; LEVELS.len()] {
        CensoredSample::new(sample).unwrap().quantiles()
    }

    #[test]
    fn without_cuts_the_quantiles_are_the_samples() {
        for (quantile, level) in quantiles(sample(|_| 1000)).into_iter().zip(LEVELS) {
            assert!((quantile - (1.0 + 999.0 * level)).abs() < 1e-9, "{level}");
        }
    }

    #[test]
    fn cuts_that_vary_do_not_move_the_quantiles() {
        // Half of the requests may produce 300 tokens only: taken at their word they would halve the upper quantiles.
        let cut = sample(|index| if index % 2 == 0 { 300 } else { 1000 });
        for (quantile, level) in quantiles(cut).into_iter().zip(LEVELS) {
            assert!((quantile - 1000.0 * level).abs() < 25.0, "{level}: {quantile}");
        }
    }

    #[test]
    fn beyond_a_common_limit_the_hazard_is_that_of_the_sample() {
        let quantiles = quantiles(sample(|_| 500));
        // The upper half was never seen to end: 500 ends over 125,250 + 250,000 tokens.
        let hazard = 500.0 / 375_250.0;
        let expected = 500.0 + libm::log((1.0 - 499.0 / 999.0) / 0.1) / hazard;
        assert!((quantiles[9] - expected).abs() < 1e-6, "{} {expected}", quantiles[9]);
        assert!(quantiles.is_sorted());
    }

    #[test]
    fn a_sample_that_was_cut_throughout_still_has_finite_quantiles() {
        let quantiles = quantiles(vec![ObservedLength::cut(20), ObservedLength::cut(10)]);
        assert!(quantiles.is_sorted() && quantiles[0] >= 20.0 && quantiles[10].is_finite(), "{quantiles:?}");
        assert!(CensoredSample::new(Vec::new()).is_err());
    }

    #[test]
    fn one_length_is_its_own_median() {
        let only = CensoredSample::new(vec![ObservedLength::whole(7)]).unwrap();
        assert!((only.quantile(0.5) - 7.0).abs() < f64::EPSILON);
    }
}
