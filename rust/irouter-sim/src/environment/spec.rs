//! What an environment is, beside the experiment that it runs.

use irouter_core::Picos;
use serde::Deserialize;

use super::agent::Timer;
use super::observation::ObservationKind;
use super::reward::RewardKind;
use crate::error::{Result, SimError};

/// How an agent meets an experiment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// What it is shown.
    pub observation: ObservationKind,
    /// What it is rewarded for.
    pub reward: RewardKind,
    /// Seconds between decisions, one request at each: 0.02 in the paper. Without it, it decides at every arrival and event,
    /// on as many requests as it likes.
    pub tick_s: Option<f64>,
    /// The longest hold without a tick, in seconds: the agent is asked again then at the latest.
    pub longest_hold_s: f64,
    /// Decisions after which an episode is cut off.
    pub max_decisions: Option<u64>,
}

impl Default for EnvironmentSpec {
    fn default() -> Self {
        Self {
            observation: ObservationKind::default(),
            reward: RewardKind::default(),
            tick_s: None,
            longest_hold_s: 1.0,
            max_decisions: None,
        }
    }
}

impl EnvironmentSpec {
    /// Reads a specification.
    ///
    /// # Errors
    /// [`SimError::Schema`] for JSON that is none.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| SimError::Schema { what: "environment", message: error.to_string() })
    }

    pub(super) fn timer(&self) -> Result<Timer> {
        let positive = |field, value| {
            let time = Picos::from_seconds(value).filter(|&time| time > Picos::ZERO);
            time.ok_or_else(|| SimError::field(field, value, "a positive number of seconds"))
        };
        match self.tick_s {
            Some(tick_s) => Ok(Timer::Tick(positive("tick_s", tick_s)?)),
            None => Ok(Timer::After(positive("longest_hold_s", self.longest_hold_s)?)),
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.max_decisions == Some(0) {
            return Err(SimError::field("max_decisions", 0, "at least 1"));
        }
        self.timer().map(drop)
    }
}
