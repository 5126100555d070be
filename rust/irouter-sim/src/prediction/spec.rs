//! Predictors by name, as on the command line.

use std::fmt;
use std::str::FromStr;

use irouter_core::Error;

use crate::error::{Result, SimError};

/// Which predictor tells the router how long outputs will be.
#[derive(Clone, Debug, PartialEq)]
pub enum PredictorSpec {
    /// `none`: every request has the population's distribution.
    None,
    /// `noisy:TAU`: the conditional distribution given a noisy view of the length whose rank correlation (Kendall's tau-b)
    /// with the truth is TAU.
    Noisy {
        /// Rank correlation, 0.01 to 0.95.
        tau: f64,
    },
    /// `lognormal:SIGMA`: the truth times a log-normal error, with the error's own spread around it.
    LogNormal {
        /// Standard deviation of the error's logarithm, 0 to 4.
        sigma: f64,
    },
    /// `buckets:ACCURACY`: one of the paper's three buckets, the right one with this probability, else a neighbour.
    Buckets {
        /// Probability of the right bucket, 0 to 1.
        accuracy: f64,
    },
    /// `confusion:PATH`: a classifier with a measured confusion matrix, which comes beside the experiment.
    Confusion {
        /// Where the matrix was read from.
        path: String,
    },
    /// `model:PATH`: a trained predictor that has read the prompts of the workload, which brings what it said.
    Model {
        /// Folder of the predictor.
        path: String,
    },
    /// `oracle`: the truth.
    Oracle,
    /// `history`: running quantiles per application and prompt length, learned while the run goes on.
    History,
}

impl Default for PredictorSpec {
    /// `noisy:0.45`: what a fine-tuned encoder reaches on real chats.
    fn default() -> Self {
        Self::Noisy { tau: 0.45 }
    }
}

/// Every name.
const NAMES: [&str; 8] = ["none", "noisy", "lognormal", "buckets", "oracle", "history", "confusion", "model"];

impl FromStr for PredictorSpec {
    type Err = SimError;

    /// Reads `NAME` or `NAME:PARAMETER`.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the nearest name, [`SimError::Field`] for a parameter that is missing, superfluous or out of
    /// range.
    fn from_str(text: &str) -> Result<Self> {
        let (name, parameter) =
            text.split_once(':').map_or((text, None), |(name, parameter)| (name, Some(parameter)));
        let number = |form: &str, low: f64, high: f64| {
            let value = parameter.and_then(|text| text.parse().ok());
            value.filter(|value| (low..=high).contains(value)).ok_or_else(|| {
                SimError::field("predictor", text, format!("`{form}` with a number from {low} to {high}"))
            })
        };
        let path = |form: &str| {
            let path = parameter.filter(|path| !path.is_empty()).map(str::to_owned);
            path.ok_or_else(|| SimError::field("predictor", text, format!("`{form}`")))
        };
        let spec = match name {
            "none" => Self::None,
            "noisy" if parameter.is_none() => Self::default(),
            "noisy" => Self::Noisy { tau: number("noisy:TAU", 0.01, 0.95)? },
            "lognormal" => Self::LogNormal { sigma: number("lognormal:SIGMA", 0.0, 4.0)? },
            "buckets" => Self::Buckets { accuracy: number("buckets:ACCURACY", 0.0, 1.0)? },
            "oracle" => Self::Oracle,
            "history" => Self::History,
            "confusion" => Self::Confusion { path: path("confusion:PATH")? },
            "model" => Self::Model { path: path("model:PATH")? },
            _ => return Err(Error::unknown("predictor", name, NAMES).into()),
        };
        match (&spec, parameter) {
            (Self::None | Self::Oracle | Self::History, Some(_)) => {
                Err(SimError::field("predictor", text, format!("`{name}` without a parameter")))
            }
            _ => Ok(spec),
        }
    }
}

impl fmt::Display for PredictorSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Noisy { tau } => write!(formatter, "noisy:{tau}"),
            Self::LogNormal { sigma } => write!(formatter, "lognormal:{sigma}"),
            Self::Buckets { accuracy } => write!(formatter, "buckets:{accuracy}"),
            Self::Confusion { path } => write!(formatter, "confusion:{path}"),
            Self::Model { path } => write!(formatter, "model:{path}"),
            Self::Oracle => formatter.write_str("oracle"),
            Self::History => formatter.write_str("history"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read_back_as_it_is_written() {
        for text in [
            "none",
            "noisy:0.45",
            "lognormal:0.7",
            "buckets:0.79",
            "confusion:a/b.json",
            "model:c:d",
            "oracle",
            "history",
        ] {
            assert_eq!(text.parse::<PredictorSpec>().unwrap().to_string(), text);
        }
        assert_eq!("noisy".parse(), Ok(PredictorSpec::Noisy { tau: 0.45 }));
    }

    #[test]
    fn a_bad_spec_says_what_was_expected() {
        let message = |text: &str| text.parse::<PredictorSpec>().unwrap_err().to_string();
        assert_eq!(message("nosy:0.4"), "unknown predictor `nosy`; did you mean `noisy`?");
        assert_eq!(
            message("noisy:NaN"),
            "`predictor` is noisy:NaN, expected `noisy:TAU` with a number from 0.01 to 0.95"
        );
        assert_eq!(
            message("buckets"),
            "`predictor` is buckets, expected `buckets:ACCURACY` with a number from 0 to 1"
        );
        assert_eq!(message("oracle:1"), "`predictor` is oracle:1, expected `oracle` without a parameter");
        assert_eq!(message("model:"), "`predictor` is model:, expected `model:PATH`");
        assert_eq!(message("confusion"), "`predictor` is confusion, expected `confusion:PATH`");
    }
}
