//! The pinball loss and its minimiser.

/// Pinball loss of a predicted `quantile`: `quantile` times what the prediction is below the target, or `1 - quantile`
/// times what it is above.
pub fn pinball_loss(target: f64, predicted: f64, quantile: f64) -> f64 {
    let error = target - predicted;
    if error >= 0.0 { quantile * error } else { (quantile - 1.0) * error }
}

/// The smallest of `values`, not empty, that is at least as large as a share `quantile` of them: it minimises their
/// pinball loss. Changes their order.
pub fn sample_quantile(values: &mut [f64], quantile: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the length")]
    let rank = libm::ceil(quantile * values.len() as f64) as usize;
    let index = rank.clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}
