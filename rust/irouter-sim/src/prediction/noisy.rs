//! What a predictor of known rank correlation would say: conditional distributions given a noisy view of the truth.

use std::sync::Arc;

use irouter_core::LengthDistribution;

use super::{Population, kendall_tau_b};
use crate::error::{Result, SimError};
use crate::random::{Purpose, generator, standard_normal};

/// Views fall into this many bins of equal probability.
const BINS: usize = 64;
/// Views drawn to measure a rank correlation (its standard error is below 0.005), and to fill the bins.
const MEASURED: usize = 1 << 14;
const FITTED: usize = 1 << 16;
/// The spread of the error is sought between these, by halving the ratio of the bounds this often.
const SIGMA_BOUNDS: [f64; 2] = [0.01, 100.0];
const HALVINGS: usize = 20;

/// A noisy view of output lengths.
///
/// The view of a request is `z + sigma x eps`, with `z` the normal score of its length's rank and `eps` standard normal. The
/// prediction is the distribution of the lengths whose views fall into the same bin: calibrated by construction.
#[derive(Clone, Debug)]
pub(super) struct NoisyView {
    sigma: f64,
    /// The view where each bin but the first begins, ascending.
    edges: Vec<f64>,
    bins: Vec<Arc<LengthDistribution>>,
}

impl NoisyView {
    /// Finds the spread of the error at which the expected lengths of the predictions have a rank correlation of `tau` with
    /// the truth. A population of one length has no ranks; its predictions are exact.
    ///
    /// # Errors
    /// [`SimError::Field`] when the population's ties keep the rank correlation below `tau`.
    pub(super) fn fit(population: &Population, tau: f64) -> Result<Self> {
        if population.is_constant() {
            let only = Arc::new(population.distribution()?);
            return Ok(Self { sigma: 0.0, edges: Vec::new(), bins: vec![only] });
        }
        let sample = Sample::draw(population, MEASURED);
        let measured = |sigma: f64| -> Result<f64> {
            Ok(sample.rank_correlation(&Self::from_sample(&sample, sigma)?).unwrap_or(0.0))
        };
        let [mut low, mut high] = SIGMA_BOUNDS;
        let most = measured(low)?;
        if most < tau {
            let expected = format!("at most {most:.3}, which is all that 64 bins of these lengths allow");
            return Err(SimError::field("predictor", format!("noisy:{tau}"), expected));
        }
        for _ in 0..HALVINGS {
            let middle = libm::sqrt(low * high);
            if measured(middle)? > tau {
                low = middle;
            } else {
                high = middle;
            }
        }
        Self::from_sample(&Sample::draw(population, FITTED), libm::sqrt(low * high))
    }

    fn from_sample(sample: &Sample, sigma: f64) -> Result<Self> {
        let mut views: Vec<(f64, u32)> = sample
            .members
            .iter()
            .map(|member| (sigma.mul_add(member.errors[0], member.score), member.tokens))
            .collect();
        views.sort_unstable_by(|one, two| one.0.total_cmp(&two.0).then(one.1.cmp(&two.1)));
        let mut edges = Vec::with_capacity(BINS - 1);
        let mut bins = Vec::with_capacity(BINS);
        for (index, bin) in views.chunks(views.len() / BINS).enumerate() {
            if index > 0 {
                edges.push(bin[0].0);
            }
            let mut lengths: Vec<u32> = bin.iter().map(|view| view.1).collect();
            lengths.sort_unstable();
            bins.push(Arc::new(LengthDistribution::from_sorted_sample(&lengths)?));
        }
        Ok(Self { sigma, edges, bins })
    }

    /// The distributions, one per bin.
    pub(super) fn bins(&self) -> &[Arc<LengthDistribution>] {
        &self.bins
    }

    /// The bin of a request, given its normal score and a standard normal draw.
    pub(super) fn bin(&self, score: f64, error: f64) -> usize {
        let view = self.sigma.mul_add(error, score);
        self.edges.partition_point(|&edge| edge <= view)
    }
}

/// Members of a population, evenly over its ranks, each with two draws: one to fit on, one to measure with.
struct Sample {
    members: Vec<Member>,
}

struct Member {
    tokens: u32,
    score: f64,
    errors: [f64; 2],
}

impl Sample {
    fn draw(population: &Population, size: usize) -> Self {
        // The same for every seed of a run: a predictor is trained once.
        let mut generator = generator(0, Purpose::Fit);
        let lengths = population.lengths();
        let members = (0..size).map(|index| {
            let tokens = lengths[(2 * index + 1) * lengths.len() / (2 * size)];
            let score = population.normal_score(tokens);
            Member {
                tokens,
                score,
                errors: [standard_normal(&mut generator), standard_normal(&mut generator)],
            }
        });
        Self { members: members.collect() }
    }

    fn rank_correlation(&self, view: &NoisyView) -> Option<f64> {
        let means: Vec<f64> = view.bins.iter().map(|bin| bin.mean(u32::MAX)).collect();
        let predicted: Vec<f64> =
            self.members.iter().map(|member| means[view.bin(member.score, member.errors[1])]).collect();
        let truth: Vec<f64> = self.members.iter().map(|member| f64::from(member.tokens)).collect();
        kendall_tau_b(&predicted, &truth)
    }
}
