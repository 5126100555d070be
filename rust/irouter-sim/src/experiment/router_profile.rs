//! What the router believes the instances to be.

use irouter_core::Profile;
use irouter_core::engine::Noise;
use irouter_core::profile::SchedulerMode;
use serde::Deserialize;

use super::Experiment;
use super::prepare::CALIBRATION_SEED;
use crate::calibrate::fitted_profile;
use crate::error::{Result, SimError};

/// What the router believes the instances to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterProfile {
    /// The engines' own profile.
    #[default]
    Exact,
    /// A profile fitted by the calibration on a separate noisy log of the engines.
    Fitted,
    /// Another profile.
    #[serde(untagged)]
    Other(Box<Profile>),
}

/// How far the router's profile is off, on top of what it is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileError {
    /// Factor on every step time.
    #[serde(default = "one")]
    pub step_time: f64,
    /// Factor on the number of KV blocks.
    #[serde(default = "one")]
    pub kv_blocks: f64,
    /// A scheduler mode in place of the profile's.
    #[serde(default)]
    pub scheduler: Option<SchedulerMode>,
}

fn one() -> f64 {
    1.0
}

impl ProfileError {
    pub(super) fn validate(&self) -> Result<()> {
        for (field, factor) in [("step_time", self.step_time), ("kv_blocks", self.kv_blocks)] {
            if !(0.01..=100.0).contains(&factor) {
                let field = format!("router_profile_error.{field}");
                return Err(SimError::field(field, factor, "a factor from 0.01 to 100"));
            }
        }
        Ok(())
    }

    fn apply(&self, profile: &mut Profile) {
        profile.step_time = profile.step_time.scaled(self.step_time);
        let blocks = libm::round(f64::from(profile.kv.blocks) * self.kv_blocks);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
        {
            profile.kv.blocks = (blocks as u32).max(1);
        }
        profile.scheduler.mode = self.scheduler.unwrap_or(profile.scheduler.mode);
    }
}

/// The profile that the router works with, where the engines have `profile`.
pub(super) fn router_profile(experiment: &Experiment, profile: &Profile) -> Result<Profile> {
    let mut believed = match &experiment.router_profile {
        RouterProfile::Exact => profile.clone(),
        RouterProfile::Other(other) => *other.clone(),
        RouterProfile::Fitted => {
            // Another instance on another day: its noise is that of no engine in the comparison.
            let noise =
                Noise::new(CALIBRATION_SEED, u32::MAX, experiment.step_noise, experiment.instance_noise)?;
            fitted_profile(profile, &noise, CALIBRATION_SEED)?
        }
    };
    if let Some(error) = experiment.router_profile_error {
        error.apply(&mut believed);
    }
    Ok(believed)
}

#[cfg(test)]
mod tests {
    use irouter_core::Picos;
    use irouter_core::engine::EngineConfig;
    use irouter_core::profile::{Scale, StepShape};

    use super::*;

    fn profile() -> Profile {
        let text = include_str!("../../../../python/irouter/profiles/llama-3.1-8b@a100.json");
        Profile::from_json(text).unwrap()
    }

    #[test]
    fn a_profile_error_scales_every_step_and_the_cache_and_changes_the_scheduler() {
        let error: ProfileError =
            serde_json::from_str(r#"{"step_time": 1.5, "kv_blocks": 0.9, "scheduler": "vllm-v0"}"#).unwrap();
        let mut believed = profile();
        error.apply(&mut believed);
        assert_eq!((believed.kv.blocks, believed.scheduler.mode), (25_754, SchedulerMode::VllmV0));
        let time = |profile: &Profile, shape: &StepShape| -> Picos {
            EngineConfig::new(profile).unwrap().steps.step(shape, Scale::ONE)
        };
        let prefill = StepShape {
            prefill_sequences: 2,
            prefill_tokens: 900,
            prefill_pairs: 500_000,
            ..StepShape::default()
        };
        let decode = StepShape { decodes: 30, decode_context: 20_000, ..StepShape::default() };
        let mixed = StepShape { decodes: 30, decode_context: 20_000, ..prefill };
        for shape in [prefill, decode, mixed] {
            let ratio = time(&believed, &shape).as_seconds() / time(&profile(), &shape).as_seconds();
            assert!((ratio - 1.5).abs() < 1e-6, "{ratio}");
        }
    }

    #[test]
    fn a_factor_out_of_range_is_named() {
        let error = ProfileError { step_time: 0.0, kv_blocks: 1.0, scheduler: None };
        assert_eq!(
            error.validate().unwrap_err().to_string(),
            "`router_profile_error.step_time` is 0, expected a factor from 0.01 to 100"
        );
    }
}
