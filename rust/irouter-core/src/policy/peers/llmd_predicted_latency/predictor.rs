//! Two models, trained again and again on the requests of the run itself.

use crate::error::Result;
use crate::trees::{BoostOptions, BoostedTrees, Table};

use super::features::Features;
use super::options::LlmdPredictedLatencyOptions;
use super::window::{Sample, Window};

/// One training in so many is also done for the median, which nothing is decided by: the error of a high quantile in percent
/// is large by intent, that of the median tells how much the features say.
const MEDIAN_TRAININGS: u32 = 4;

/// One part in so many of the samples, the newest, tests what is trained on the others.
const HELD_OUT_PARTS: usize = 10;

/// Models of the logarithms of TTFT and TPOT; none of TPOT while no output had two tokens.
#[derive(Clone, Debug)]
struct Models {
    ttft: BoostedTrees,
    tpot: Option<BoostedTrees>,
}

impl Models {
    fn train(samples: &[Sample], options: &BoostOptions, seed: u64) -> Result<Self> {
        let ttft = samples.iter().map(|sample| (sample.features.ttft_row(), Some(sample.ttft_seconds)));
        let tpot = samples.iter().map(|sample| (sample.features.tpot_row(), sample.tpot_seconds));
        let has_tpot = samples.iter().any(|sample| sample.tpot_seconds.is_some());
        Ok(Self {
            ttft: fit(ttft, options, seed)?,
            tpot: has_tpot.then(|| fit(tpot, options, seed)).transpose()?,
        })
    }

    fn ttft_seconds(&self, features: &Features) -> f64 {
        libm::exp(self.ttft.predict(&features.ttft_row()))
    }

    fn tpot_seconds(&self, features: &Features) -> f64 {
        self.tpot.as_ref().map_or(0.0, |tpot| libm::exp(tpot.predict(&features.tpot_row())))
    }
}

/// Trains on the rows that have a target.
fn fit<const COLUMNS: usize>(
    rows: impl Iterator<Item = ([f32; COLUMNS], Option<f64>)>,
    options: &BoostOptions,
    seed: u64,
) -> Result<BoostedTrees> {
    let mut table = Table::new(COLUMNS)?;
    for (row, seconds) in rows {
        if let Some(seconds) = seconds {
            table.push(&row, libm::log(seconds))?;
        }
    }
    BoostedTrees::train(&table, options, seed)
}

/// How a model did on samples that it was not trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct HeldOut {
    /// Samples.
    count: u32,
    /// Sum of |predicted - true| / true.
    relative_errors: f64,
    /// How many were at or below their prediction.
    covered: u32,
}

impl HeldOut {
    fn add(&mut self, predicted: f64, truth: f64) {
        self.count += 1;
        self.relative_errors += (predicted - truth).abs() / truth;
        self.covered += u32::from(truth <= predicted);
    }

    /// Mean absolute percentage error; `None` without a sample.
    fn mape_percent(&self) -> Option<f64> {
        (self.count > 0).then(|| 100.0 * self.relative_errors / f64::from(self.count))
    }

    fn coverage_percent(&self) -> Option<f64> {
        (self.count > 0).then(|| 100.0 * f64::from(self.covered) / f64::from(self.count))
    }
}

/// The held-out samples of TTFT and TPOT.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Quality {
    ttft: HeldOut,
    tpot: HeldOut,
}

impl Quality {
    fn add(&mut self, models: &Models, samples: &[Sample]) {
        for Sample { features, ttft_seconds, tpot_seconds } in samples {
            self.ttft.add(models.ttft_seconds(features), *ttft_seconds);
            if let Some(tpot_seconds) = tpot_seconds {
                self.tpot.add(models.tpot_seconds(features), *tpot_seconds);
            }
        }
    }
}

/// Predicts TTFT and TPOT, and learns from what became of each request.
#[derive(Clone, Debug)]
pub(super) struct Predictor {
    options: LlmdPredictedLatencyOptions,
    seed: u64,
    window: Window,
    models: Option<Models>,
    /// Samples added when the models are due to be trained.
    due: u64,
    trainings: u32,
    /// How the models of the quantile, and those of the median, did at all trainings together.
    quality: Quality,
    median_quality: Quality,
}

impl Predictor {
    pub(super) fn new(options: LlmdPredictedLatencyOptions, seed: u64) -> Self {
        Self {
            seed,
            window: Window::new(options.window_limits()),
            models: None,
            due: u64::from(options.first_training),
            trainings: 0,
            quality: Quality::default(),
            median_quality: Quality::default(),
            options,
        }
    }

    /// Predicted TTFT and TPOT in seconds; `None` before the first training.
    pub(super) fn predict(&self, features: &Features) -> Option<[f64; 2]> {
        let models = self.models.as_ref()?;
        Some([models.ttft_seconds(features), models.tpot_seconds(features)])
    }

