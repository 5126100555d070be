//! Minimises a function of a few numbers without derivatives.

/// Reflection 1, expansion 2, contraction 1/2, shrinkage 1/2: the coefficients of Nelder and Mead (1965).
const EXPANSION: f64 = 2.0;
const CONTRACTION: f64 = 0.5;
/// Fresh simplexes around the best point, since a collapsed one can stop short of the minimum.
const RESTARTS: usize = 3;

/// The best point found from `start` with a first simplex of edge `edge`, and its loss, after about `evaluations` calls.
///
/// A loss that is not a number counts as infinite.
pub(super) fn minimise(
    start: &[f64],
    edge: f64,
    evaluations: usize,
    mut loss: impl FnMut(&[f64]) -> f64,
) -> (Vec<f64>, f64) {
    let mut rated = |point: Vec<f64>| {
        let value = loss(&point);
        (point, if value.is_nan() { f64::INFINITY } else { value })
    };
    let mut best = rated(start.to_vec());
    for _ in 0..RESTARTS {
        let mut simplex = vec![best.clone()];
        for index in 0..start.len() {
            let mut corner = best.0.clone();
            corner[index] += edge;
            simplex.push(rated(corner));
        }
        for _ in 0..evaluations / RESTARTS / 2 {
            improve(&mut simplex, &mut rated);
        }
        simplex.sort_by(|left, right| left.1.total_cmp(&right.1));
        best = simplex.swap_remove(0);
    }
    best
}

type Rated = (Vec<f64>, f64);

/// One move of the simplex: some two evaluations.
fn improve(simplex: &mut [Rated], rated: &mut impl FnMut(Vec<f64>) -> Rated) {
    simplex.sort_by(|left, right| left.1.total_cmp(&right.1));
    let last = simplex.len() - 1;
    let centre: Vec<f64> = (0..last)
        .map(|index| simplex[..last].iter().map(|(point, _)| point[index]).sum::<f64>() / last as f64)
        .collect();
    let along = |share: f64, point: &[f64]| -> Vec<f64> {
        centre.iter().zip(point).map(|(centre, worst)| centre + share * (centre - worst)).collect()
    };
    let reflected = rated(along(1.0, &simplex[last].0));
    if reflected.1 < simplex[0].1 {
        let expanded = rated(along(EXPANSION, &simplex[last].0));
        simplex[last] = if expanded.1 < reflected.1 { expanded } else { reflected };
    } else if reflected.1 < simplex[last - 1].1 {
        simplex[last] = reflected;
    } else {
        let share = if reflected.1 < simplex[last].1 { CONTRACTION } else { -CONTRACTION };
        let contracted = rated(along(share, &simplex[last].0));
        if contracted.1 < simplex[last].1.min(reflected.1) {
            simplex[last] = contracted;
        } else {
            let best = simplex[0].0.clone();
            for corner in &mut simplex[1..] {
                let half =
                    corner.0.iter().zip(&best).map(|(value, best)| f64::midpoint(*value, *best)).collect();
                *corner = rated(half);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bottom_of_a_curved_valley_is_found() {
        // Rosenbrock's function: minimum 0 at (1, 1).
        let valley = |point: &[f64]| {
            let (x, y) = (point[0], point[1]);
            (1.0 - x) * (1.0 - x) + 100.0 * (y - x * x) * (y - x * x)
        };
        let (point, loss) = minimise(&[-1.2, 1.0], 0.5, 1200, valley);
        assert!(loss < 1e-9 && (point[0] - 1.0).abs() < 1e-3 && (point[1] - 1.0).abs() < 1e-3, "{point:?}");
    }

    #[test]
    fn points_that_cannot_be_rated_are_avoided() {
        let (point, _) = minimise(&[2.0], 1.0, 300, |point| libm::sqrt(point[0] - 1.0));
        assert!(point[0] >= 1.0 && point[0] < 1.001, "{point:?}");
    }
}
