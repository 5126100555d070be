//! Which decoding requests reach a multiple of the reporting cadence, and in which step.

use std::num::NonZeroU32;

/// The decoding requests, in order of admission, by the steps in which they reach a multiple of the cadence.
///
/// All of them advance together, so a request that has produced `p` tokens when `s` steps are counted keeps its place
/// `(s - p) mod cadence`: it is at a multiple whenever the count of steps is, modulo the cadence, its place.
#[derive(Clone, Debug)]
pub(super) struct ProgressWheel {
    places: Vec<Vec<u32>>,
}

impl ProgressWheel {
    pub(super) fn new(cadence: NonZeroU32) -> Self {
        Self { places: vec![Vec::new(); cadence.get() as usize] }
    }

    /// Whether `produced` tokens are to be told.
    pub(super) fn tells(&self, produced: u32) -> bool {
        (produced as usize).is_multiple_of(self.places.len())
    }

    /// Adds a request that has produced `produced` tokens when `steps` are counted.
    pub(super) fn join(&mut self, steps: u64, produced: u32, index: u32) {
        let place = self.place(steps, produced);
        self.places[place].push(index);
    }

    /// Takes it out; `steps` and `produced` may have grown alike.
    pub(super) fn leave(&mut self, steps: u64, produced: u32, index: u32) {
        let place = self.place(steps, produced);
        self.places[place].retain(|&other| other != index);
    }

    /// The requests that are at a multiple of the cadence when `steps` are counted.
    pub(super) fn at(&self, steps: u64) -> &[u32] {
        &self.places[self.place(steps, 0)]
    }

    /// Steps after `steps` until a request is at a multiple; `None` when there is no request.
    pub(super) fn steps_to_next(&self, steps: u64) -> Option<u64> {
        (1..=self.places.len() as u64).find(|ahead| !self.at(steps + ahead).is_empty())
    }

    fn place(&self, steps: u64, produced: u32) -> usize {
        let cadence = self.places.len() as u64;
        let place = (steps % cadence + cadence - u64::from(produced) % cadence) % cadence;
        #[expect(clippy::cast_possible_truncation, reason = "below the length of a vector")]
        {
            place as usize
        }
    }
}
