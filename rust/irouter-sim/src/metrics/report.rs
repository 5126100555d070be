//! Reports as bytes: the same figures give the same text.

use serde::Serialize;

use crate::error::{Result, SimError};

/// `value` when it is a number that JSON can hold.
///
/// # Errors
/// [`SimError::NotFinite`] naming `key`.
pub fn finite(key: &str, value: f64) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(SimError::NotFinite { key: key.into(), value }) }
}

/// `report` as JSON with its keys in the order of their declaration and numbers in their shortest form, indented, with a
/// newline at the end. Floats must have passed [`finite`]; JSON would turn others into null.
///
/// # Errors
/// [`SimError::Schema`] when a key is not a string.
pub fn canonical_json(report: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(report)
        .map_err(|error| SimError::Schema { what: "report", message: error.to_string() })?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_no_number_is_named() {
        let error = finite("policies.random.e2e_mean_s", f64::NAN).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`policies.random.e2e_mean_s` of the report is NaN, expected a finite number"
        );
        assert_eq!(finite("x", 1.5), Ok(1.5));
    }
}
