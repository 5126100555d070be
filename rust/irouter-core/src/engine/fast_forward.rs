//! Sums over residents.

/// placeholder
pub struct FastForward;
