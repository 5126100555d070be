//! Trained networks as the router evaluates them.

use irouter_core::network::{Network, Scratch, WeightsFile};
use numpy::ndarray::{Array2, Axis};
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::error::{IrouterError, to_python};

/// Outputs of the network in a file of weights, a row for each row of inputs.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "borrowed arrays are extracted by value")]
pub(crate) fn network_outputs<'py>(
    py: Python<'py>,
    weights: &[u8],
    inputs: PyReadonlyArray2<'py, f32>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let file = WeightsFile::parse(weights).map_err(to_python)?;
    let network = Network::new(&file, "network.").map_err(to_python)?;
    let inputs = inputs.as_array();
    if inputs.ncols() != network.inputs() {
        let message = format!("inputs have {} columns, expected {}", inputs.ncols(), network.inputs());
        return Err(IrouterError::new_err(message));
    }
    let mut scratch = Scratch::default();
    let mut outputs = Array2::zeros((inputs.nrows(), network.outputs()));
    for (input, mut output) in inputs.axis_iter(Axis(0)).zip(outputs.axis_iter_mut(Axis(0))) {
        let found = network.forward(&input.to_vec(), &mut scratch);
        output.iter_mut().zip(found).for_each(|(place, value)| *place = *value);
    }
    Ok(outputs.into_pyarray(py))
}
