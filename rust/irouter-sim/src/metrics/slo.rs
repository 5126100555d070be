//! The service-level objective that goodput counts.

use irouter_core::Picos;

use super::Unloaded;
use crate::error::{Result, SimError};

/// Limits on a request's latency, each `seconds + factor x` what the request takes alone on an idle instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// Constant part of the limit on TTFT, in seconds.
    pub ttft_seconds: f64,
    /// Unloaded TTFTs added to it.
    pub ttft_factor: f64,
    /// Constant part of the limit on the mean TPOT, in seconds.
    pub tpot_seconds: f64,
    /// Unloaded TPOTs added to it.
    pub tpot_factor: f64,
    /// Shorter outputs have no limit on TPOT.
    pub tpot_from_tokens: u32,
}

impl Default for Slo {
    /// TTFT within 0.5 s + 5x the unloaded one; TPOT within 5x the unloaded one for outputs of 20 tokens or more.
    fn default() -> Self {
        Self {
            ttft_seconds: 0.5,
            ttft_factor: 5.0,
            tpot_seconds: 0.0,
            tpot_factor: 5.0,
            tpot_from_tokens: 20,
        }
    }
}

impl Slo {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`SimError::Field`] for a limit that is negative, not finite, or 0 altogether.
    pub fn validate(&self) -> Result<()> {
        let limits = [
            ("slo.ttft_seconds", self.ttft_seconds),
            ("slo.ttft_factor", self.ttft_factor),
            ("slo.tpot_seconds", self.tpot_seconds),
            ("slo.tpot_factor", self.tpot_factor),
        ];
        for (field, value) in limits {
            if !value.is_finite() || value < 0.0 {
                return Err(SimError::field(field, value, "a finite number, at least 0"));
            }
        }
        for pair in limits.chunks(2) {
            if pair.iter().all(|&(_, value)| value == 0.0) {
                return Err(SimError::field(pair[0].0, 0, "above 0, or a factor above 0"));
            }
        }
        Ok(())
    }

    /// Whether a completed request met it.
    pub fn met(&self, ttft: Picos, e2e: Picos, output_tokens: u32, alone: &Unloaded) -> bool {
        let within = |time: Picos, alone: Picos, factor: f64, seconds: f64| {
            // In picoseconds, where the usual limits are exact.
            time.0 as f64 <= factor.mul_add(alone.0 as f64, seconds * 1e12)
        };
        let gaps = output_tokens.saturating_sub(1);
        let limited = output_tokens >= self.tpot_from_tokens && gaps > 0;
        within(ttft, alone.ttft, self.ttft_factor, self.ttft_seconds)
            && (!limited
                || within(
                    e2e - ttft,
                    alone.e2e - alone.ttft,
                    self.tpot_factor,
                    self.tpot_seconds * f64::from(gaps),
                ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(value: i64) -> Picos {
        Picos::MILLISECOND * value
    }

    #[test]
    fn the_default_allows_half_a_second_and_five_times_the_unloaded_latency() {
        let slo = Slo::default();
        // Alone: 100 ms to the first token, 10 ms for each of the 20 after it.
        let alone = Unloaded { ttft: millis(100), e2e: millis(300) };
        assert!(slo.met(millis(1000), millis(2000), 21, &alone));
        assert!(!slo.met(millis(1001), millis(2000), 21, &alone));
        assert!(!slo.met(millis(1000), millis(2001), 21, &alone));
        // An output below 20 tokens has no limit on TPOT.
        let alone = Unloaded { ttft: millis(100), e2e: millis(280) };
        assert!(slo.met(millis(1000), millis(9000), 19, &alone));
    }

    #[test]
    fn an_absolute_limit_ignores_the_unloaded_latency() {
        let slo = Slo {
            ttft_seconds: 1.0,
            ttft_factor: 0.0,
            tpot_seconds: 0.05,
            tpot_factor: 0.0,
            ..Slo::default()
        };
        slo.validate().unwrap();
        let alone = Unloaded { ttft: millis(900), e2e: millis(2900) };
        assert!(slo.met(millis(1000), millis(2000), 21, &alone));
        assert!(!slo.met(millis(1000), millis(2001), 21, &alone));
    }

    #[test]
    fn bad_limits_are_named() {
        let message = |slo: Slo| slo.validate().unwrap_err().to_string();
        assert_eq!(
            message(Slo { ttft_seconds: f64::NAN, ..Slo::default() }),
            "`slo.ttft_seconds` is NaN, expected a finite number, at least 0"
        );
        assert_eq!(
            message(Slo { tpot_factor: 0.0, ..Slo::default() }),
            "`slo.tpot_seconds` is 0, expected above 0, or a factor above 0"
        );
    }
}
