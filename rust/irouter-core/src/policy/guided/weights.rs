//! Where the weights come from, and whether they are for these features.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::network::{Network, WeightsFile};
use crate::policy::observation::{COUNT, FEATURES, VERSION};

/// The weights of the package; their header says how they were found.
pub(super) const SHIPPED: &[u8] = include_bytes!("guided.safetensors");

/// What the header has to say; the rest of it is for people.
#[derive(Deserialize)]
struct Header {
    observation_version: u32,
    features: Vec<String>,
}

/// The network in a file of weights, in base64, or in that of the package.
///
/// # Errors
/// [`Error::Field`] for text that is no base64, [`Error::Schema`] for a file that is none or is for other features.
pub(super) fn load(base64: Option<&str>) -> Result<Network> {
    match base64 {
        None => parse(SHIPPED),
        Some(text) => {
            let bytes = STANDARD.decode(text).map_err(|error| {
                Error::field(
                    "weights",
                    format!("text of {} letters: {error}", text.len()),
                    "a file in base64",
                )
            })?;
            parse(&bytes)
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Network> {
    let file = WeightsFile::parse(bytes)?;
    let Header { observation_version, features } = file.header()?;
    let refuse = |message: String| Err(Error::Schema { what: "weights of `guided`".into(), message });
    if observation_version != VERSION {
        return refuse(format!(
            "they are for version {observation_version} of the observation, expected {VERSION}"
        ));
    }
    if let Some(place) = (0..COUNT.max(features.len()))
        .find(|&place| features.get(place).map(String::as_str) != FEATURES.get(place).copied())
    {
        return refuse(format!(
            "feature {place} is {}, expected {}",
            features.get(place).map_or("missing", String::as_str),
            FEATURES.get(place).unwrap_or(&"none")
        ));
    }
    let network = Network::new(&file, "network.")?;
    if (network.inputs(), network.outputs()) != (COUNT, 2) {
        return refuse(format!(
            "the network has {} inputs and {} outputs, expected {COUNT} and 2",
            network.inputs(),
            network.outputs()
        ));
    }
    Ok(network)
}
