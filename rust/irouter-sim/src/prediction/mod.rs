//! What the router is told of output lengths, for each request of a workload.
//!
//! A predictor is fitted once on a source's whole population; the predictions for a workload depend on it, the workload and
//! a seed, never on the policy.

mod bucketed;
mod confusion;
mod kendall;
mod noisy;
mod population;
mod predictions;
mod spec;

pub use confusion::Confusion;
pub use kendall::kendall_tau_b;
pub use population::Population;
pub use predictions::{Predictions, Quality};
pub use spec::PredictorSpec;

use std::sync::Arc;

use irouter_core::length::LEVELS;
use irouter_core::{HistoryModel, LengthDistribution, ObservedLength};

use crate::error::{Result, SimError};
use crate::random::{Purpose, generator, normal_quantile, standard_normal, uniform};
use crate::workload::Workload;
use bucketed::Buckets;
use noisy::NoisyView;

/// A predictor fitted on a population.
#[derive(Clone, Debug)]
pub struct Predictor {
    spec: PredictorSpec,
    population: Population,
    fitted: Fitted,
}

#[derive(Clone, Debug)]
enum Fitted {
    None(Arc<LengthDistribution>),
    Noisy(NoisyView),
    LogNormal { sigma: f64 },
    Buckets(Buckets),
    Model,
    Oracle,
    History,
}

/// Where a run gets its predictions from.
#[derive(Clone, Debug)]
pub enum PredictionSource {
    /// Known before the run.
    Table(Predictions),
    /// Learned while it goes on, from the requests whose end the router has seen.
    History {
        /// What has been learned.
        model: HistoryModel,
        /// What has been told.
        told: Predictions,
    },
}

impl PredictionSource {
    /// What is told of request `row`, which arrives now.
    pub fn predict(&mut self, workload: &Workload, row: usize) -> Arc<LengthDistribution> {
        match self {
            Self::Table(table) => Arc::clone(table.get(row)),
            Self::History { model, told } => {
                let length = model.predict(workload.application(row), workload.prompt_tokens()[row]);
                told.record(row, &length);
                length
            }
        }
    }

    /// Request `row` has finished, as far as the router knows.
    ///
    /// # Errors
    /// The model's.
    pub fn finished(&mut self, workload: &Workload, row: usize) -> Result<()> {
        if let Self::History { model, .. } = self {
            // A workload's length is what is to be predicted, however the request that it was recorded from ended.
            let output = ObservedLength::whole(workload.output_tokens()[row]);
            model.observe(workload.application(row), workload.prompt_tokens()[row], output)?;
        }
        Ok(())
    }

    /// All that was told, in a run that is over.
    pub fn into_told(self) -> Predictions {
        match self {
            Self::Table(told) | Self::History { told, .. } => told,
        }
    }
}

impl Predictor {
    /// Fits the predictor that `spec` names on `population`.
    ///
    /// # Errors
    /// [`SimError::Field`] when the population does not allow a predictor as good as `spec` says, and for `confusion`
    /// without a matrix.
    pub fn fit(spec: PredictorSpec, population: Population, confusion: Option<&Confusion>) -> Result<Self> {
        let fitted = match &spec {
            PredictorSpec::None => Fitted::None(Arc::new(population.distribution()?)),
            PredictorSpec::Noisy { tau } => Fitted::Noisy(NoisyView::fit(&population, *tau)?),
            PredictorSpec::LogNormal { sigma } => Fitted::LogNormal { sigma: *sigma },
            PredictorSpec::Buckets { accuracy } => {
                Fitted::Buckets(Buckets::fit(&population, &Confusion::of_accuracy(*accuracy))?)
            }
            PredictorSpec::Confusion { .. } => {
                let expected = "the measured matrix beside the experiment";
                let missing = || SimError::field("confusion", "missing", expected);
                Fitted::Buckets(Buckets::fit(&population, confusion.ok_or_else(missing)?)?)
            }
            PredictorSpec::Model { .. } => Fitted::Model,
            PredictorSpec::Oracle => Fitted::Oracle,
            PredictorSpec::History => Fitted::History,
        };
        Ok(Self { spec, population, fitted })
    }

    /// What it was fitted as.
    pub fn spec(&self) -> &PredictorSpec {
        &self.spec
    }

