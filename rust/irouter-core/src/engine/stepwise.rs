//! Every iteration, with a loop over the requests.

/// placeholder
pub struct Stepwise;
