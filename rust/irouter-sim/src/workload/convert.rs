//! Columns as people have them (seconds as floats, signed integers) to columns of a workload.

use irouter_core::Picos;

use crate::error::{Result, SimError};

/// Arrivals in seconds to arrivals of a workload.
///
/// # Errors
/// [`SimError::Row`] naming the first row that is not finite, negative, beyond 106 days, or before the row above it.
pub fn arrivals_from_seconds(seconds: &[f64]) -> Result<Vec<Picos>> {
    let mut earliest = Picos::ZERO;
    seconds
        .iter()
        .enumerate()
        .map(|(row, &value)| {
            let bad = |expected: String| SimError::row(row, "arrival", format!("{value} s"), expected);
            let arrival = Picos::from_seconds(value)
                .ok_or_else(|| bad("a finite number of seconds below 9,223,372 (106 days)".into()))?;
            if arrival < earliest {
                let above = if row == 0 { "0 s".into() } else { format!("{earliest}, the row above") };
                return Err(bad(format!("at or after {above}")));
            }
            earliest = arrival;
            Ok(arrival)
        })
        .collect()
}

/// Signed integers to counts of tokens or numbers of classes; `field` names the column in errors.
///
/// # Errors
/// [`SimError::Row`] naming the first row that is negative or beyond 32 bits.
pub fn counts_from_integers(field: &'static str, integers: &[i64]) -> Result<Vec<u32>> {
    let count = |(row, &value): (usize, &i64)| {
        u32::try_from(value)
            .map_err(|_| SimError::row(row, field, value, format!("a number from 0 to {}", u32::MAX)))
    };
    integers.iter().enumerate().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_second_is_named() {
        let message = |seconds: &[f64]| arrivals_from_seconds(seconds).unwrap_err().to_string();
        assert_eq!(
            message(&[0.0, f64::NAN]),
            "row 1 (counted from 0): `arrival` is NaN s, expected a finite number of seconds below 9,223,372 (106 days)"
        );
        assert_eq!(message(&[-1.0]), "row 0 (counted from 0): `arrival` is -1 s, expected at or after 0 s");
        assert_eq!(
            message(&[2.0, 1.5]),
            "row 1 (counted from 0): `arrival` is 1.5 s, expected at or after 2 s, the row above"
        );
        assert!(arrivals_from_seconds(&[1e9]).is_err());
        assert_eq!(arrivals_from_seconds(&[0.0, 0.5]), Ok(vec![Picos::ZERO, Picos(500_000_000_000)]));
    }

    #[test]
    fn a_negative_count_is_named() {
        assert_eq!(
            counts_from_integers("prompt_tokens", &[4, -1]).unwrap_err().to_string(),
            "row 1 (counted from 0): `prompt_tokens` is -1, expected a number from 0 to 4294967295"
        );
        assert_eq!(counts_from_integers("prompt_tokens", &[4, 0]), Ok(vec![4, 0]));
    }
}
