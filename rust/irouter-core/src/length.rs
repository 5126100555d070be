//! Predicted output lengths as distributions.

use crate::error::{Error, Result};

/// The probabilities of [`LengthDistribution`]'s quantiles.
pub const LEVELS: [f64; 11] = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98];
const KNOTS: usize = LEVELS.len() + 1;

/// Distribution of a request's output length in tokens, from quantiles.
///
/// The survival function `S(x) = P(length > x)` is linear between the quantiles; the slope between the first two goes on
/// below them, until `S` is 1. Beyond the last quantile the hazard is constant: the one between the last two quantiles.
#[derive(Clone, Debug, PartialEq)]
pub struct LengthDistribution {
    /// The shortest length and the quantiles, strictly increasing.
    tokens: [f64; KNOTS],
    /// Survival at each of `tokens`.
    survival: [f64; KNOTS],
    /// Integral of the survival function from each of `tokens` to infinity.
    tail_area: [f64; KNOTS],
    /// Hazard per token beyond the last quantile.
    hazard: f64,
}

/// A request some tokens from now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Probability that it is not done by then.
    pub chance: f64,
    /// Expected tokens that are still to come then, 0 counted where it is done.
    pub tokens: f64,
}

impl LengthDistribution {
    /// Builds from the quantiles at [`LEVELS`], in tokens, ascending.
    ///
    /// Equal neighbours are allowed (a point mass); they are set a ten-thousandth of a token apart.
    ///
    /// # Errors
    /// When a quantile is not finite, negative, or below the one before it.
    pub fn from_quantiles(quantiles: &[f64; LEVELS.len()]) -> Result<Self> {
        for (index, (&value, &level)) in quantiles.iter().zip(&LEVELS).enumerate() {
            let below = index.checked_sub(1).map_or(0.0, |previous| quantiles[previous]);
            if !value.is_finite() || value < below {
                return Err(Error::Quantile { level, value, below });
            }
        }
        Ok(Self::build(quantiles))
    }

    /// The distribution of a sample of lengths in ascending order, by quantiles interpolated linearly between its
    /// members.
    ///
    /// # Errors
    /// [`Error::Field`] for an empty sample, [`Error::Quantile`] for one out of order.
    pub fn from_sorted_sample(lengths: &[u32]) -> Result<Self> {
        if lengths.is_empty() {
            return Err(Error::field("lengths", "empty", "at least one length"));
        }
        Self::from_quantiles(&LEVELS.map(|level| sorted_quantile(lengths, level)))
    }

    /// A length known exactly.
    pub fn exact(tokens: u32) -> Self {
        Self::build(&[f64::from(tokens); LEVELS.len()])
    }

    /// The quantiles at [`LEVELS`].
    pub fn quantiles(&self) -> [f64; LEVELS.len()] {
        std::array::from_fn(|index| self.tokens[index + 1])
    }

    /// As [`Self::from_quantiles`], of quantiles known to be finite and ascending.
    pub(crate) fn build(quantiles: &[f64; LEVELS.len()]) -> Self {
        const STEP: f64 = 1e-4;
        let first_slope = (quantiles[1] - quantiles[0]) / (LEVELS[1] - LEVELS[0]);
        let shortest = (quantiles[0] - LEVELS[0] * first_slope).min(quantiles[0] - STEP).max(0.0);
        let mut tokens = [shortest; KNOTS];
        let mut survival = [1.0; KNOTS];
        for (index, (&quantile, &level)) in quantiles.iter().zip(&LEVELS).enumerate() {
            tokens[index + 1] = quantile.max(tokens[index] + STEP);
            survival[index + 1] = 1.0 - level;
        }
        let last = KNOTS - 1;
        let hazard = libm::log(survival[last - 1] / survival[last]) / (tokens[last] - tokens[last - 1]);
        let mut tail_area = [0.0; KNOTS];
        tail_area[last] = survival[last] / hazard;
        for index in (0..last).rev() {
            let width = tokens[index + 1] - tokens[index];
            tail_area[index] =
                tail_area[index + 1] + width * f64::midpoint(survival[index], survival[index + 1]);
        }
        Self { tokens, survival, tail_area, hazard }
    }

    /// Probability that the length exceeds `tokens`.
    pub fn survival(&self, tokens: f64) -> f64 {
        self.survival_in(self.segment(tokens), tokens)
    }