    /// The predictions for `workload`. Each request uses up one draw of `seed`, so a prefix of a workload has a prefix of its
    /// predictions.
    ///
    /// # Errors
    /// [`irouter_core::Error::Quantile`] for a length so long that its quantiles overflow, [`SimError::Field`] for `model`
    /// and a workload that brings no predictions.
    pub fn predict(&self, workload: &Workload, seed: u64) -> Result<PredictionSource> {
        let mut generator = generator(seed, Purpose::Prediction);
        let outputs = workload.output_tokens();
        Ok(PredictionSource::Table(match &self.fitted {
            Fitted::None(only) => Predictions::new(vec![Arc::clone(only)], outputs.iter().map(|_| 0)),
            Fitted::Noisy(view) => Predictions::new(
                view.bins().to_vec(),
                outputs.iter().map(|&tokens| {
                    view.bin(self.population.normal_score(tokens), standard_normal(&mut generator))
                }),
            ),
            Fitted::Buckets(buckets) => Predictions::new(
                buckets.distributions().to_vec(),
                outputs.iter().map(|&tokens| buckets.predict(tokens, uniform(&mut generator))),
            ),
            Fitted::LogNormal { sigma } => {
                let points = outputs.iter().map(|&tokens| {
                    let error = libm::exp(sigma * standard_normal(&mut generator));
                    grid_point(f64::from(tokens) * error)
                });
                Predictions::by_key(points, |&point| log_normal(grid_value(point), *sigma))?
            }
            Fitted::Model => {
                let expected = "a predictor that needs no text, since the workload has none";
                let missing = || SimError::field("predictor", &self.spec, expected);
                workload.predicted().ok_or_else(missing)?.clone()
            }
            Fitted::Oracle => {
                Predictions::by_key(outputs.iter().copied(), |&tokens| Ok(LengthDistribution::exact(tokens)))?
            }
            Fitted::History => {
                let told = Predictions::untold(workload.len());
                return Ok(PredictionSource::History { model: HistoryModel::new(), told });
            }
        }))
    }
}

/// Point estimates are rounded to powers of this, so that requests share their distributions: 1 % is far below the error of
/// any predictor worth a name.
const GRID_RATIO: f64 = 1.02;

fn grid_point(tokens: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "the logarithm of a token count is small")]
    {
        libm::round(libm::log(tokens) / libm::log(GRID_RATIO)) as i32
    }
}

fn grid_value(point: i32) -> f64 {
    libm::exp(f64::from(point) * libm::log(GRID_RATIO))
}

/// Log-normal distribution with the given median.
fn log_normal(median: f64, sigma: f64) -> Result<LengthDistribution> {
    let quantiles = LEVELS.map(|level| median * libm::exp(sigma * normal_quantile(level)));
    Ok(LengthDistribution::from_quantiles(&quantiles)?)
}

#[cfg(test)]
mod tests {
    use irouter_core::Picos;

    use super::*;
    use crate::workload::WorkloadColumns;

    /// Log-normal outputs, as in chats.
    fn workload(rows: usize, seed: u64) -> Workload {
        let mut generator = generator(seed, Purpose::Lengths);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 4000")]
        let mut output = || (150.0 * libm::exp(standard_normal(&mut generator))).clamp(1.0, 4000.0) as u32;
        Workload::new(WorkloadColumns {
            arrival: vec![Picos::ZERO; rows],
            prompt_tokens: vec![100; rows],
            output_tokens: (0..rows).map(|_| output()).collect(),
            ..WorkloadColumns::default()
        })
        .unwrap()
    }

    fn predictions(spec: &str, population: &Workload, workload: &Workload, seed: u64) -> Predictions {
        let population = Population::new(population.output_tokens()).unwrap();
        let predictor = Predictor::fit(spec.parse().unwrap(), population, None).unwrap();
        match predictor.predict(workload, seed).unwrap() {
            PredictionSource::Table(predictions) => predictions,
            PredictionSource::History { .. } => panic!("{spec} has no table"),
        }
    }

    #[test]
    fn noisy_predictions_deliver_the_rank_correlation_and_are_calibrated() {
        let population = workload(20_000, 1);
        for tau in [0.2, 0.45, 0.7] {
            let quality = predictions(&format!("noisy:{tau}"), &population, &population, 5)
                .quality(&population, 0..population.len());
            assert!((quality.tau_b.unwrap() - tau).abs() < 0.01, "{tau}: {quality:?}");
            assert!((quality.coverage_80 - 0.8).abs() < 0.015, "{tau}: {quality:?}");
        }
    }

    #[test]
    fn noisy_predictions_hold_beyond_the_rows_they_were_fitted_on() {
        let fresh = workload(20_000, 2);
        let quality = predictions("noisy", &workload(3_000, 1), &fresh, 5).quality(&fresh, 0..fresh.len());
        assert!((quality.tau_b.unwrap() - 0.45).abs() < 0.02 && (quality.coverage_80 - 0.8).abs() < 0.03);
    }

    #[test]
    fn the_mean_of_noisy_predictions_is_the_populations() {
        let population = workload(20_000, 1);
        let told = predictions("noisy", &population, &population, 5);
        let mean = (0..told.len()).map(|row| told.get(row).mean(4096)).sum::<f64>() / told.len() as f64;
        assert!((mean / population.mean_output_tokens() - 1.0).abs() < 0.03, "{mean}");
    }

    #[test]
    fn an_oracle_is_right_and_no_prediction_is_the_population() {
        let workload = workload(2_000, 1);
        let oracle = predictions("oracle", &workload, &workload, 0);
        assert_eq!(
            oracle.quality(&workload, 0..workload.len()),
            Quality { tau_b: Some(1.0), coverage_80: 1.0 }
        );
        let none = predictions("none", &workload, &workload, 0);
        assert_eq!(none.quality(&workload, 0..workload.len()).tau_b, None);
        assert!((none.quality(&workload, 0..workload.len()).coverage_80 - 0.8).abs() < 0.01);
        assert!(Arc::ptr_eq(none.get(0), none.get(1_999)));
    }

