//! Signatures that a twin needs; replaced by the executor's own.

use std::sync::Arc;

use super::{EngineConfig, FastForward, JobSlot};
use crate::profile::Scale;

impl FastForward {
    pub(crate) fn twin(config: Arc<EngineConfig>) -> Self {
        Self::new(config, None)
    }
    pub(crate) fn remove(&mut self, _slot: JobSlot) {}
    pub(crate) fn correct(&mut self, _slot: JobSlot, _produced: u32) {}
    pub(crate) fn set_speed(&mut self, _speed: Scale) {}
}
