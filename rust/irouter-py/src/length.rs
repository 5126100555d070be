//! Distributions of output lengths as arrays of quantiles, and the history that needs no text.

use std::sync::{Mutex, PoisonError};

use irouter_core::censored::CensoredSample;
use irouter_core::length::LEVELS;
use irouter_core::{Error, HistoryModel, LengthDistribution, ObservedLength};
use irouter_sim::prediction;
use irouter_sim::workload::counts_from_integers;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::error::to_python;

type Quantiles = [f64; LEVELS.len()];

/// The rows of an array `[request, level]`.
pub(crate) fn quantile_rows(quantiles: &PyReadonlyArray2<'_, f64>) -> PyResult<Vec<Quantiles>> {
    let array = quantiles.as_array();
    if array.ncols() != LEVELS.len() {
        let expected = "a column for each of `LENGTH_LEVELS`";
        return Err(to_python(Error::field("quantiles", format!("{} columns", array.ncols()), expected)));
    }
    Ok(array.rows().into_iter().map(|row| std::array::from_fn(|level| row[level])).collect())
}

fn distributions(quantiles: &PyReadonlyArray2<'_, f64>) -> PyResult<Vec<LengthDistribution>> {
    let rows = quantile_rows(quantiles)?;
    rows.iter().map(|row| LengthDistribution::from_quantiles(row).map_err(to_python)).collect()
}

fn array2(py: Python<'_>, values: Vec<f64>, shape: [usize; 2]) -> PyResult<Bound<'_, PyArray2<f64>>> {
    values.into_pyarray(py).reshape(shape)
}

/// Expected length in tokens of each row of quantiles `[request, level]`, cut at `max_tokens`.
#[pyfunction]
#[pyo3(signature = (quantiles, max_tokens=u32::MAX))]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
pub(crate) fn expected_lengths<'py>(
    py: Python<'py>,
    quantiles: PyReadonlyArray2<'py, f64>,
    max_tokens: u32,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let lengths = distributions(&quantiles)?;
    let means: Vec<f64> = lengths.iter().map(|length| length.mean(max_tokens)).collect();
    Ok(means.into_pyarray(py))
}

/// Probability that the length of each row of quantiles `[request, level]` exceeds each of its `tokens[request, column]`.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
pub(crate) fn length_survival<'py>(
    py: Python<'py>,
    quantiles: PyReadonlyArray2<'py, f64>,
    tokens: PyReadonlyArray2<'py, f64>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let (lengths, tokens) = (distributions(&quantiles)?, tokens.as_array());
    if tokens.nrows() != lengths.len() {
        let expected = format!("{} rows, one per request", lengths.len());
        return Err(to_python(Error::field("tokens", format!("{} rows", tokens.nrows()), expected)));
    }
    let rows = lengths.iter().zip(tokens.rows());
    let values = rows.flat_map(|(length, row)| row.into_iter().map(|&tokens| length.survival(tokens)));
    array2(py, values.collect(), [tokens.nrows(), tokens.ncols()])
}

/// Quantiles of each row of quantiles `[request, level]` at other levels, as `[request, new level]`.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
pub(crate) fn length_quantiles<'py>(
    py: Python<'py>,
    quantiles: PyReadonlyArray2<'py, f64>,
    levels: PyReadonlyArray1<'py, f64>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let (lengths, levels) = (distributions(&quantiles)?, checked_levels(&levels)?);
    let values = lengths.iter().flat_map(|length| levels.iter().map(|&level| length.quantile(level)));
    array2(py, values.collect(), [lengths.len(), levels.len()])
}

/// Quantiles at `levels` of lengths of which those marked in `cut` are known to be at least so long (Kaplan and Meier, 1958).
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
pub(crate) fn censored_quantiles<'py>(
    py: Python<'py>,
    tokens: PyReadonlyArray1<'py, i64>,
    cut: PyReadonlyArray1<'py, bool>,
    levels: PyReadonlyArray1<'py, f64>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let tokens = counts_from_integers("tokens", &tokens.as_array().to_vec()).map_err(to_python)?;
    let (cut, levels) = (cut.as_array(), checked_levels(&levels)?);
    if cut.len() != tokens.len() {
        let expected = format!("{} values, one per length", tokens.len());
        return Err(to_python(Error::field("cut", cut.len(), expected)));
    }
    let sample = tokens.iter().zip(cut).map(|(&tokens, &cut)| ObservedLength { tokens, cut }).collect();
    let sample = CensoredSample::new(sample).map_err(to_python)?;
    Ok(levels.iter().map(|&level| sample.quantile(level)).collect::<Vec<_>>().into_pyarray(py))
}

fn checked_levels(levels: &PyReadonlyArray1<'_, f64>) -> PyResult<Vec<f64>> {
    let levels = levels.as_array().to_vec();
    match levels.iter().find(|&&level| !(level > 0.0 && level < 1.0)) {
        Some(level) => Err(to_python(Error::field("levels", level, "levels between 0 and 1, both excluded"))),
        None => Ok(levels),
    }
}

/// Kendall's tau-b of two columns; None when all of either are equal.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
pub(crate) fn kendall_tau_b(
    one: PyReadonlyArray1<'_, f64>,
    other: PyReadonlyArray1<'_, f64>,
) -> PyResult<Option<f64>> {
    let (one, other) = (one.as_array().to_vec(), other.as_array().to_vec());
    if one.len() != other.len() {
        let expected = format!("{} values, as many as the first column", one.len());
        return Err(to_python(Error::field("other", other.len(), expected)));
    }
    Ok(prediction::kendall_tau_b(&one, &other))
}

/// Running quantiles of the output length per application and prompt length, learned from requests that have ended.
///
/// Safe to call from several threads; memory is bounded.
#[pyclass(frozen, module = "irouter._core")]
pub(crate) struct LengthHistory {
    model: Mutex<HistoryModel>,
}

impl LengthHistory {
    /// An observation either counts or not: a panic in between leaves the model readable.
    fn lock(&self) -> std::sync::MutexGuard<'_, HistoryModel> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl LengthHistory {
    /// A history that has seen nothing.
    #[new]
    fn new() -> Self {
        Self { model: Mutex::new(HistoryModel::new()) }
    }

    /// Learns from a request that has ended; `cut` says that a limit ended it.
    #[pyo3(signature = (application, prompt_tokens, output_tokens, *, cut=false))]
    fn observe(&self, application: u32, prompt_tokens: u32, output_tokens: u32, cut: bool) -> PyResult<()> {
        let output = ObservedLength { tokens: output_tokens, cut };
        self.lock().observe(application, prompt_tokens, output).map_err(to_python)
    }

    /// Quantiles `[request, level]` of requests that arrive now.
    #[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        applications: PyReadonlyArray1<'py, i64>,
        prompt_tokens: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let column = |field, column: &PyReadonlyArray1<'_, i64>| {
            counts_from_integers(field, &column.as_array().to_vec()).map_err(to_python)
        };
        let (applications, prompts) =
            (column("applications", &applications)?, column("prompt_tokens", &prompt_tokens)?);
        if applications.len() != prompts.len() {
            let expected = format!("{} values, as many as applications", applications.len());
            return Err(to_python(Error::field("prompt_tokens", prompts.len(), expected)));
        }
        let mut model = self.lock();
        let mut quantiles = Vec::with_capacity(prompts.len() * LEVELS.len());
        for (&application, &prompt) in applications.iter().zip(&prompts) {
            quantiles.extend(model.predict(application, prompt).quantiles());
        }
        drop(model);
        array2(py, quantiles, [prompts.len(), LEVELS.len()])
    }
}
