//! Random choices of policies, from their own seeded generator.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::Result;
use crate::ids::InstanceId;
use crate::state::InstanceState;

use super::ClusterView;

/// A policy's source of randomness: the same seed gives the same choices on every platform.
#[derive(Clone, Debug)]
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `count`, which is at least 1.
    pub(super) fn below(&mut self, count: u32) -> u32 {
        self.0.random_range(0..count)
    }

    /// A number from 0 to 1, exclusive.
    pub(super) fn share(&mut self) -> f64 {
        self.0.random()
    }

    /// An index drawn with probability proportional to its weight, of which none is negative and at least one is there;
    /// evenly when all are zero.
    pub(super) fn weighted(&mut self, weights: &[f64]) -> usize {
        let sum: f64 = weights.iter().sum();
        if sum <= 0.0 {
            return self.below(u32::try_from(weights.len()).unwrap_or(u32::MAX)) as usize;
        }
        let mut left = self.share() * sum;
        let index = weights.iter().position(|&weight| {
            left -= weight;
            left < 0.0
        });
        // The last weight may be missed by a rounding error.
        index.or_else(|| weights.iter().rposition(|&weight| weight > 0.0)).unwrap_or(0)
    }

    /// The instance with the lowest cost, drawn evenly among equals; `None` without instances. Nothing is drawn when
    /// there is one lowest.
    pub(super) fn lowest_of<'a>(
        &mut self,
        instances: impl Iterator<Item = &'a InstanceState>,
        mut cost: impl FnMut(&InstanceState) -> f64,
    ) -> Option<InstanceId> {
        let mut lowest = f64::INFINITY;
        let mut equals = 0;
        let mut chosen = None;
        for instance in instances {
            let cost = cost(instance);
            if chosen.is_none() || cost < lowest {
                (lowest, equals, chosen) = (cost, 1, Some(instance.id()));
            } else if cost.total_cmp(&lowest).is_eq() {
                // Each of the equals seen so far stays with the same probability.
                equals += 1;
                if self.below(equals) == 0 {
                    chosen = Some(instance.id());
                }
            }
        }
        chosen
    }

    /// The ready instance with the lowest cost, drawn evenly among equals.
    ///
    /// # Errors
    /// [`crate::Error::NoInstance`] when none is ready.
    pub(super) fn lowest(
        &mut self,
        view: &ClusterView<'_>,
        cost: impl FnMut(&InstanceState) -> f64,
    ) -> Result<InstanceId> {
        self.lowest_of(view.ready(), cost).ok_or_else(|| view.no_instance())
    }

    /// The same with the costs of the ready instances in the order of their numbers.
    ///
    /// # Errors
    /// As [`Self::lowest`].
    pub(super) fn lowest_cost(&mut self, view: &ClusterView<'_>, costs: Vec<f64>) -> Result<InstanceId> {
        let mut costs = costs.into_iter();
        self.lowest(view, |_| costs.next().unwrap_or(f64::INFINITY))
    }

    /// The cheaper of two different ready instances, drawn at random; the first drawn when they cost the same. Nothing is
    /// drawn when there is only one.
    ///
    /// # Errors
    /// [`crate::Error::NoInstance`] when none is ready.
    pub(super) fn cheaper_of_two(
        &mut self,
        view: &ClusterView<'_>,
        mut cost: impl FnMut(&InstanceState) -> f64,
    ) -> Result<InstanceId> {
        let ready = u32::try_from(view.ready().count()).unwrap_or(u32::MAX);
        if ready < 2 {
            return view.lowest(|_| 0.0);
        }
        let first = self.below(ready);
        // One of the others, each with the same probability.
        let second = (first + 1 + self.below(ready - 1)) % ready;
        let nth = |index: u32| view.ready().nth(index as usize).ok_or_else(|| view.no_instance());
        let (first, second) = (nth(first)?, nth(second)?);
        let cheaper = if cost(second) < cost(first) { second } else { first };
        Ok(InstanceState::id(cheaper))
    }
}
