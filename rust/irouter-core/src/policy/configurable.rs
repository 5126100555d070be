//! Policies that are built from constants.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;

use super::Policy;

/// A policy that is built from constants with defaults.
pub trait Configurable: Policy + Sized + 'static {
    /// Its constants. Field names are what users write; unknown ones are refused.
    type Options: Default + Serialize + DeserializeOwned;

    /// Options, as a JSON object, with which a rule of another router has what this one knows: its own events in place of
    /// polled metrics, and predicted lengths where the formula has a place for lengths. `{}` where it has them anyway.
    const EQUALISED: &'static str = "{}";

    /// Constants that a search may set.
    const TUNABLE: &'static [Tunable] = &[];

    /// The policy with these constants; `seed` is that of its random choices.
    ///
    /// # Errors
    /// [`crate::Error::Field`] for a constant out of range.
    fn new(options: Self::Options, seed: u64) -> Result<Self>;
}

/// A constant that a search may set, and where it looks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tunable {
    /// Name of the option.
    pub option: &'static str,
    /// The lowest value tried.
    pub low: f64,
    /// The highest value tried.
    pub high: f64,
    /// How the values between are spaced.
    pub scale: Scale,
}

/// How a search spaces the values of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Evenly.
    Linear,
    /// Evenly by the logarithm; both ends are positive.
    Logarithmic,
    /// Whole numbers, evenly by the logarithm of one more than the number.
    Count,
}

/// The options of a policy without constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}