    /// Whether there is a model.
    pub(super) fn is_trained(&self) -> bool {
        self.models.is_some()
    }

    /// Takes a completed request in, and trains anew when enough have come.
    ///
    /// Times that are not positive are left out, as in llm-d: a clock that did not move between two events says nothing.
    pub(super) fn completed(&mut self, sample: Sample) {
        if sample.ttft_seconds <= 0.0 {
            return;
        }
        self.window.push(Sample { tpot_seconds: sample.tpot_seconds.filter(|&tpot| tpot > 0.0), ..sample });
        if self.window.added() < self.due {
            return;
        }
        self.due = self.window.added() + u64::from(self.options.retraining);
        let samples = self.window.by_age();
        let (older, newest) = split(&samples);
        let seed = self.seed.wrapping_add(u64::from(self.trainings));
        // Training fails for bad options and numbers that are not finite: the former were refused, the latter cannot be.
        let Ok(models) = Models::train(older, &self.options.boosting(self.options.quantile), seed) else {
            return;
        };
        self.quality.add(&models, newest);
        self.models = Some(models);
        if self.trainings.is_multiple_of(MEDIAN_TRAININGS)
            && let Ok(median) = Models::train(older, &self.options.boosting(0.5), seed)
        {
            self.median_quality.add(&median, newest);
        }
        self.trainings += 1;
    }

    /// Trainings, and how their models did on samples newer than those that they were trained on.
    pub(super) fn figures(&self) -> Vec<(&'static str, f64)> {
        let Self { quality, median_quality: median, .. } = self;
        let known = [
            ("trainings", Some(f64::from(self.trainings))),
            ("ttft_mape_percent", quality.ttft.mape_percent()),
            ("tpot_mape_percent", quality.tpot.mape_percent()),
            ("ttft_coverage_percent", quality.ttft.coverage_percent()),
            ("tpot_coverage_percent", quality.tpot.coverage_percent()),
            ("ttft_median_mape_percent", median.ttft.mape_percent()),
            ("tpot_median_mape_percent", median.tpot.mape_percent()),
        ];
        known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The samples to train on and the newest ones, which test.
fn split(samples: &[Sample]) -> (&[Sample], &[Sample]) {
    samples.split_at(samples.len() - samples.len() / HELD_OUT_PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictor(options: LlmdPredictedLatencyOptions) -> Predictor {
        Predictor::new(options, 7)
    }

    fn sample(ttft_seconds: f64, tpot_seconds: Option<f64>) -> Sample {
        Sample { features: Features::default(), ttft_seconds, tpot_seconds }
    }

    fn figure(predictor: &Predictor, name: &str) -> Option<f64> {
        predictor.figures().into_iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    #[test]
    fn the_newest_tenth_tests_what_the_others_taught() {
        let mut predictor = predictor(LlmdPredictedLatencyOptions::default());
        (0..90).for_each(|_| predictor.completed(sample(1.0, Some(0.02))));
        assert_eq!(predictor.predict(&Features::default()), None);
        (0..10).for_each(|_| predictor.completed(sample(2.0, Some(0.01))));
        let [ttft, tpot] = predictor.predict(&Features::default()).unwrap();
        assert!((ttft - 1.0).abs() < 1e-6 && (tpot - 0.02).abs() < 1e-6, "{ttft} {tpot}");
        for (name, expected) in [
            ("trainings", 1.0),
            ("ttft_mape_percent", 50.0),
            ("tpot_mape_percent", 100.0),
            ("ttft_coverage_percent", 0.0),
            ("tpot_coverage_percent", 100.0),
            ("ttft_median_mape_percent", 50.0),
        ] {
            let value = figure(&predictor, name).unwrap();
            assert!((value - expected).abs() < 1e-4, "{name}: {value}");
        }
    }

    #[test]
    fn training_comes_again_after_so_many_completions() {
        let options = LlmdPredictedLatencyOptions {
            first_training: 10,
            retraining: 25,
            rounds: 1,
            ..Default::default()
        };
        let mut predictor = predictor(options);
        let trainings: Vec<u32> = (0..60)
            .map(|_| {
                predictor.completed(sample(1.0, None));
                predictor.trainings
            })
            .collect();
        assert_eq!([8, 9, 33, 34, 58, 59].map(|index| trainings[index]), [0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn times_that_say_nothing_are_not_learned() {
        let options = LlmdPredictedLatencyOptions { first_training: 10, rounds: 1, ..Default::default() };
        let mut predictor = predictor(options);
        (0..20).for_each(|_| predictor.completed(sample(0.0, Some(0.02))));
        assert!(!predictor.is_trained());
        (0..20).for_each(|_| predictor.completed(sample(1.0, Some(0.0))));
        assert_eq!(predictor.predict(&Features::default()).map(|[_, tpot]| tpot), Some(0.0));
        assert_eq!(figure(&predictor, "tpot_mape_percent"), None);
    }
}