    /// The same, where the last knot at or below `tokens` is known.
    fn survival_in(&self, index: usize, tokens: f64) -> f64 {
        if tokens < self.tokens[0] {
            return 1.0;
        }
        if index + 1 == KNOTS {
            return self.survival[index] * libm::exp(-self.hazard * (tokens - self.tokens[index]));
        }
        let share = (tokens - self.tokens[index]) / (self.tokens[index + 1] - self.tokens[index]);
        share.mul_add(self.survival[index + 1] - self.survival[index], self.survival[index])
    }

    /// The smallest length reached with probability `level` (0 to 1, exclusive).
    pub fn quantile(&self, level: f64) -> f64 {
        let wanted = 1.0 - level;
        let above = self.survival.partition_point(|&survival| survival > wanted);
        if above == KNOTS {
            let last = KNOTS - 1;
            return self.tokens[last] + libm::log(self.survival[last] / wanted) / self.hazard;
        }
        let below = above.saturating_sub(1);
        if above == below {
            return self.tokens[below];
        }
        let share = (self.survival[below] - wanted) / (self.survival[below] - self.survival[above]);
        share.mul_add(self.tokens[above] - self.tokens[below], self.tokens[below])
    }

    /// Expected length in tokens, when it is cut at `max_tokens`.
    pub fn mean(&self, max_tokens: u32) -> f64 {
        self.expected_remaining(0, max_tokens)
    }

    /// Expected number of tokens still to come after `produced`, given that the request has not finished, cut at
    /// `max_tokens`; 0 at or beyond the cut.
    pub fn expected_remaining(&self, produced: u32, max_tokens: u32) -> f64 {
        if produced >= max_tokens {
            return 0.0;
        }
        let from = f64::from(produced);
        let alive = self.survival(from);
        if alive < 1e-12 {
            // So far beyond the prediction that the survival underflows: the constant hazard is all that is left.
            return (1.0 / self.hazard).min(f64::from(max_tokens - produced));
        }
        (self.area_beyond(from) - self.area_beyond(f64::from(max_tokens))) / alive
    }

    /// The smallest whole length reached with probability `level` (0 to 1, exclusive) by a request that has produced
    /// `produced` tokens and not finished, cut at `max_tokens`.
    pub fn quantile_beyond(&self, produced: u32, level: f64, max_tokens: u32) -> f64 {
        let from = f64::from(produced);
        let tokens = if from < self.tokens[KNOTS - 1] {
            self.quantile(1.0 - self.survival(from) * (1.0 - level))
        } else {
            // The constant hazard forgets what has been produced.
            from - libm::log1p(-level) / self.hazard
        };
        tokens.min(f64::from(max_tokens))
    }

    /// What is ahead of a request that has produced `produced` tokens, so many tokens later, for ascending `steps`, when it
    /// is cut at `max_tokens`.
    pub fn outlasts<'a>(
        &'a self,
        produced: u32,
        max_tokens: u32,
        steps: impl Iterator<Item = u32> + 'a,
    ) -> impl Iterator<Item = Ahead> + 'a {
        let from = f64::from(produced);
        let alive = self.survival(from);
        let left = max_tokens.saturating_sub(produced);
        let cut = if alive < 1e-12 { 0.0 } else { self.area_beyond(f64::from(max_tokens)) };
        let certain = 1.0 / alive;
        // The knot below moves with the steps, so that none is searched for, and its slope is computed once.
        let mut segment = self.segment(from);
        let mut slope = self.slope(segment);
        steps.map(move |steps| {
            if steps >= left {
                // One that is there now is there now.
                return Ahead { chance: f64::from(u8::from(steps == 0)), tokens: 0.0 };
            }
            if alive < 1e-12 {
                // As in `expected_remaining`.
                let chance = libm::exp(-self.hazard * f64::from(steps));
                let end = libm::exp(-self.hazard * f64::from(left));
                return Ahead { chance, tokens: (chance - end) / self.hazard };
            }
            let tokens = from + f64::from(steps);
            if segment + 1 < KNOTS && self.tokens[segment + 1] <= tokens {
                segment += 1;
                while segment + 1 < KNOTS && self.tokens[segment + 1] <= tokens {
                    segment += 1;
                }
                slope = self.slope(segment);
            }
            let there = if segment + 1 < KNOTS {
                // Not `mul_add`: where the processor is not known to have it, that is a call.
                self.survival[segment] + slope * (tokens - self.tokens[segment]).max(0.0)
            } else {
                self.survival_in(segment, tokens)
            };
            let area = self.area_in(segment, tokens, there);
            Ahead { chance: there * certain, tokens: (area - cut) * certain }
        })
    }

    /// Survival per token between a knot and the next; 0 at the last.
    fn slope(&self, index: usize) -> f64 {
        if index + 1 == KNOTS {
            return 0.0;
        }
        (self.survival[index + 1] - self.survival[index]) / (self.tokens[index + 1] - self.tokens[index])
    }

    /// Integral of the survival function from `tokens` to infinity.
    fn area_beyond(&self, tokens: f64) -> f64 {
        let index = self.segment(tokens);
        self.area_in(index, tokens, self.survival_in(index, tokens))
    }

    /// The same, where the last knot at or below `tokens` and the survival there are known.
    fn area_in(&self, index: usize, tokens: f64, survival: f64) -> f64 {
        if tokens < self.tokens[0] {
            return self.tail_area[0] + self.tokens[0] - tokens;
        }
        if index + 1 == KNOTS {
            return survival / self.hazard;
        }
        let covered = (tokens - self.tokens[index]) * f64::midpoint(self.survival[index], survival);
        self.tail_area[index] - covered
    }

    /// Index of the last knot at or below `tokens`, or the first knot.
    fn segment(&self, tokens: f64) -> usize {
        self.tokens.partition_point(|&knot| knot <= tokens).saturating_sub(1)
    }
}

