//! Small neural networks, evaluated without any library: what is trained elsewhere runs here.
//!
//! A [`WeightsFile`] is safetensors; a [`Network`] is a multi-layer perceptron from the tensors in it.

mod file;

pub use file::WeightsFile;

use crate::error::{Error, Result};

/// A multi-layer perceptron with `max(0, x)` between its layers.
///
/// ```text
/// h_0 = input        h_(k+1) = max(0, W_k h_k + b_k)        output = W_n h_n + b_n
/// ```
///
/// In 32-bit floats, summed in a fixed order ([`dot`]), so that the same weights give the same bits on every machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq)]
struct Layer {
    /// By output and, within it, input.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// The space that a forward pass works in, to be kept between passes.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    values: Vec<f32>,
    next: Vec<f32>,
}

impl Network {
    /// The network whose tensors are `PREFIX0.weight` of shape (outputs, inputs), `PREFIX0.bias` of shape (outputs), and so on
    /// by ascending numbers, which may leave gaps: `torch.nn.Sequential` numbers the activations too.
    ///
    /// # Errors
    /// [`Error::Schema`] naming the tensor that is missing, of another type than `F32`, of a shape that does not fit the layer
    /// before, or not finite.
    pub fn new(file: &WeightsFile, prefix: &str) -> Result<Self> {
        let mut numbers: Vec<u32> = file
            .names()
            .filter_map(|name| name.strip_prefix(prefix)?.strip_suffix(".weight")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        if numbers.is_empty() {
            return Err(mismatch(format!("no tensor `{prefix}0.weight`, expected at least one layer")));
        }
        let mut layers: Vec<Layer> = Vec::with_capacity(numbers.len());
        for number in numbers {
            let layer = Layer::new(file, &format!("{prefix}{number}"))?;
            if let Some(before) = layers.last()
                && before.outputs() != layer.inputs()
            {
                return Err(mismatch(format!(
                    "`{prefix}{number}.weight` has {} inputs, expected the {} outputs of the layer before",
                    layer.inputs(),
                    before.outputs()
                )));
            }
            layers.push(layer);
        }
        Ok(Self { layers })
    }

    /// Numbers that it takes.
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, Layer::inputs)
    }

    /// Numbers that it gives.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, Layer::outputs)
    }

    /// Its outputs for an input of [`Self::inputs`] numbers; what is missing counts as zero, what is too many is not read.
    pub fn forward<'a>(&self, input: &[f32], scratch: &'a mut Scratch) -> &'a [f32] {
        let Scratch { values, next } = scratch;
        values.clear();
        values.extend_from_slice(input);
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                for value in values.iter_mut() {
                    *value = value.max(0.0);
                }
            }
            layer.forward(values, next);
            std::mem::swap(values, next);
        }
        values
    }
}

impl Layer {
    fn new(file: &WeightsFile, name: &str) -> Result<Self> {
        let (weights, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let (shape, by_output) = file.tensor(&weights)?;
        let &[outputs, inputs] = shape else {
            return Err(mismatch(format!("`{weights}` has shape {shape:?}, expected (outputs, inputs)")));
        };
        if outputs == 0 || inputs == 0 {
            return Err(mismatch(format!("`{weights}` has shape {shape:?}, expected no zero")));
        }
        let (shape, bias_values) = file.tensor(&bias)?;
        if shape != [outputs] {
            return Err(mismatch(format!("`{bias}` has shape {shape:?}, expected [{outputs}]")));
        }
        Ok(Self { weights: by_output, bias: bias_values })
    }

    fn outputs(&self) -> usize {
        self.bias.len()
    }

    fn inputs(&self) -> usize {
        self.weights.len() / self.bias.len()
    }

    fn forward(&self, input: &[f32], output: &mut Vec<f32>) {
        output.clear();
        let rows = self.weights.chunks_exact(self.inputs());
        output.extend(rows.zip(&self.bias).map(|(weights, bias)| bias + dot(weights, input)));
    }
}

/// Sums that are added up side by side: as many as the registers of common processors hold.
const LANES: usize = 8;

/// Product of two rows: every eighth term is added to the same sum, and then these.
#[inline]
fn dot(weights: &[f32], input: &[f32]) -> f32 {
    let length = weights.len().min(input.len());
    let (weights, input) = (&weights[..length], &input[..length]);
    let (weights, weights_left) = weights.as_chunks::<LANES>();
    let (input, input_left) = input.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (weights, input) in weights.iter().zip(input) {
        for ((sum, weight), value) in sums.iter_mut().zip(weights).zip(input) {
            *sum += weight * value;
        }
    }
    for ((sum, weight), value) in sums.iter_mut().zip(weights_left).zip(input_left) {
        *sum += weight * value;
    }
    sums.iter().sum()
}

/// The error of a weights file that does not hold what was looked for.
pub(crate) fn mismatch(message: String) -> Error {
    Error::Schema { what: "weights file".into(), message }
}

#[cfg(test)]
mod tests;
