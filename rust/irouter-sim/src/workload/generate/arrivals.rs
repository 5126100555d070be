//! Arrival processes.

use irouter_core::Picos;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Result, SimError};
use crate::random::{exponential, gamma};

/// When requests arrive. The mean rate is given apart, with the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ArrivalSpec {
    /// Independent, at a constant rate: exponential gaps.
    Poisson {},
    /// Gamma-distributed gaps: bursty for a coefficient of variation above 1, regular below.
    Gamma {
        /// Coefficient of variation of the gaps, 0.01 to 100.
        cv: f64,
    },
    /// Poisson at a rate that changes from window to window, such as day and night; starts over after the last window.
    RateProfile {
        /// Length of each window in seconds.
        window_s: f64,
        /// Relative rate of each window; scaled so that their mean is the run's rate.
        rates: Vec<f64>,
    },
    /// Equal gaps.
    Uniform {},
}

impl Default for ArrivalSpec {
    fn default() -> Self {
        Self::Poisson {}
    }
}

impl ArrivalSpec {
    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Self::Poisson {} | Self::Uniform {} => Ok(()),
            Self::Gamma { cv } if (0.01..=100.0).contains(cv) => Ok(()),
            Self::Gamma { cv } => Err(SimError::field("arrivals.cv", cv, "a number from 0.01 to 100")),
            Self::RateProfile { window_s, .. } if !window_s.is_finite() || *window_s <= 0.0 => {
                Err(SimError::field("arrivals.window_s", window_s, "a finite number of seconds above 0"))
            }
            Self::RateProfile { rates, .. } => {
                let valid = rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0);
                if valid && rates.iter().sum::<f64>() > 0.0 {
                    return Ok(());
                }
                let expected = "finite numbers, none below 0 and not all 0";
                Err(SimError::field("arrivals.rates", format!("{rates:?}"), expected))
            }
        }
    }

    /// Draws `requests` arrivals at `rate` per second from time 0 on.
    pub(super) fn draw(&self, requests: usize, rate: f64, generator: &mut ChaCha8Rng) -> Result<Vec<Picos>> {
        // Time in units of the mean gap.
        let mut clock = 0.0;
        let clock_at = |index: usize| -> f64 {
            match self {
                Self::Poisson {} | Self::RateProfile { .. } => clock += exponential(generator),
                Self::Gamma { cv } => {
                    let shape = 1.0 / (cv * cv);
                    clock += gamma(generator, shape) / shape;
                }
                Self::Uniform {} => clock = index as f64,
            }
            clock
        };
        let seconds = |clock: f64| match self {
            Self::RateProfile { window_s, rates } => Profile::new(*window_s, rates).stretch(clock / rate),
            _ => clock / rate,
        };
        let picos = |clock: f64| {
            Picos::from_seconds(seconds(clock)).ok_or_else(|| {
                let expected = format!("a rate at which {requests} requests arrive within 106 days");
                SimError::field("rate", rate, expected)
            })
        };
        (0..requests).map(clock_at).map(picos).collect()
    }
}

/// Piecewise constant rates, scaled to a mean of 1.
struct Profile<'a> {
    window_s: f64,
    rates: &'a [f64],
    mean: f64,
}

impl<'a> Profile<'a> {
    fn new(window_s: f64, rates: &'a [f64]) -> Self {
        Self { window_s, rates, mean: rates.iter().sum::<f64>() / rates.len() as f64 }
    }

    /// When the process has done what the constant rate does in `seconds`: the inverse of the integral of the rate.
    fn stretch(&self, seconds: f64) -> f64 {
        let round = self.window_s * self.rates.len() as f64;
        let rounds = libm::floor(seconds / round);
        let mut left = seconds - rounds * round;
        let mut start = rounds * round;
        for &rate in self.rates {
            let done = rate / self.mean * self.window_s;
            if left < done {
                return start + left / done * self.window_s;
            }
            left -= done;
            start += self.window_s;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};
    use crate::workload::{Workload, WorkloadColumns};

    fn drawn(spec: &ArrivalSpec) -> Workload {
        let arrival = spec.draw(40_000, 8.0, &mut generator(1, Purpose::Arrivals)).unwrap();
        Workload::new(WorkloadColumns {
            prompt_tokens: vec![1; arrival.len()],
            output_tokens: vec![1; arrival.len()],
            arrival,
            ..WorkloadColumns::default()
        })
        .unwrap()
    }

    #[test]
    fn processes_have_their_rate_and_variation() {
        for (spec, cv) in [
            (ArrivalSpec::Poisson {}, 1.0),
            (ArrivalSpec::Gamma { cv: 0.5 }, 0.5),
            (ArrivalSpec::Gamma { cv: 3.0 }, 3.0),
            (ArrivalSpec::Uniform {}, 0.0),
        ] {
            let workload = drawn(&spec);
            assert!((workload.rate().unwrap() / 8.0 - 1.0).abs() < 0.03, "{spec:?} {:?}", workload.rate());
            assert!((workload.arrival_cv().unwrap() - cv).abs() < 0.02 + 0.05 * cv, "{spec:?}");
        }
    }

    #[test]
    fn a_rate_profile_fills_its_windows_in_proportion() {
        let workload = drawn(&ArrivalSpec::RateProfile { window_s: 100.0, rates: vec![1.0, 0.0, 3.0, 2.0] });
        let mut counts = [0.0_f64; 4];
        let end = Picos::SECOND * 4800;
        for &arrival in workload.arrival().iter().filter(|&&arrival| arrival < end) {
            counts[usize::try_from(arrival.0 / (Picos::SECOND.0 * 100) % 4).unwrap()] += 1.0;
        }
        // Twelve rounds of 400 s at 8 per second.
        for (count, share) in counts.into_iter().zip([1.0, 0.0, 3.0, 2.0]) {
            let expected = 12.0 * 3200.0 * share / 6.0;
            assert!((count - expected).abs() <= 4.0 * f64::sqrt(expected), "{counts:?}");
        }
    }

    #[test]
    fn a_rate_that_never_ends_is_refused() {
        let error = ArrivalSpec::Uniform {}.draw(10, 1e-9, &mut generator(1, Purpose::Arrivals)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`rate` is 0.000000001, expected a rate at which 10 requests arrive within 106 days"
        );
    }
}
