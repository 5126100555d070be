//! Latency profiles: what an engine is, and how long its steps take.

mod capacity;
mod limits;
mod source;
mod step;
mod step_time;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use capacity::{ModelShape, kv_capacity_blocks};
pub use limits::{KvCache, Scheduler, SchedulerMode};
pub use source::{Extrapolation, Source};
pub use step::{DecodeRun, Scale, StepModel, StepShape};
pub use step_time::{Form, StepTime};

use crate::error::{Error, Result};

/// A profile as it is written in JSON: one model on one kind of accelerator behind one engine configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name such as `llama-3.1-8b@h100`.
    pub name: String,
    /// Model name.
    pub model: String,
    /// Accelerator name with its memory in GB, such as `h100-80`.
    pub accelerator: String,
    /// Accelerators per instance.
    pub tensor_parallel: u32,
    /// Most tokens of prompt and output together.
    pub max_model_len: u32,
    /// How the engine batches.
    pub scheduler: Scheduler,
    /// How much KV cache it has.
    pub kv: KvCache,
    /// How long a step takes.
    pub step_time: StepTime,
    /// Where the step times come from.
    pub source: Source,
}

impl Profile {
    /// Reads and validates a profile.
    ///
    /// # Errors
    /// [`Error::Schema`] for JSON that is not a profile, [`Error::Field`] for a value out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        let profile: Self = serde_json::from_str(text)
            .map_err(|error| Error::Schema { what: "profile".into(), message: error.to_string() })?;
        profile.validate()?;
        Ok(profile)
    }

    /// The profile as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`Error::Field`] naming the first bad field.
    pub fn validate(&self) -> Result<()> {
        for (field, text) in
            [("name", &self.name), ("model", &self.model), ("accelerator", &self.accelerator)]
        {
            if text.trim().is_empty() {
                return Err(Error::field(field, "empty", "a name"));
            }
        }
        at_least_one("tensor_parallel", self.tensor_parallel)?;
        at_least_one("max_model_len", self.max_model_len)?;
        self.scheduler.validate()?;
        self.kv.validate()?;
        self.step_time.validate()?;
        self.source.validate()
    }

    /// What of this profile's own limits (full steps, full batches, longest request) lies beyond the fitted range.
    pub fn extrapolations(&self) -> Vec<Extrapolation> {
        self.source.extrapolations(
            self.scheduler.max_num_batched_tokens,
            self.scheduler.max_num_seqs,
            self.max_model_len,
        )
    }
}

fn at_least_one(field: &str, value: u32) -> Result<()> {
    if value == 0 { Err(Error::field(field, value, "at least 1")) } else { Ok(()) }
}
