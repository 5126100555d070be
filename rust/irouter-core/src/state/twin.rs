//! The twin: the engine model, filled with the requests known to be on a real instance.

use std::sync::Arc;

use crate::engine::{EngineConfig, EngineLoad, Executor, FastForward, Job, JobSlot, NoObserver};
use crate::error::Result;
use crate::profile::Scale;
use crate::time::Picos;

/// Tokens that have to be compared before the learned speed is used, and after which old comparisons fade.
const SPEED_WINDOW_TOKENS: u64 = 2048;

/// What the router believes is going on inside an instance.
///
/// Between events it runs by itself, by the router's profile. Events correct it: a finished request leaves it then and
/// no earlier; a request whose known progress disagrees is moved; a progress that agrees changes nothing. From the
/// same comparisons it learns how fast the real engine is, as a factor on every step time.
#[derive(Clone, Debug)]
pub struct Twin {
    engine: FastForward,
    speed: f64,
    /// Tokens that the twin and the real engine produced between the same events.
    modelled_tokens: u64,
    real_tokens: u64,
    /// Before this time a look at it shows what it showed last.
    next_change: Picos,
}

impl Twin {
    pub(super) fn new(config: Arc<EngineConfig>) -> Self {
        Self {
            engine: FastForward::twin(config),
            speed: 1.0,
            modelled_tokens: 0,
            real_tokens: 0,
            next_change: Picos::ZERO,
        }
    }

    /// What it holds, as of the last decision.
    pub fn load(&self) -> EngineLoad {
        self.engine.load()
    }

    /// The engine model itself, to be cloned and run ahead.
    pub fn engine(&self) -> &FastForward {
        &self.engine
    }

    /// Factor on the profile's step times that the real engine has shown.
    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Adds a request that reaches the engine at `at`. Its length is open: it stays until it is removed.
    pub(super) fn dispatched(&mut self, at: Picos, job: Job) -> Result<JobSlot> {
        self.next_change = self.next_change.min(at);
        self.engine.submit(at, job)
    }

    /// Runs the model up to `now`, where an event is to correct it.
    pub(super) fn advance(&mut self, now: Picos) -> Result<()> {
        self.next_change = now;
        self.engine.advance(now, &mut NoObserver)
    }

    /// Runs the model as far as a look at it at `now` can tell.
    pub(super) fn look(&mut self, now: Picos) -> Result<()> {
        if now >= self.next_change {
            self.engine.advance(now, &mut NoObserver)?;
            self.next_change = self.engine.next_change();
        }
        Ok(())
    }

    /// Tokens that the model thinks the request has produced.
    pub fn produced(&self, slot: JobSlot) -> u32 {
        self.engine.produced(slot)
    }

    /// Takes a request out.
    pub(super) fn remove(&mut self, slot: JobSlot) {
        self.engine.remove(slot);
    }

    /// Moves a request into the range that its events allow; says whether it was outside.
    pub(super) fn bound(&mut self, slot: JobSlot, least: u32, most: u32) -> bool {
        let produced = self.engine.produced(slot);
        let bounded = produced.clamp(least, most);
        if bounded != produced {
            self.engine.correct(slot, bounded);
        }
        bounded != produced
    }

    /// Compares what the model and the real engine produced for one request between two of its events.
    pub(super) fn compare(&mut self, modelled: u32, real: u32) {
        self.modelled_tokens += u64::from(modelled);
        self.real_tokens += u64::from(real);
        if self.real_tokens < SPEED_WINDOW_TOKENS {
            return;
        }
        let ratio = self.modelled_tokens as f64 / self.real_tokens as f64;
        // Half of the way at a time: corrections in the window make the ratio noisy.
        let speed = (self.speed * libm::sqrt(ratio)).clamp(1.0 / 16.0, 16.0);
        if let Some(scale) = Scale::new(speed) {
            self.speed = speed;
            self.engine.set_speed(scale);
        }
        (self.modelled_tokens, self.real_tokens) = (0, 0);
    }
}
