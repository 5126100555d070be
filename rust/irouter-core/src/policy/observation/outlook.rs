//! What an instance's KV cache will hold, in as few numbers as can be compared for many requests at once.

use crate::impact::{Candidate, Forecast, GRID};
use crate::request::Request;

/// Beyond so many standard deviations nothing changes any more.
pub(super) const MOST_DEVIATIONS: f32 = 6.0;

/// Mean and variance of the tokens in a KV cache at each step of [`GRID`], from a [`Forecast`]: of an instance, or of one
/// request alone. They add up.
///
/// In 32 bits: a decision compares a hundred pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outlook {
    tokens: [f32; GRID.len()],
    variance: [f32; GRID.len()],
}

impl Outlook {
    /// Of an instance.
    pub(super) fn new(forecast: &Forecast) -> Self {
        Self::narrowed(forecast.tokens(), forecast.variance())
    }

    /// Of one request that starts now.
    pub(super) fn of_request(request: &Request, block_tokens: u32) -> Self {
        let (tokens, variance) = Candidate::new(request).tokens(block_tokens);
        Self::narrowed(&tokens, &variance)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a millionth of the tokens does not matter")]
    fn narrowed(tokens: &[f64; GRID.len()], variance: &[f64; GRID.len()]) -> Self {
        Self {
            tokens: tokens.map(|tokens| tokens as f32),
            variance: variance.map(|variance| variance as f32),
        }
    }

    /// Adds a request.
    pub(super) fn add(&mut self, request: &Self) {
        for (tokens, more) in self.tokens.iter_mut().zip(&request.tokens) {
            *tokens += more;
        }
        for (variance, more) in self.variance.iter_mut().zip(&request.variance) {
            *variance += more;
        }
    }

    /// The same with one request more.
    pub(super) fn with(mut self, request: &Self) -> Self {
        self.add(request);
        self
    }

    /// How far the tokens come above the capacity, in standard deviations, at the step where that is most: the larger, the
    /// likelier an overflow. Between -6 and 6.
    pub(super) fn peak_deviations(&self, capacity_tokens: f32) -> f32 {
        let mut above = [0.0; GRID.len()];
        for ((above, tokens), variance) in above.iter_mut().zip(&self.tokens).zip(&self.variance) {
            // One token is no spread at all, and exact lengths have none.
            *above = (tokens - capacity_tokens) / (variance + 1.0).sqrt();
        }
        let most = above.iter().fold(f32::MIN, |most, &above| if above > most { above } else { most });
        most.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::request;

    #[test]
    fn a_peak_is_where_the_forecast_has_it() {
        // 1,000 tokens of prompt and exactly 500 of output, and half a block: most just before the end.
        let outlook = Outlook::of_request(&request(1000, 500), 16);
        assert!((outlook.peak_deviations(1450.0) - 5.5).abs() < 0.1, "the last step of the grid is 448");
        assert!(outlook.peak_deviations(1600.0) <= -MOST_DEVIATIONS + 1e-6);
        let two = outlook.with(&outlook);
        assert!(two.peak_deviations(2900.0) > 0.0 && two.peak_deviations(3100.0) < 0.0);
    }
}
