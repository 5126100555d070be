//! What placing a request on an instance does to it and to everybody there.
//!
//! One estimate in three forms, all of them behind [`Estimator`]:
//!
//! * [`Linear`]: the paper's penalties, two gradients and sums;
//! * [`Forecast`]: expectations over the coming steps from predicted distributions, without simulation;
//! * fast-forward: the instance's twin run to its end with and without the request, at assumed lengths ([`Lengths`]).

mod ahead;
mod curve;
mod estimator;
mod forecast;
mod line;
mod linear;
mod overflow;
mod seconds;

use std::fmt;

pub use ahead::Lengths;
pub(crate) use ahead::{OWN_TAG, own_job, run_ahead};
pub use curve::GRID;
pub use estimator::{Estimator, Form};
pub use forecast::{Candidate, Forecast};
pub(crate) use linear::Load;
pub use linear::{Linear, Penalties};

/// The latency impact of placing a request on an instance: the instance's future with it, and less the one without it.
///
/// Times are from the decision on; nobody else is taken to come later. Its text says the same in one line.
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
    /// The most KV cache that is needed at a time while it is there, as a share of what there is. By curves or sums it is above 1 where that
    /// does not suffice; a twin that runs ahead preempts instead.
    pub kv_peak_share: f64,
    /// Probability that the KV cache overflows, so that somebody is preempted and computed again.
    pub overflow_probability: f64,
    /// Preemptions more with it than without, where they are counted: by fast-forward.
    pub preemptions: Option<f64>,
    /// Prompt tokens expected in the prefix cache.
    pub cached_tokens: u32,
    /// Requests that are there.
    pub residents: u32,
    /// How many of them have no token yet, as far as is known.
    pub prompts_ahead: u32,
}

impl fmt::Display for Impact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2} s to the first token", self.ttft_seconds)?;
        match self.prompts_ahead {
            0 => {}
            1 => write!(formatter, " behind 1 prompt")?,
            prompts => write!(formatter, " behind {prompts} prompts")?,
        }
        write!(formatter, ", {:.1} s in all; ", self.e2e_seconds)?;
        match self.residents {
            0 => write!(formatter, "nobody else there")?,
            1 => write!(formatter, "delays 1 other by {:.2} s", self.inflicted_seconds)?,
            others => {
                let each = self.inflicted_seconds / f64::from(others);
                write!(formatter, "delays {others} others by {each:.2} s each")?;
            }
        }
        write!(formatter, "; {:.0} % chance of a preemption", 100.0 * self.overflow_probability)
    }
}
