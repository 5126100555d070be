//! Relative least squares that a few outliers do not bend.

use super::least_squares::NormalEquations;

/// Rounds of reweighting after the first fit.
const ROUNDS: usize = 4;
/// Residuals beyond so many robust standard deviations count linearly (Huber), so that a pause of the host or a
/// compilation in the log does not bend the fit.
const HUBER: f64 = 3.0;

/// Coefficients, each at least `least`, for which `row . coefficients` meets `measured` in proportion.
///
/// The first fit has weights of one over the measured value; each one after has one over the value predicted before it,
/// since noise in proportion would otherwise pull the fit to the low values, and less for outliers.
pub(super) fn relative_fit(rows: &[Vec<f64>], measured: &[f64], least: &[f64]) -> Vec<f64> {
    let solve = |weights: &[f64]| -> Vec<f64> {
        let mut equations = NormalEquations::new(least.len());
        for ((row, measured), &weight) in rows.iter().zip(measured).zip(weights) {
            equations.add(row, measured - dot(row, least), weight);
        }
        equations.solve().iter().zip(least).map(|(above, least)| above + least).collect()
    };
    let mut coefficients = solve(&measured.iter().map(|measured| 1.0 / measured).collect::<Vec<_>>());
    for _ in 0..ROUNDS {
        // A prediction near zero, which only a poor first fit gives, must not swallow all weight.
        let predicted: Vec<f64> = rows
            .iter()
            .zip(measured)
            .map(|(row, measured)| dot(row, &coefficients).max(measured / 10.0))
            .collect();
        let residuals: Vec<f64> = measured
            .iter()
            .zip(&predicted)
            .map(|(measured, predicted)| (measured / predicted - 1.0).abs())
            .collect();
        let limit = HUBER * robust_deviation(&residuals);
        let weights: Vec<f64> = predicted
            .iter()
            .zip(&residuals)
            .map(|(predicted, &residual)| {
                let shrink = if residual > limit { (limit / residual).sqrt() } else { 1.0 };
                shrink / predicted
            })
            .collect();
        coefficients = solve(&weights);
    }
    coefficients
}

/// The standard deviation of a normal distribution with the same median of absolute values; never zero.
fn robust_deviation(absolute: &[f64]) -> f64 {
    let mut sorted = absolute.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    (1.4826 * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)).max(1e-9)
}

pub(super) fn dot(row: &[f64], coefficients: &[f64]) -> f64 {
    row.iter().zip(coefficients).map(|(left, right)| left * right).sum()
}
