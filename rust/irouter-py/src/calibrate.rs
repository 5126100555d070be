//! Profiles fitted to logs.

use irouter_core::Profile;
use irouter_core::profile::StepShape;
use irouter_sim::calibrate::{FitForm, RequestRecord, StepRecord, fit_request_log, fit_step_log};
use irouter_sim::workload::counts_from_integers;
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::detach::detached;
use crate::error::{IrouterError, to_python};

type Integers<'py> = PyReadonlyArray1<'py, i64>;
type Numbers<'py> = PyReadonlyArray1<'py, f64>;

/// Fits step times to a log of engine steps; a quarter of them, drawn with `seed`, is held out.
#[pyfunction]
#[pyo3(signature = (
    template_json, *, name, data, prefill_sequences, prefill_tokens, prefill_pairs, decodes, decode_context,
    duration_ms, form="C", seed=0,
))]
#[expect(clippy::too_many_arguments, reason = "one keyword per column")]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
#[pyo3(name = "fit_step_log")]
pub(crate) fn fit_steps<'py>(
    py: Python<'py>,
    template_json: &str,
    name: &str,
    data: &str,
    prefill_sequences: Integers<'py>,
    prefill_tokens: Integers<'py>,
    prefill_pairs: Integers<'py>,
    decodes: Integers<'py>,
    decode_context: Integers<'py>,
    duration_ms: Numbers<'py>,
    form: &str,
    seed: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let template = Profile::from_json(template_json).map_err(to_python)?;
    let form = match form {
        "A" => FitForm::A,
        "C" => FitForm::C,
        other => {
            return Err(IrouterError::new_err(format!("`form` is {other}, expected `A` or `C`")));
        }
    };
    let shapes = [
        counts("prefill_sequences", &prefill_sequences)?,
        counts("prefill_tokens", &prefill_tokens)?,
        counts("decodes", &decodes)?,
    ];
    let sums = [sums("prefill_pairs", &prefill_pairs)?, sums("decode_context", &decode_context)?];
    let durations = duration_ms.as_array().to_vec();
    same_length(durations.len(), shapes.iter().map(Vec::len).chain(sums.iter().map(Vec::len)))?;
    let records: Vec<StepRecord> = durations
        .into_iter()
        .enumerate()
        .map(|(row, duration_ms)| StepRecord {
            shape: StepShape {
                prefill_sequences: shapes[0][row],
                prefill_tokens: shapes[1][row],
                prefill_pairs: sums[0][row],
                decodes: shapes[2][row],
                decode_context: sums[1][row],
            },
            duration_ms,
        })
        .collect();
    let (fit, profile) = detached(py, || {
        let fit = fit_step_log(&records, form, seed)?;
        let profile = fit.profile(&template, name, data)?;
        Ok((fit, profile))
    })?;
    let result = PyDict::new(py);
    result.set_item("profile", profile.to_json())?;
    result.set_item("predicted_ms", fit.predicted_ms.into_pyarray(py))?;
    result.set_item("held_out", fit.held_out.into_pyarray(py))?;
    result.set_item("held_out_error_percent", fit.held_out_error_percent)?;
    Ok(result)
}

/// Fits step times to a log of the requests of one instance by replaying it; a quarter is held out.
#[pyfunction]
#[pyo3(signature = (
    template_json, *, name, data, arrival_s, input_tokens, output_tokens, first_token_s, last_token_s, seed=0,
))]
#[expect(clippy::too_many_arguments, reason = "one keyword per column")]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
#[pyo3(name = "fit_request_log")]
pub(crate) fn fit_requests<'py>(
    py: Python<'py>,
    template_json: &str,
    name: &str,
    data: &str,
    arrival_s: Numbers<'py>,
    input_tokens: Integers<'py>,
    output_tokens: Integers<'py>,
    first_token_s: Numbers<'py>,
    last_token_s: Numbers<'py>,
    seed: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let template = Profile::from_json(template_json).map_err(to_python)?;
    let times = [arrival_s, first_token_s, last_token_s].map(|column| column.as_array().to_vec());
    let tokens = [counts("input_tokens", &input_tokens)?, counts("output_tokens", &output_tokens)?];
    same_length(times[0].len(), times.iter().map(Vec::len).chain(tokens.iter().map(Vec::len)))?;
    let records: Vec<RequestRecord> = (0..times[0].len())
        .map(|row| RequestRecord {
            arrival_s: times[0][row],
            input_tokens: tokens[0][row],
            output_tokens: tokens[1][row],
            first_token_s: times[1][row],
            last_token_s: times[2][row],
        })
        .collect();
    let fit = detached(py, || fit_request_log(&records, &template, name, data, seed))?;
    let result = PyDict::new(py);
    result.set_item("profile", fit.profile.to_json())?;
    result.set_item("predicted_first_s", fit.predicted_first_s.into_pyarray(py))?;
    result.set_item("predicted_last_s", fit.predicted_last_s.into_pyarray(py))?;
    result.set_item("held_out", fit.held_out.into_pyarray(py))?;
    result.set_item("held_out_e2e_error_percent", fit.held_out_e2e_error_percent)?;
    result.set_item("held_out_ttft_error_percent", fit.held_out_ttft_error_percent)?;
    Ok(result)
}

fn counts(field: &'static str, column: &Integers<'_>) -> PyResult<Vec<u32>> {
    counts_from_integers(field, &column.as_array().to_vec()).map_err(to_python)
}

/// Sums over the sequences of a step, which may be beyond 32 bits.
fn sums(field: &'static str, column: &Integers<'_>) -> PyResult<Vec<u64>> {
    let sum = |(row, &value): (usize, &i64)| {
        let message = || format!("row {row} (counted from 0): `{field}` is {value}, expected zero or more");
        u64::try_from(value).map_err(|_| IrouterError::new_err(message()))
    };
    column.as_array().iter().enumerate().map(sum).collect()
}

fn same_length(rows: usize, mut columns: impl Iterator<Item = usize>) -> PyResult<()> {
    match columns.find(|&length| length != rows) {
        None => Ok(()),
        Some(other) => {
            Err(IrouterError::new_err(format!("columns have {rows} and {other} rows, expected as many")))
        }
    }
}
