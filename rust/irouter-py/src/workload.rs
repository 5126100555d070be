//! Workloads from NumPy columns.

use std::sync::Arc;

use irouter_sim::prediction::Predictions;
use irouter_sim::workload::{PrefixColumn, WorkloadColumns, arrivals_from_seconds, counts_from_integers};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::error::to_python;
use crate::length::quantile_rows;

/// Requests in order of arrival.
#[pyclass(frozen, module = "irouter._core")]
pub(crate) struct Workload {
    pub(crate) inner: Arc<irouter_sim::Workload>,
}

type Integers<'py> = PyReadonlyArray1<'py, i64>;

fn counts(field: &'static str, column: &Integers<'_>) -> PyResult<Vec<u32>> {
    counts_from_integers(field, &column.as_array().to_vec()).map_err(to_python)
}

/// Bits of a signed number: hashes and sessions are only compared.
fn identities(column: &Integers<'_>) -> Vec<u64> {
    column.as_array().iter().map(|value| value.cast_unsigned()).collect()
}

#[pymethods]
impl Workload {
    /// Checks the columns and keeps a copy.
    #[new]
    #[pyo3(signature = (
        arrival_s, input_tokens, output_tokens, *, max_tokens=None, application=None, tenant=None, session=None,
        priority=None, block_offsets=None, block_hashes=None, hash_block_tokens=None, predicted_quantiles=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "one keyword per column")]
    #[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
    fn new(
        arrival_s: PyReadonlyArray1<'_, f64>,
        input_tokens: Integers<'_>,
        output_tokens: Integers<'_>,
        max_tokens: Option<Integers<'_>>,
        application: Option<Integers<'_>>,
        tenant: Option<Integers<'_>>,
        session: Option<Integers<'_>>,
        priority: Option<PyReadonlyArray1<'_, i32>>,
        block_offsets: Option<Integers<'_>>,
        block_hashes: Option<Integers<'_>>,
        hash_block_tokens: Option<u32>,
        predicted_quantiles: Option<PyReadonlyArray2<'_, f64>>,
    ) -> PyResult<Self> {
        let optional =
            |field, column: Option<Integers<'_>>| column.map(|column| counts(field, &column)).transpose();
        let prefix = match (block_offsets, block_hashes, hash_block_tokens) {
            (None, None, None) => None,
            (Some(offsets), Some(hashes), Some(hash_block_tokens)) => Some(PrefixColumn {
                hash_block_tokens,
                offsets: counts("block_offsets", &offsets)?
                    .into_iter()
                    .map(|offset| offset as usize)
                    .collect(),
                hashes: identities(&hashes),
            }),
            _ => {
                let message =
                    "block_offsets, block_hashes and hash_block_tokens are given together or not at all";
                return Err(crate::error::IrouterError::new_err(message));
            }
        };
        let predicted = predicted_quantiles
            .map(|quantiles| Predictions::from_quantiles(&quantile_rows(&quantiles)?).map_err(to_python))
            .transpose()?;
        let columns = WorkloadColumns {
            arrival: arrivals_from_seconds(&arrival_s.as_array().to_vec()).map_err(to_python)?,
            prompt_tokens: counts("input_tokens", &input_tokens)?,
            output_tokens: counts("output_tokens", &output_tokens)?,
            max_tokens: optional("max_tokens", max_tokens)?,
            application: optional("application", application)?,
            tenant: optional("tenant", tenant)?,
            session: session.map(|column| identities(&column)),
            think_time: None,
            priority: priority.map(|column| column.as_array().to_vec()),
            prefix,
            predicted,
        };
        let inner = irouter_sim::Workload::new(columns).map_err(to_python)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// Arrivals in seconds.
    #[getter]
    fn arrival_s<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        let seconds: Vec<f64> = self.inner.arrival().iter().map(|arrival| arrival.as_seconds()).collect();
        seconds.into_pyarray(py)
    }

    /// Tokens of each prompt.
    #[getter]
    fn input_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        self.inner.prompt_tokens().to_vec().into_pyarray(py)
    }

    /// Tokens that each request produces.
    #[getter]
    fn output_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        self.inner.output_tokens().to_vec().into_pyarray(py)
    }
}
