//! A classifier over buckets of lengths, by how often it takes which bucket for which.

use std::sync::Arc;

use irouter_core::LengthDistribution;
use irouter_core::length::{LEVELS, sorted_quantile};

use super::{Confusion, Population};
use crate::error::Result;

/// What each predicted bucket says of the length: the population's lengths in every bucket that may have led to the
/// prediction, weighted by the probability that it did.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    confusion: Confusion,
    distributions: Vec<Arc<LengthDistribution>>,
}

impl Buckets {
    pub(super) fn fit(population: &Population, confusion: &Confusion) -> Result<Self> {
        let lengths = population.lengths();
        let mut parts = Vec::with_capacity(confusion.buckets());
        let mut start = 0;
        for edge in confusion.edges() {
            let end = lengths.partition_point(|tokens| tokens < edge);
            parts.push(&lengths[start..end]);
            start = end;
        }
        parts.push(&lengths[start..]);
        let distributions = (0..confusion.buckets()).map(|predicted| {
            let weights: Vec<f64> = parts
                .iter()
                .enumerate()
                .map(|(actual, part)| part.len() as f64 * confusion.probability(actual, predicted))
                .collect();
            Ok(Arc::new(if weights.iter().sum::<f64>() > 0.0 {
                LengthDistribution::from_quantiles(
                    &LEVELS.map(|level| mixed_quantile(&parts, &weights, level)),
                )?
            } else {
                // Nobody in the population leads to this prediction, so nothing is known beyond the population.
                population.distribution()?
            }))
        });
        Ok(Self { distributions: distributions.collect::<Result<_>>()?, confusion: confusion.clone() })
    }

    /// The distributions, one per bucket.
    pub(super) fn distributions(&self) -> &[Arc<LengthDistribution>] {
        &self.distributions
    }

    /// The bucket predicted for a length, given a uniform draw on (0, 1).
    pub(super) fn predict(&self, tokens: u32, draw: f64) -> usize {
        let actual = self.confusion.bucket(tokens);
        let mut below = 0.0;
        for predicted in 0..self.confusion.buckets() {
            below += self.confusion.probability(actual, predicted);
            if draw < below {
                return predicted;
            }
        }
        // The probabilities add up to 1 but for rounding, which must not turn a sure hit into a miss.
        actual
    }
}

/// Quantile of a mixture of samples that lie one above the other.
fn mixed_quantile(parts: &[&[u32]], weights: &[f64], level: f64) -> f64 {
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
        let buckets = Buckets::fit(&population, &Confusion::of_accuracy(1.0)).unwrap();
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
        let population = Population::new(&lengths).unwrap();
        let buckets = Buckets::fit(&population, &Confusion::of_accuracy(0.5)).unwrap();
        let middle = &buckets.distributions()[1];
        assert!((middle.quantile(0.7) - 10.0).abs() < 0.1 && (middle.quantile(0.8) - 500.0).abs() < 0.1);
        // Said to be long: only middle ones can be.
        assert!((buckets.distributions()[2].quantile(0.1) - 500.0).abs() < 0.1);
        assert_eq!([0.1, 0.3, 0.7, 0.9].map(|draw| buckets.predict(500, draw)), [0, 1, 1, 2]);
        assert_eq!([0.4, 0.6].map(|draw| buckets.predict(10, draw)), [0, 1]);
    }
}