    #[test]
    fn a_log_normal_error_covers_what_it_says() {
        let workload = workload(20_000, 1);
        let told = predictions("lognormal:0.5", &workload, &workload, 3);
        assert!((told.quality(&workload, 0..workload.len()).coverage_80 - 0.8).abs() < 0.01);
        let sharp = predictions("lognormal:0", &workload, &workload, 3);
        for (row, &tokens) in workload.output_tokens().iter().enumerate() {
            assert!((sharp.get(row).quantile(0.5) / f64::from(tokens) - 1.0).abs() < 0.011);
        }
    }

    #[test]
    fn a_classifier_hits_as_often_as_it_says_and_is_calibrated() {
        let workload = workload(20_000, 1);
        let told = predictions("buckets:0.79", &workload, &workload, 3);
        let below = |row: usize| workload.output_tokens()[row] < 256;
        // Said to be short: the median of the mixture is short.
        let right =
            (0..told.len()).filter(|&row| below(row) == (told.get(row).quantile(0.5) < 256.0)).count();
        assert!((right as f64 / 20_000.0 - 0.79).abs() < 0.05, "{right}");
        assert!((told.quality(&workload, 0..workload.len()).coverage_80 - 0.8).abs() < 0.02);
    }

    #[test]
    fn a_model_tells_what_the_workload_brings_and_needs_it() {
        let (population, workload) = (workload(2_000, 1), workload(50, 2));
        let told = predictions("noisy", &population, &workload, 1);
        let mut columns = workload.clone().into_columns();
        columns.predicted = Some(told.clone());
        let with_text = Workload::new(columns).unwrap();
        assert_eq!(predictions("model:a", &population, &with_text, 9), told);
        let part = with_text.slice(10..20).unwrap();
        let of_part = predictions("model:a", &population, &part, 9);
        assert!((0..10).all(|row| of_part.get(row) == told.get(10 + row)));
        let spec = "model:a".parse().unwrap();
        let population = Population::new(population.output_tokens()).unwrap();
        let error = Predictor::fit(spec, population, None).unwrap().predict(&workload, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`predictor` is model:a, expected a predictor that needs no text, since the workload has none"
        );
    }

    #[test]
    fn predictions_depend_on_the_seed_and_nothing_else() {
        let (population, long) = (workload(2_000, 1), workload(500, 2));
        let short = long.slice(0..100).unwrap();
        for spec in ["noisy", "lognormal:0.5", "buckets:0.79"] {
            let told = predictions(spec, &population, &long, 9);
            assert_eq!(told, predictions(spec, &population, &long, 9));
            assert_ne!(told, predictions(spec, &population, &long, 10));
            let prefix = predictions(spec, &population, &short, 9);
            assert!((0..100).all(|row| prefix.get(row) == told.get(row)), "{spec}");
        }
    }

    #[test]
    fn a_population_that_cannot_be_ranked_is_told_exactly_or_refused() {
        let constant = Population::new(&[50; 10]).unwrap();
        let predictor = Predictor::fit(PredictorSpec::default(), constant, None).unwrap();
        let PredictionSource::Table(told) = predictor.predict(&workload(3, 1), 0).unwrap() else {
            panic!("noisy predictions are a table");
        };
        assert!((told.get(0).quantile(0.5) - 50.0).abs() < 0.01);
        let many: Vec<u32> = (1..100_000).collect();
        let many = Population::new(&many).unwrap();
        let error = Predictor::fit(PredictorSpec::Noisy { tau: 0.999 }, many, None);
        assert!(
            error.unwrap_err().to_string().starts_with("`predictor` is noisy:0.999, expected at most 0.9")
        );
    }

    #[test]
    fn what_history_told_is_kept_by_request_whatever_the_order() {
        let workload = workload(400, 1);
        let population = Population::new(workload.output_tokens()).unwrap();
        let predictor = Predictor::fit(PredictorSpec::History, population, None).unwrap();
        let mut source = predictor.predict(&workload, 0).unwrap();
        let mut told = Vec::new();
        for row in (0..400).rev() {
            told.push(source.predict(&workload, row));
            source.finished(&workload, row).unwrap();
        }
        let kept = source.into_told();
        for (told, row) in told.iter().zip((0..400).rev()) {
            assert_eq!(told, kept.get(row));
        }
        // All alike but for their lengths, so that their order cannot be told from the few that have finished.
        let quality = kept.quality(&workload, 0..200);
        assert!(
            quality.tau_b.unwrap().abs() < 0.15 && (quality.coverage_80 - 0.8).abs() < 0.1,
            "{quality:?}"
        );
        assert_ne!(quality, kept.quality(&workload, 200..400));
    }

    #[test]
    fn history_is_learned_while_the_run_goes_on() {
        let workload = workload(100, 1);
        let population = Population::new(workload.output_tokens()).unwrap();
        let predictor = Predictor::fit(PredictorSpec::History, population, None).unwrap();
        assert!(matches!(predictor.predict(&workload, 0), Ok(PredictionSource::History { .. })));
    }
}
