//! Signatures of the executor.

use std::sync::Arc;

use super::{EngineConfig, EngineLoad, Executor, Job, JobSlot, Noise, Observer};
use crate::error::Result;
use crate::time::Picos;

/// One instance of an engine.
#[derive(Clone, Debug)]
pub struct Stepwise {
    config: Arc<EngineConfig>,
    noise: Option<Noise>,
}

impl Stepwise {
    /// An idle engine at time zero.
    pub fn new(config: Arc<EngineConfig>, noise: Option<Noise>) -> Self {
        Self { config, noise }
    }

    /// What it was built from.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Its noise.
    pub fn noise(&self) -> Option<&Noise> {
        self.noise.as_ref()
    }
}

impl Executor for Stepwise {
    fn submit(&mut self, _at: Picos, _job: Job) -> Result<JobSlot> {
        Ok(JobSlot(0))
    }

    fn cancel(&mut self, _at: Picos, _slot: JobSlot) -> Result<()> {
        Ok(())
    }

    fn advance(&mut self, _until: Picos, _observer: &mut impl Observer) -> Result<()> {
        Ok(())
    }

    fn next_event(&mut self) -> Option<Picos> {
        None
    }

    fn load(&self) -> EngineLoad {
        EngineLoad::default()
    }

    fn produced(&self, _slot: JobSlot) -> u32 {
        0
    }
}
