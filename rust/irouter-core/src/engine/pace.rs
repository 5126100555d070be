//! How fast the steps of an engine go.

use super::config::{NOISE_SLICE, Noise};
use crate::profile::Scale;
use crate::time::Picos;

/// The factor on step times at a time, with the one of the current slice at hand.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    noise: Option<Noise>,
    speed: Scale,
    scale: Scale,
    slice: (Picos, Picos),
}

impl Pace {
    pub(super) fn new(noise: Option<Noise>) -> Self {
        let slice = (Picos(i64::MIN), if noise.is_some() { Picos(i64::MIN) } else { Picos::MAX });
        Self { noise, speed: Scale::ONE, scale: Scale::ONE, slice }
    }

    /// Sets the factor that multiplies the noise.
    pub(super) fn set_speed(&mut self, speed: Scale) {
        *self = Self { speed, scale: speed, ..Self::new(self.noise.take()) };
    }

    /// The factor without noise.
    pub(super) fn speed(&self) -> Scale {
        self.speed
    }

    /// The factor of steps that start at `at`, and the time before which a step must start to have the same.
    #[inline]
    pub(super) fn at(&mut self, at: Picos) -> (Scale, Picos) {
        if (at < self.slice.0 || at >= self.slice.1)
            && let Some(noise) = &self.noise
        {
            let start = Picos(at.0 - at.0.rem_euclid(NOISE_SLICE.0));
            self.slice = (start, start.saturating_add(NOISE_SLICE));
            self.scale = noise.scale(at).times(self.speed);
        }
        (self.scale, self.slice.1)
    }
}
