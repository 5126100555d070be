//! Means and quantiles of a sample, without sorting it.

/// Mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Quantiles at the ascending `levels` (0 to 1), interpolated linearly between order statistics as `numpy.quantile` does by
/// default; `None` of nothing. Reorders `values`, none of which may be NaN.
pub fn quantiles<const N: usize>(values: &mut [f64], levels: [f64; N]) -> Option<[f64; N]> {
    let rows = values.len();
    if rows == 0 {
        return None;
    }
    debug_assert!(levels.is_sorted(), "levels {levels:?} are not ascending");
    let mut found = [0.0; N];
    // From the highest level down: what lies left of one order statistic holds all the lower ones.
    let mut left = rows;
    for (slot, level) in found.iter_mut().zip(levels).rev() {
        let position = level * (rows - 1) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to the number of rows"
        )]
        let below = (position as usize).min(rows - 1);
        let value = order_statistic(&mut values[..left], below);
        let above = values[below + 1..].iter().copied().min_by(f64::total_cmp).unwrap_or(value);
        *slot = interpolate(value, above, position - below as f64);
        left = below + 1;
    }
    Some(found)
}

/// The value that sorting would bring to `index`; lower ones end up left of it, higher ones right of it.
fn order_statistic(values: &mut [f64], index: usize) -> f64 {
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}

/// From the nearer end, as numpy does, so that the result is the same to the last bit.
fn interpolate(low: f64, high: f64, share: f64) -> f64 {
    let width = high - low;
    if share >= 0.5 { high - width * (1.0 - share) } else { low + width * share }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([3, 1, 4, 1, 5, 9, 2, 6], [0, 0.25, 0.5, 0.9, 1])
        let mut values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
        let found = quantiles(&mut values, [0.0, 0.25, 0.5, 0.9, 1.0]).unwrap();
        assert_eq!(found.map(f64::to_bits), [1.0, 1.75, 3.5, 6.899_999_999_999_999_5, 9.0].map(f64::to_bits));
        assert_eq!(quantiles(&mut [], [0.5]), None);
        assert_eq!(quantiles(&mut [7.0], [0.0, 0.5, 0.99]), Some([7.0; 3]));
    }

    proptest! {
        #[test]
        fn selection_equals_sorting(mut values in prop::collection::vec(-1e3f64..1e3, 1..60), levels: [u8; 4]) {
            let mut levels = levels.map(|level| f64::from(level) / 255.0);
            levels.sort_by(f64::total_cmp);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let expected = levels.map(|level| {
                let position = level * (sorted.len() - 1) as f64;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small index")]
                let below = position as usize;
                let above = sorted[(below + 1).min(sorted.len() - 1)];
                interpolate(sorted[below], above, position - below as f64)
            });
            prop_assert_eq!(quantiles(&mut values, levels), Some(expected));
        }
    }
}
