//! Least squares with coefficients of at least zero.

/// Added to the diagonal of the scaled normal equations, so that columns that say the same share their coefficient
/// instead of failing.
const RIDGE: f64 = 1e-10;

/// Rows of features with a target and a weight each, gathered into normal equations.
pub(super) struct NormalEquations {
    columns: usize,
    /// Upper triangle of the weighted `X'X`, in full square storage.
    gram: Vec<f64>,
    moment: Vec<f64>,
}

impl NormalEquations {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, gram: vec![0.0; columns * columns], moment: vec![0.0; columns] }
    }

    /// Adds the square of `weight * (row . coefficients - target)` to what is minimised.
    pub(super) fn add(&mut self, row: &[f64], target: f64, weight: f64) {
        let square = weight * weight;
        for (left, &value) in row.iter().enumerate().filter(|&(_, &value)| value != 0.0) {
            self.moment[left] += square * value * target;
            let gram = &mut self.gram[left * self.columns..(left + 1) * self.columns];
            for (entry, &other) in gram[left..].iter_mut().zip(&row[left..]) {
                *entry += square * value * other;
            }
        }
    }

    /// The coefficients of at least zero that minimise the sum of squares (Lawson and Hanson 1974, chapter 23, on
    /// normal equations). A column without data gets zero.
    pub(super) fn solve(&self) -> Vec<f64> {
        let scale: Vec<f64> =
            (0..self.columns).map(|index| self.gram[index * self.columns + index].sqrt()).collect();
        let entry = |left: usize, right: usize| {
            let (low, high) = (left.min(right), left.max(right));
            let ridge = if left == right { RIDGE } else { 0.0 };
            self.gram[low * self.columns + high] / (scale[left] * scale[right]) + ridge
        };
        let moment: Vec<f64> = self
            .moment
            .iter()
            .zip(&scale)
            .map(|(moment, scale)| moment / scale.max(f64::MIN_POSITIVE))
            .collect();
        let mut solution = vec![0.0; self.columns];
        let mut passive: Vec<usize> = Vec::new();
        // Each round frees one column; a column can come back, but the sum of squares falls every time.
        for _ in 0..10 * self.columns {
            let gradient = |index: usize| {
                let fitted: f64 = passive.iter().map(|&other| entry(index, other) * solution[other]).sum();
                moment[index] - fitted
            };
            let candidate = (0..self.columns)
                .filter(|index| scale[*index] > 0.0 && !passive.contains(index))
                .map(|index| (index, gradient(index)))
                .max_by(|left, right| left.1.total_cmp(&right.1));
            let largest = moment.iter().copied().fold(0.0, f64::max);
            match candidate {
                Some((index, gradient)) if gradient > 1e-12 * largest => passive.push(index),
                _ => break,
            }
            while let Some(proposal) = solve_symmetric(&passive, &entry, &moment) {
                // The longest step towards the proposal that keeps every coefficient at least zero.
                let step = passive
                    .iter()
                    .zip(&proposal)
                    .filter(|&(_, &value)| value <= 0.0)
                    .map(|(&index, &value)| solution[index] / (solution[index] - value))
                    .fold(1.0, f64::min);
                for (&index, &value) in passive.iter().zip(&proposal) {
                    solution[index] += step * (value - solution[index]);
                }
                if step >= 1.0 && proposal.iter().all(|&value| value > 0.0) {
                    break;
                }
                passive.retain(|&index| {
                    let keep = solution[index] > 1e-14;
                    if !keep {
                        solution[index] = 0.0;
                    }
                    keep
                });
            }
        }
        solution
            .iter()
            .zip(&scale)
            .map(|(value, scale)| if *scale > 0.0 { value / scale } else { 0.0 })
            .collect()
    }
}

/// Solves the equations of the chosen columns by Cholesky's decomposition; `None` for no columns.
fn solve_symmetric(
    chosen: &[usize],
    entry: &impl Fn(usize, usize) -> f64,
    moment: &[f64],
) -> Option<Vec<f64>> {
    let size = chosen.len();
    if size == 0 {
        return None;
    }
    let mut lower = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..=row {
            let known: f64 =
                (0..column).map(|inner| lower[row * size + inner] * lower[column * size + inner]).sum();
            let rest = entry(chosen[row], chosen[column]) - known;
            lower[row * size + column] = if row == column {
                // The ridge keeps the exact value above zero; rounding may not.
                rest.max(RIDGE * RIDGE).sqrt()
            } else {
                rest / lower[column * size + column]
            };
        }
    }
    let mut values: Vec<f64> = chosen.iter().map(|&index| moment[index]).collect();
    for row in 0..size {
        let known: f64 = (0..row).map(|inner| lower[row * size + inner] * values[inner]).sum();
        values[row] = (values[row] - known) / lower[row * size + row];
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|inner| lower[inner * size + row] * values[inner]).sum();
        values[row] = (values[row] - known) / lower[row * size + row];
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn solve(rows: &[(Vec<f64>, f64)]) -> Vec<f64> {
        let mut equations = NormalEquations::new(rows[0].0.len());
        for (row, target) in rows {
            equations.add(row, *target, 1.0);
        }
        equations.solve()
    }

    fn squares(rows: &[(Vec<f64>, f64)], coefficients: &[f64]) -> f64 {
        rows.iter()
            .map(|(row, target)| {
                let fitted: f64 = row.iter().zip(coefficients).map(|(left, right)| left * right).sum();
                (fitted - target) * (fitted - target)
            })
            .sum()
    }

    fn rows() -> impl Strategy<Value = Vec<(Vec<f64>, f64)>> {
        prop::collection::vec((prop::collection::vec(0.0..10.0f64, 4), -20.0..20.0f64), 6..40)
    }

    proptest! {
        #[test]
        fn no_step_to_another_allowed_point_lowers_the_sum_of_squares(rows in rows()) {
            let solution = solve(&rows);
            prop_assert!(solution.iter().all(|&value| value >= 0.0));
            let best = squares(&rows, &solution);
            for index in 0..4 {
                for step in [-1e-3, 1e-3] {
                    let mut other = solution.clone();
                    other[index] = f64::max(other[index] + step, 0.0);
                    prop_assert!(squares(&rows, &other) >= best - 1e-7 * best.max(1.0));
                }
            }
        }

        #[test]
        fn exact_coefficients_are_found(truth in prop::collection::vec(0.0..5.0f64, 4), rows in rows()) {
            let rows: Vec<_> = rows
                .into_iter()
                .chain((0..4).map(|unit| ((0..4).map(|index| f64::from(u8::from(index == unit))).collect(), 0.0)))
                .map(|(row, _): (Vec<f64>, f64)| {
                    let target = row.iter().zip(&truth).map(|(left, right)| left * right).sum();
                    (row, target)
                })
                .collect();
            for (found, expected) in solve(&rows).iter().zip(&truth) {
                prop_assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn columns_that_say_the_same_share_and_one_without_data_is_zero() {
        let row = |value| (vec![f64::from(value), f64::from(value), 0.0], 3.0 * f64::from(value));
        let solution = solve(&(1..20).map(row).collect::<Vec<_>>());
        assert!((solution[0] + solution[1] - 3.0).abs() < 1e-6, "{solution:?}");
        assert!(solution[2].abs() < f64::MIN_POSITIVE);
    }
}
