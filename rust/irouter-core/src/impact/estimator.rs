//! The latency impact in any of its forms.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::policy::Needs;
use crate::state::{InstanceState, State};
use crate::time::Picos;

use super::ahead::{Baseline, Lengths};
use super::{Candidate, Forecast, Impact, Linear};

/// How the latency impact is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The paper's gradients: [`Linear`].
    Linear,
    /// Expectations over the coming steps: [`Forecast`].
    #[default]
    Forecast,
    /// The instance's twin, run to its end.
    FastForward,
}

/// Estimates the latency impact, and keeps of each instance what all candidates share until something changes there.
#[derive(Clone, Debug)]
pub struct Estimator {
    form: Form,
    lengths: Vec<Lengths>,
    /// By instance.
    kept: Vec<Option<Kept>>,
}

/// What all candidates share.
#[derive(Clone, Debug)]
enum Kept {
    Linear { generation: u32, linear: Linear },
    Forecast { version: u64, at: Picos, forecast: Box<Forecast> },
    FastForward(Baseline),
}

impl Form {
    /// The form of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the nearest that exists.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "linear" => Ok(Self::Linear),
            "forecast" => Ok(Self::Forecast),
            "fast_forward" => Ok(Self::FastForward),
            _ => Err(Error::unknown("form of the impact", name, ["linear", "forecast", "fast_forward"])),
        }
    }
}

impl Estimator {
    /// What an estimate reads of the state.
    pub const NEEDS: Needs = Needs {
        counts: true,
        progress: true,
        twin: true,
        prefix: true,
        occupancy: false,
        truth: false,
        reports: None,
    };

    /// An estimator of this form. Fast-forward runs at mean lengths.
    pub fn new(form: Form) -> Self {
        Self { form, lengths: vec![Lengths::Mean], kept: Vec::new() }
    }

    /// Fast-forward with a run at each of these lengths, at least one, instead of one at the mean.
    #[must_use]
    pub fn with_lengths(self, lengths: Vec<Lengths>) -> Self {
        Self { lengths, kept: Vec::new(), ..self }
    }

    /// The latency impact of placing the candidate on the instance at `now`, up to which the twins have been run.
    ///
    /// # Errors
    /// [`crate::Error::TooLong`] for a request that the instance can never hold.
    pub fn impact(
        &mut self,
        state: &State,
        instance: &InstanceState,
        candidate: &Candidate<'_>,
        now: Picos,
    ) -> Result<Impact> {
        instance.holds(candidate.request)?;
        let index = instance.id().index();
        if self.kept.len() <= index {
            self.kept.resize_with(index + 1, || None);
        }
        let kept = match self.kept[index].take().filter(|kept| kept.holds(instance, now)) {
            Some(kept) => kept,
            None => self.look(state, instance, now)?,
        };
        match self.kept[index].insert(kept) {
            Kept::Linear { linear, .. } => Ok(linear.impact(instance, candidate.request)),
            Kept::Forecast { forecast, .. } => Ok(forecast.impact(instance, candidate)),
            Kept::FastForward(baseline) => {
                baseline.impact(state, instance, candidate.request, now, &self.lengths)
            }
        }
    }

    fn look(&self, state: &State, instance: &InstanceState, now: Picos) -> Result<Kept> {
        let version = instance.version();
        Ok(match self.form {
            Form::Linear => {
                Kept::Linear { generation: instance.generation(), linear: Linear::new(instance.config()) }
            }
            Form::Forecast => {
                let forecast = Box::new(Forecast::new(state, instance, now));
                Kept::Forecast { version, at: now, forecast }
            }
            Form::FastForward => Kept::FastForward(Baseline::new(state, instance, &self.lengths)?),
        })
    }
}

impl Kept {
    /// Whether it is what would be made anew now.
    fn holds(&self, instance: &InstanceState, now: Picos) -> bool {
        match self {
            Self::Linear { generation, .. } => *generation == instance.generation(),
            Self::Forecast { version, at, .. } => *version == instance.version() && *at == now,
            Self::FastForward(baseline) => baseline.holds(instance, now),
        }
    }
}
