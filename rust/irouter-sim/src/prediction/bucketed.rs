//! A classifier over the paper's three buckets, of given accuracy.

use std::sync::Arc;

use irouter_core::LengthDistribution;
use irouter_core::length::{LEVELS, sorted_quantile};

use super::Population;
use crate::error::Result;

/// Where the paper's buckets begin, in tokens: 0-256, 256-2048, 2048 and more.
const EDGES: [u32; 2] = [256, 2048];
const BUCKETS: usize = EDGES.len() + 1;

/// What each predicted bucket says of the length: the population's lengths in every bucket that may have led to the
/// prediction, weighted by the probability that it did.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    accuracy: f64,
    distributions: Vec<Arc<LengthDistribution>>,
}

impl Buckets {
    pub(super) fn fit(population: &Population, accuracy: f64) -> Result<Self> {
        let lengths = population.lengths();
        let ends = EDGES.map(|edge| lengths.partition_point(|&tokens| tokens < edge));
        let parts = [&lengths[..ends[0]], &lengths[ends[0]..ends[1]], &lengths[ends[1]..]];
        let distributions = (0..BUCKETS).map(|predicted| {
            let weights: [f64; BUCKETS] = std::array::from_fn(|actual| {
                parts[actual].len() as f64 * probability(accuracy, actual, predicted)
            });
            Ok(Arc::new(if weights.iter().sum::<f64>() > 0.0 {
                LengthDistribution::from_quantiles(
                    &LEVELS.map(|level| mixed_quantile(&parts, &weights, level)),
                )?
            } else {
                // Nobody in the population leads to this prediction, so nothing is known beyond the population.
                population.distribution()?
            }))
        });
        Ok(Self { accuracy, distributions: distributions.collect::<Result<_>>()? })
    }

    /// The distributions, one per bucket.
    pub(super) fn distributions(&self) -> &[Arc<LengthDistribution>] {
        &self.distributions
    }

    /// The bucket predicted for a length, given a uniform draw on (0, 1).
    pub(super) fn predict(&self, tokens: u32, draw: f64) -> usize {
        let actual = EDGES.partition_point(|&edge| edge <= tokens);
        let mut below = 0.0;
        for predicted in 0..BUCKETS {
            below += probability(self.accuracy, actual, predicted);
            if draw < below {
                return predicted;
            }
        }
        // The probabilities add up to 1 but for rounding, which must not turn a sure hit into a miss.
        actual
    }
}

/// Probability that a length of bucket `actual` is said to lie in bucket `predicted`: errors go to a neighbour, either one
/// alike.
fn probability(accuracy: f64, actual: usize, predicted: usize) -> f64 {
    match actual.abs_diff(predicted) {
        0 => accuracy,
        1 if actual == 1 => (1.0 - accuracy) / 2.0,
        1 => 1.0 - accuracy,
        _ => 0.0,
    }
}

/// Quantile of a mixture of samples that lie one above the other.
fn mixed_quantile(parts: &[&[u32]; BUCKETS], weights: &[f64; BUCKETS], level: f64) -> f64 {
    let mut left = level * weights.iter().sum::<f64>();
    let mut value = 0.0;
    for (part, &weight) in parts.iter().zip(weights) {
        if weight > 0.0 {
            value = sorted_quantile(part, (left / weight).min(1.0));
            if left <= weight {
                break;
            }
            left -= weight;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sure_classifier_tells_the_population_of_the_right_bucket() {
        let population = Population::new(&(1..=3000).collect::<Vec<_>>()).unwrap();
        let buckets = Buckets::fit(&population, 1.0).unwrap();
        for (tokens, bucket) in [(1, 0), (255, 0), (256, 1), (2047, 1), (2048, 2)] {
            assert_eq!(buckets.predict(tokens, 0.999_999), bucket);
        }
        let medians: Vec<f64> =
            buckets.distributions().iter().map(|length| length.quantile(0.5).round()).collect();
        assert_eq!(medians, [128.0, 1152.0, 2524.0]);
    }

    #[test]
    fn a_prediction_mixes_what_may_have_led_to_it() {
        // 300 short, 100 middle: of those said to be middle at accuracy 0.5, 150 are short and 50 are middle.
        let lengths: Vec<u32> = (0..400).map(|row| if row < 300 { 10 } else { 500 }).collect();
        let buckets = Buckets::fit(&Population::new(&lengths).unwrap(), 0.5).unwrap();
        let middle = &buckets.distributions()[1];
        assert!((middle.quantile(0.7) - 10.0).abs() < 0.1 && (middle.quantile(0.8) - 500.0).abs() < 0.1);
        // Said to be long: only middle ones can be.
        assert!((buckets.distributions()[2].quantile(0.1) - 500.0).abs() < 0.1);
        assert_eq!([0.1, 0.3, 0.7, 0.9].map(|draw| buckets.predict(500, draw)), [0, 1, 1, 2]);
        assert_eq!([0.4, 0.6].map(|draw| buckets.predict(10, draw)), [0, 1]);
    }
}
