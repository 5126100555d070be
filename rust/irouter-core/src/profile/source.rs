//! Where step times come from, and where they stop being known.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::at_least_one;

/// Where step times come from and how far they may be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Data and licence in one line.
    pub data: String,
    /// Most tokens in a step that were fitted; beyond, the last slope goes on.
    pub fitted_tokens: u32,
    /// Most sequences in a step that were fitted.
    pub fitted_sequences: u32,
    /// Longest context that was fitted, in tokens.
    pub fitted_context_tokens: u32,
    /// Mean absolute error on held-out steps, in percent; `null` where nothing was held out.
    pub held_out_error_percent: Option<f64>,
}

/// A quantity of a step that lies beyond the fitted range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extrapolation {
    /// Which quantity: `tokens`, `sequences` or `context`.
    pub quantity: &'static str,
    /// Its value.
    pub value: u32,
    /// The end of the fitted range.
    pub fitted: u32,
}

impl fmt::Display for Extrapolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quantity, value, fitted } = self;
        write!(formatter, "{quantity} {value} beyond the fitted {fitted}")
    }
}

impl Source {
    /// What of a step with so many tokens, sequences and tokens of longest context lies beyond the fitted range; empty
    /// within it.
    pub fn extrapolations(&self, tokens: u32, sequences: u32, context: u32) -> Vec<Extrapolation> {
        [
            ("tokens", tokens, self.fitted_tokens),
            ("sequences", sequences, self.fitted_sequences),
            ("context", context, self.fitted_context_tokens),
        ]
        .into_iter()
        .filter(|&(_, value, fitted)| value > fitted)
        .map(|(quantity, value, fitted)| Extrapolation { quantity, value, fitted })
        .collect()
    }

    pub(super) fn validate(&self) -> Result<()> {
        at_least_one("source.fitted_tokens", self.fitted_tokens)?;
        at_least_one("source.fitted_sequences", self.fitted_sequences)?;
        at_least_one("source.fitted_context_tokens", self.fitted_context_tokens)?;
        match self.held_out_error_percent {
            Some(error) if !(error.is_finite() && error >= 0.0) => Err(Error::field(
                "source.held_out_error_percent",
                error,
                "a finite number of at least 0, or null",
            )),
            _ => Ok(()),
        }
    }
}
