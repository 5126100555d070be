//! What placing a request on an instance does to it and to everybody there.

mod curve;
mod forecast;
mod line;
mod overflow;
mod seconds;

pub use curve::GRID;
pub use forecast::{Candidate, Forecast};

/// The latency impact of placing a request on an instance: the instance's future with it, and less the one without it.
///
/// Times are from the decision on; nobody else is taken to come later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impact {
    /// Until its first token is out.
    pub ttft_seconds: f64,
    /// Until its last token is out.
    pub e2e_seconds: f64,
    /// By how much the requests that are there end later, summed.
    pub inflicted_seconds: f64,
    /// By how much the one of them that is delayed the most ends later.
    pub largest_inflicted_seconds: f64,
    /// How many of them are delayed.
    pub delayed_requests: f64,
    /// The most KV cache that is needed at a time, as a share of what there is: above 1 where it does not suffice.
    pub kv_peak_share: f64,
    /// Probability that the KV cache overflows, so that somebody is preempted and computed again.
    pub overflow_probability: f64,
    /// Prompt tokens expected in the prefix cache.
    pub cached_tokens: u32,
}
