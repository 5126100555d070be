//! How likely the KV cache overflows.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// -zeta(1/2) / sqrt(2 pi).
const CONTINUITY: f64 = 0.5826;

/// Standard deviations beyond which nothing is expected: a chance of 1e-8.
const FAR: f64 = 5.6;

/// The tokens at one point of the grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// With the point before.
    pub(super) covariance: f64,
}

/// The probability that tokens with these moments exceed `capacity` at some point.
///
/// An approximation: tokens are taken as normal, and from one point to the next the distribution of the tokens, given
/// that there was no overflow so far, is taken as normal again with its own mean and variance. For what happens between
/// two points the capacity is lowered by 0.5826 standard deviations of the change (Broadie, Glasserman and Kou, "A
/// continuity correction for discrete barrier options", 1997). The largest probability at any one point would be far too
/// low: what overflows at different steps in different futures adds up.
pub(super) fn probability(capacity: f64, points: impl Iterator<Item = Moments>) -> f64 {
    let mut safe = 1.0;
    let mut before: Option<Moments> = None;
    // Mean and variance at the point before, given no overflow up to it.
    let (mut mean, mut variance) = (0.0, 0.0);
    for now in points {
        let mut between = 0.0;
        if let Some(before) = before {
            let change = now.variance + before.variance - 2.0 * now.covariance;
            between = CONTINUITY * change.max(0.0).sqrt();
            let slope = if before.variance > 0.0 { now.covariance / before.variance } else { 0.0 };
            mean = now.mean + slope * (mean - before.mean);
            variance = now.variance + slope * (slope * variance - now.covariance);
        } else {
            mean = now.mean;
        }
        before = Some(now);
        // Exact lengths have no spread.
        let deviation = variance.max(1e-18).sqrt();
        let limit = capacity - between - mean;
        if limit > FAR * deviation {
            continue;
        }
        let limit = limit / deviation;
        let (below, density) = normal(limit);
        safe *= below;
        if safe < 1e-12 {
            return 1.0;
        }
        // The normal distribution cut off at the limit.
        let density = density / below;
        mean -= density * deviation;
        variance *= (1.0 - density * (limit + density)).max(0.0);
    }
    1.0 - safe
}

/// Distribution function and density of the standard normal distribution; the former within 7.5e-8 (Abramowitz and Stegun,
/// "Handbook of Mathematical Functions", 1964, formula 26.2.17), several times faster than the error function.
fn normal(at: f64) -> (f64, f64) {
    let density = libm::exp(-0.5 * at * at) * (0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI);
    let t = 1.0 / (1.0 + 0.231_641_9 * at.abs());
    let polynomial = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = density * polynomial;
    (if at >= 0.0 { 1.0 - tail } else { tail }, density)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_normal_distribution_is_the_error_functions() {
        for tenth in -80..=80 {
            let at = 0.1 * f64::from(tenth);
            let exact = 0.5 * libm::erfc(-at * FRAC_1_SQRT_2);
            assert!((normal(at).0 - exact).abs() < 7.5e-8, "{at}");
        }
    }

    #[test]
    fn one_point_is_the_normal_tail() {
        let points = |mean| {
            let known = Moments { mean: 100.0, variance: 0.0, covariance: 0.0 };
            [known, Moments { mean, variance: 100.0, covariance: 0.0 }].into_iter()
        };
        // The capacity is lowered by 5.826 of the ten tokens of deviation.
        let expected = 0.5 * libm::erfc(FRAC_1_SQRT_2);
        assert!((probability(215.826, points(200.0)) - expected).abs() < 1e-7);
        assert!(probability(1e6, points(200.0)) <= 0.0);
        assert!(probability(50.0, points(200.0)) >= 1.0);
    }
}
