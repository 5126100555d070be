//! Safetensors: named arrays and one JSON header.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

use crate::error::Result;

use super::mismatch;

/// Key of the header among the metadata of the file. The only one, since readers do not keep the order of several.
const HEADER: &str = "irouter";

/// A file of weights in memory: tensors of 32-bit floats by name, and a header that says what they are for.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightsFile {
    header: Option<String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl WeightsFile {
    /// Reads the bytes of a safetensors file.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] for bytes that are no safetensors, and for a tensor that is not of finite `F32`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let unreadable = |error| mismatch(format!("{error}, expected safetensors"));
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER)).cloned();
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(unreadable)?.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(mismatch(format!("`{name}` is of type {:?}, expected F32", view.dtype())));
            }
            let values: Vec<f32> = view
                .data()
                .chunks_exact(size_of::<f32>())
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                return Err(mismatch(format!(
                    "`{name}` has {} at {place}, expected finite numbers",
                    values[place]
                )));
            }
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        Ok(Self { header, tensors })
    }

    /// The header, read into its type.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] when it is absent or not of that type.
    pub fn header<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.header.as_deref();
        let text = text.ok_or_else(|| mismatch(format!("no metadata `{HEADER}`, expected a JSON header")))?;
        serde_json::from_str(text).map_err(|error| mismatch(format!("header: {error}")))
    }

    /// Names of the tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape and values of a tensor, the last axis innermost.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] when there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<(&[usize], Vec<f32>)> {
        let (shape, values) =
            self.tensors.get(name).ok_or_else(|| mismatch(format!("no tensor `{name}`")))?;
        Ok((shape, values.clone()))
    }
}
