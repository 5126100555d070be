//! Time as an integer: picoseconds in an `i64`, from an epoch that the caller owns.

use std::fmt;
use std::ops::{Add, AddAssign, Mul, Neg, Sub};

use serde::{Deserialize, Serialize};

/// An instant or a duration in picoseconds.
///
/// Integers make sums exact, so that a run of decode steps has a closed form and two executors agree
/// to the last bit. The range is 106 days; a live router rebases its epoch before it runs out.
/// Operators panic on overflow in debug builds; use [`Picos::checked_add`] where the operands come from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Picos(pub i64);

impl Picos {
    /// The epoch, or no time at all.
    pub const ZERO: Self = Self(0);
    /// Later than every event.
    pub const MAX: Self = Self(i64::MAX);
    /// One millisecond.
    pub const MILLISECOND: Self = Self(1_000_000_000);
    /// One second.
    pub const SECOND: Self = Self(1_000_000_000_000);

    /// Rounds seconds to picoseconds; `None` when not finite or beyond the range.
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        Self::from_scaled(seconds, 1e12)
    }

    /// Rounds milliseconds to picoseconds; `None` when not finite or beyond the range.
    pub fn from_millis(millis: f64) -> Option<Self> {
        Self::from_scaled(millis, 1e9)
    }

    fn from_scaled(value: f64, scale: f64) -> Option<Self> {
        let picos = libm::round(value * scale);
        // 2^63 is exact as an f64, so the comparison decides the cast below without loss.
        let fits = picos.is_finite() && picos.abs() < 9_223_372_036_854_775_808.0;
        #[expect(clippy::cast_possible_truncation, reason = "used only when it lies within the range of i64")]
        fits.then_some(Self(picos as i64))
    }

    /// The same time in seconds.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 * 1e-12
    }

    /// The same time in milliseconds.
    pub fn as_millis(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// The sum, or `None` beyond the range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The sum, held at the end of the range.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Add for Picos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Picos {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Picos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for Picos {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl Mul<i64> for Picos {
    type Output = Self;
    fn mul(self, count: i64) -> Self {
        Self(self.0 * count)
    }
}

impl fmt::Display for Picos {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} s", self.as_seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_rounds_and_refuses_what_does_not_fit() {
        assert_eq!(Picos::from_seconds(1.5), Some(Picos(1_500_000_000_000)));
        assert_eq!(Picos::from_millis(0.0004), Some(Picos(400_000)));
        for bad in [f64::NAN, f64::INFINITY, 1e7] {
            assert_eq!(Picos::from_seconds(bad), None, "{bad}");
        }
    }
}