/// Quantile at `level` (0 to 1) of `lengths`, ascending and not empty, interpolated linearly between its members.
pub fn sorted_quantile(lengths: &[u32], level: f64) -> f64 {
    let last = lengths.len() - 1;
    let position = level * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the sample")]
    let below = (position as usize).min(last);
    let (low, high) = (f64::from(lengths[below]), f64::from(lengths[(below + 1).min(last)]));
    (position - below as f64).mul_add(high - low, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform() -> LengthDistribution {
        LengthDistribution::from_quantiles(&LEVELS.map(|level| 100.0 * level)).unwrap()
    }

    #[test]
    fn exact_length_is_its_own_mean_and_remainder() {
        let length = LengthDistribution::exact(100);
        assert!((length.mean(1000) - 100.0).abs() < 1e-2);
        assert!((length.expected_remaining(40, 1000) - 60.0).abs() < 1e-2);
        assert!((length.mean(30) - 30.0).abs() < 1e-2);
    }

    #[test]
    fn uniform_lengths_have_the_textbook_remainder() {
        // Uniform on (0, 100): given more than 50, another 25 on average; the tail beyond 98 is exponential.
        assert!((uniform().expected_remaining(50, 10_000) - 25.0).abs() < 0.2);
        assert!((uniform().quantile(0.25) - 25.0).abs() < 1e-9);
        assert!((uniform().survival(25.0) - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_quantile_beyond_what_was_produced_is_one_of_the_rest() {
        // Uniform on (0, 100) beyond 50 is uniform on (50, 100).
        for (produced, level, expected) in [(0, 0.25, 25.0), (50, 0.5, 75.0), (60, 0.75, 90.0)] {
            let quantile = uniform().quantile_beyond(produced, level, 1000);
            assert!((quantile - expected).abs() < 1e-9, "{produced} {level}: {quantile}");
        }
        assert!((uniform().quantile_beyond(50, 0.5, 60) - 60.0).abs() < 1e-12);
        let beyond = |produced| uniform().quantile_beyond(produced, 0.5, 1_000_000) - f64::from(produced);
        assert!((beyond(150) - beyond(400_000)).abs() < 1e-6);
    }

    #[test]
    fn beyond_the_last_quantile_the_remainder_is_constant() {
        let (a, b) =
            (uniform().expected_remaining(150, 1_000_000), uniform().expected_remaining(400, 1_000_000));
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn descending_quantiles_are_refused() {
        let mut quantiles = LEVELS.map(|level| 100.0 * level);
        quantiles[3] = 1.0;
        assert!(LengthDistribution::from_quantiles(&quantiles).is_err());
    }
    #[test]
    fn a_sample_gives_its_own_quantiles() {
        let lengths: Vec<u32> = (0..=100).collect();
        let length = LengthDistribution::from_sorted_sample(&lengths).unwrap();
        for level in LEVELS {
            assert!((length.quantile(level) - 100.0 * level).abs() < 1e-9, "{level}");
        }
        assert!(LengthDistribution::from_sorted_sample(&[]).is_err());
        assert!(LengthDistribution::from_sorted_sample(&[9, 1]).is_err());
    }
}
