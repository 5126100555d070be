//! Properties of boosted trees on functions that are known.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Rows of three even numbers from 0 to 1 and a target; the third number is never used.
fn table(rows: usize, seed: u64, target: impl Fn(f64, f64, f64) -> f64) -> Table {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut table = Table::new(3).unwrap();
    for _ in 0..rows {
        let features: [f32; 3] = std::array::from_fn(|_| generator.random());
        let noise = generator.random();
        table.push(&features, target(f64::from(features[0]), f64::from(features[1]), noise)).unwrap();
    }
    table
}

/// A step and a slope.
fn shape(first: f64, second: f64) -> f64 {
    if first > 0.4 { 3.0 + 2.0 * second } else { 1.0 + second }
}

fn p90() -> BoostOptions {
    BoostOptions { quantile: 0.9, ..BoostOptions::default() }
}

#[test]
fn a_known_function_is_fitted() {
    let model = BoostedTrees::train(
        &table(2000, 1, |first, second, _| shape(first, second)),
        &BoostOptions::default(),
        7,
    )
    .unwrap();
    let unseen = table(500, 2, |first, second, _| shape(first, second));
    let errors = (0..500).map(|row| (model.predict(unseen.row(row)) - unseen.targets()[row]).abs());
    let mean = errors.sum::<f64>() / 500.0;
    assert!(mean < 0.03, "mean absolute error {mean} of targets from 1 to 5");
}

#[test]
fn p90_covers_nine_tenths_and_beats_the_constant_quantile() {
    // Exponential noise, whose scale grows with the second number.
    let noisy = |first, second, noise: f64| shape(first, second) - (0.2 + second) * libm::log(1.0 - noise);
    let (seen, unseen) = (table(4000, 1, noisy), table(2000, 2, noisy));
    let model = BoostedTrees::train(&seen, &p90(), 7).unwrap();
    let constant = sample_quantile(&mut seen.targets().to_vec(), 0.9);
    let targets = unseen.targets().iter().copied().enumerate();
    let below = targets.clone().filter(|&(row, target)| target <= model.predict(unseen.row(row))).count();
    assert!((1700..1900).contains(&below), "{below} of 2000");
    let loss = |predict: &dyn Fn(usize) -> f64| -> f64 {
        targets.clone().map(|(row, target)| pinball_loss(target, predict(row), 0.9)).sum()
    };
    let (ours, theirs) = (loss(&|row| model.predict(unseen.row(row))), loss(&|_| constant));
    assert!(ours < 0.75 * theirs, "{ours} against {theirs}");
}

#[test]
fn two_groups_of_equal_targets_part_at_any_quantile() {
    for quantile in [0.1, 0.5, 0.9] {
        let options = BoostOptions { quantile, ..BoostOptions::default() };
        let groups = table(60, 1, |first, _, _| if first > 0.5 { 2.0 } else { 1.0 });
        let model = BoostedTrees::train(&groups, &options, 7).unwrap();
        let [low, high] = [0.2, 0.8].map(|first| model.predict(&[first, 0.5, 0.5]));
        assert!((low - 1.0).abs() < 0.01 && (high - 2.0).abs() < 0.01, "{quantile}: {low} and {high}");
    }
}

#[test]
fn a_larger_number_that_raises_the_target_raises_the_prediction() {
    let model =
        BoostedTrees::train(&table(3000, 1, |first, second, noise| 4.0 * first + second + noise), &p90(), 7)
            .unwrap();
    let predictions: Vec<f64> =
        (0u8..10).map(|step| model.predict(&[0.05 + 0.1 * f32::from(step), 0.5, 0.5])).collect();
    assert!(predictions.is_sorted(), "{predictions:?}");
    assert!(predictions[9] - predictions[0] > 3.0, "{predictions:?}");
}

#[test]
fn the_same_seed_gives_the_same_model_and_another_one_does_not() {
    let table = table(500, 1, |first, _, noise| first + noise);
    let train = |seed| BoostedTrees::train(&table, &p90(), seed).unwrap();
    assert_eq!(train(7), train(7));
    assert_ne!(train(7), train(8));
}

#[test]
fn trees_are_bounded_in_number_depth_and_leaf_size() {
    let table = table(1000, 1, |first, second, noise| first + second * noise);
    let options = BoostOptions { rounds: 3, max_depth: 2, min_leaf_rows: 100, row_share: 1.0, ..p90() };
    let model = BoostedTrees::train(&table, &options, 7).unwrap();
    assert_eq!(model.roots.len(), 3);
    assert!(model.nodes.len() <= 3 * 7, "{}", model.nodes.len());
    let mut sizes = vec![0; model.nodes.len()];
    for row in 0..table.rows() {
        let mut node = model.roots[0];
        while model.nodes[node as usize].column != LEAF {
            let Node { column, value, left } = model.nodes[node as usize];
            node = left + u32::from(table.row(row)[column as usize] > value);
        }
        sizes[node as usize] += 1;
    }
    assert!(sizes.iter().all(|&size| size == 0 || size >= 100), "{sizes:?}");
}

#[test]
fn equal_targets_and_single_rows_are_a_constant() {
    for rows in [1, 50] {
        let model = BoostedTrees::train(&table(rows, 1, |_, _, _| 2.5), &p90(), 7).unwrap();
        assert!((model.predict(&[0.1, 0.2, 0.3]) - 2.5).abs() < 1e-12);
    }
}

#[test]
fn what_cannot_be_trained_is_named() {
    let default = BoostOptions::default();
    let bad = [
        (BoostOptions { quantile: 1.0, ..default }, "quantile"),
        (BoostOptions { rounds: 0, ..default }, "rounds"),
        (BoostOptions { max_depth: 17, ..default }, "max_depth"),
        (BoostOptions { min_leaf_rows: 0, ..default }, "min_leaf_rows"),
        (BoostOptions { learning_rate: f64::NAN, ..default }, "learning_rate"),
        (BoostOptions { row_share: 0.0, ..default }, "row_share"),
        (BoostOptions { column_share: 1.5, ..default }, "column_share"),
        (BoostOptions { l2: -1.0, ..default }, "l2"),
        (BoostOptions { min_gain: f64::INFINITY, ..default }, "min_gain"),
    ];
    let full = table(10, 1, |first, _, _| first);
    for (options, field) in bad {
        let error = BoostedTrees::train(&full, &options, 7).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let error = BoostedTrees::train(&Table::new(3).unwrap(), &default, 7).unwrap_err().to_string();
    assert!(error.contains("at least one row"), "{error}");
    assert!(Table::new(0).is_err());
    let mut table = Table::new(2).unwrap();
    assert!(table.push(&[1.0], 0.0).is_err());
    assert!(table.push(&[1.0, f32::NAN], 0.0).is_err());
    assert!(table.push(&[1.0, 2.0], f64::INFINITY).is_err());
}
