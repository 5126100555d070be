//! Identifiers that cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Position of an instance in its cluster. A number is used again only after its instance has left, and starts clean then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u32);

impl InstanceId {
    /// The position as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "instance {}", self.0)
    }
}

/// A request known to the router, from submission until it finished, failed or was cancelled.
///
/// The slot is used again, the generation is not: a late event of an earlier request is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey {
    /// Slot in the router's ledger.
    pub slot: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

impl RequestKey {
    /// The slot as an index.
    pub fn index(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "request {}.{}", self.slot, self.generation)
    }
}
