//! What placing a request on an instance does to everybody there.

mod forecast;

pub use forecast::{Forecast, GRID};
