//! Rank correlation.

/// Kendall's tau-b of two columns of equal length, none of whose values is NaN, in `O(n log n)` (Knight, 1966); `None` when
/// all values of a column are equal.
///
/// With `P` pairs, of which `Tx` are tied in the left column, `Ty` in the right and `D` ordered one way in the one and the
/// other way in the other: `(concordant - D) / sqrt((P - Tx) (P - Ty))`.
pub fn kendall_tau_b(left: &[f64], right: &[f64]) -> Option<f64> {
    let mut pairs: Vec<(f64, f64)> = left.iter().copied().zip(right.iter().copied()).collect();
    pairs.sort_unstable_by(|one, two| one.0.total_cmp(&two.0).then(one.1.total_cmp(&two.1)));
    let tied_left = tied_pairs(pairs.chunk_by(|one, two| same(one.0, two.0)));
    let tied_both = tied_pairs(pairs.chunk_by(|one, two| same(one.0, two.0) && same(one.1, two.1)));
    let mut right: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let mut spare = right.clone();
    let discordant = sort_counting_inversions(&mut right, &mut spare);
    let tied_right = tied_pairs(right.chunk_by(|one, two| same(*one, *two)));
    let all = choose_two(pairs.len());
    // Of all pairs: tied left, or tied right, or discordant, or concordant.
    let concordant = (all + tied_both) - tied_left - tied_right - discordant;
    let scale = libm::sqrt((all - tied_left) as f64 * (all - tied_right) as f64);
    (scale > 0.0).then(|| (concordant as f64 - discordant as f64) / scale)
}

fn same(one: f64, two: f64) -> bool {
    one.total_cmp(&two).is_eq()
}

fn choose_two(count: usize) -> u64 {
    let count = count as u64;
    count * count.saturating_sub(1) / 2
}

fn tied_pairs<'a, T: 'a>(groups: impl Iterator<Item = &'a [T]>) -> u64 {
    groups.map(|group| choose_two(group.len())).sum()
}

/// Merge sort; counts the pairs that stand in strictly descending order.
fn sort_counting_inversions(values: &mut [f64], spare: &mut [f64]) -> u64 {
    let middle = values.len() / 2;
    if middle == 0 {
        return 0;
    }
    let (left, right) = values.split_at_mut(middle);
    let mut inversions = sort_counting_inversions(left, spare) + sort_counting_inversions(right, spare);
    let (mut taken_left, mut taken_right) = (0, 0);
    for slot in &mut spare[..left.len() + right.len()] {
        let from_right = taken_left == left.len()
            || (taken_right < right.len() && right[taken_right].total_cmp(&left[taken_left]).is_lt());
        if from_right {
            *slot = right[taken_right];
            taken_right += 1;
            inversions += (left.len() - taken_left) as u64;
        } else {
            *slot = left[taken_left];
            taken_left += 1;
        }
    }
    values.copy_from_slice(&spare[..values.len()]);
    inversions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tau_b_equals_the_textbook_examples() {
        assert_eq!(kendall_tau_b(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), Some(1.0));
        assert_eq!(kendall_tau_b(&[1.0, 2.0, 3.0], &[6.0, 5.0, 4.0]), Some(-1.0));
        assert_eq!(kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(kendall_tau_b(&[], &[]), None);
        // scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]): -0.47140452079103173
        let tau = kendall_tau_b(&[12.0, 2.0, 1.0, 12.0, 2.0], &[1.0, 4.0, 7.0, 1.0, 0.0]).unwrap();
        assert!((tau + 0.471_404_520_791_031_73).abs() < 1e-15, "{tau}");
    }

    proptest! {
        #[test]
        fn tau_b_equals_the_count_over_all_pairs(pairs in prop::collection::vec((0u8..9, 0u8..9), 0..60)) {
            let (mut agreement, mut untied_left, mut untied_right) = (0i32, 0u32, 0u32);
            for (index, one) in pairs.iter().enumerate() {
                for two in &pairs[..index] {
                    let sign = |one: u8, two: u8| (i32::from(one) - i32::from(two)).signum();
                    let (left, right) = (sign(one.0, two.0), sign(one.1, two.1));
                    agreement += left * right;
                    untied_left += left.unsigned_abs();
                    untied_right += right.unsigned_abs();
                }
            }
            let column = |pick: fn(&(u8, u8)) -> u8| pairs.iter().map(|pair| f64::from(pick(pair))).collect::<Vec<_>>();
            let found = kendall_tau_b(&column(|pair| pair.0), &column(|pair| pair.1));
            let scale = (f64::from(untied_left) * f64::from(untied_right)).sqrt();
            match found {
                None => prop_assert!(scale == 0.0),
                Some(tau) => prop_assert!((tau - f64::from(agreement) / scale).abs() < 1e-12),
            }
        }
    }
}
