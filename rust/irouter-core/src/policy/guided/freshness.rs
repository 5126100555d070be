//! Whether what the router hears is fresh.

use std::collections::BTreeMap;

use crate::time::Picos;

/// First tokens over which the least lag is taken: one of them met no surprise.
const RECENT: usize = 32;
/// Up to so many times the expected TTFT is no lag: mixed steps and wrong profiles make that much of a difference.
const SLACK: f64 = 2.0;

/// By how much first tokens are heard of later than can be expected.
///
/// ```text
/// lag = min over the last 32 first tokens of (heard of - dispatched - 2 x expected TTFT)
/// ```
///
/// While none was heard of yet, the time since the first dispatch, less what was expected then.
#[derive(Clone, Debug, Default)]
pub(super) struct Freshness {
    /// By number of the request: when a first token is expected at the latest.
    expected: BTreeMap<u64, Picos>,
    /// Expected first token of the first dispatch.
    first: Option<Picos>,
    lags: Vec<f64>,
    next: usize,
}

impl Freshness {
    /// A request went out.
    pub(super) fn dispatched(&mut self, request: u64, now: Picos, ttft_seconds: f64) {
        let at = now.saturating_add(Picos::from_seconds(SLACK * ttft_seconds).unwrap_or(Picos::MAX));
        self.first.get_or_insert(at);
        self.expected.insert(request, at);
    }

    /// Its first token was heard of.
    pub(super) fn first_token(&mut self, request: u64, now: Picos) {
        let Some(expected) = self.expected.remove(&request) else { return };
        let lag = seconds_after(now, expected);
        if self.lags.len() < RECENT {
            self.lags.push(lag);
        } else {
            self.lags[self.next] = lag;
            self.next = (self.next + 1) % RECENT;
        }
    }

    /// It is gone.
    pub(super) fn released(&mut self, request: u64) {
        self.expected.remove(&request);
    }

    /// The lag, in seconds.
    pub(super) fn lag_seconds(&self, now: Picos) -> f64 {
        match self.first {
            Some(first) if self.lags.is_empty() => seconds_after(now, first),
            _ => self.lags.iter().copied().reduce(f64::min).unwrap_or(0.0),
        }
    }
}

fn seconds_after(now: Picos, then: Picos) -> f64 {
    now.as_seconds() - then.as_seconds()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::at;

    #[test]
    fn one_first_token_in_time_is_enough() {
        let mut freshness = Freshness::default();
        for request in 0..3 {
            freshness.dispatched(request, at(1.0), 0.5);
        }
        assert!((freshness.lag_seconds(at(4.0)) - 2.0).abs() < 1e-9, "nothing heard yet");
        freshness.first_token(0, at(9.0));
        assert!((freshness.lag_seconds(at(9.0)) - 7.0).abs() < 1e-9);
        freshness.first_token(1, at(2.25));
        assert!((freshness.lag_seconds(at(9.0)) - 0.25).abs() < 1e-9);
        for request in 10..10 + RECENT as u64 {
            freshness.dispatched(request, at(20.0), 1.0);
            freshness.first_token(request, at(26.0));
        }
        assert!((freshness.lag_seconds(at(26.0)) - 4.0).abs() < 1e-9, "what was before is forgotten");
    }

    #[test]
    fn nothing_is_kept_of_who_is_gone() {
        let mut freshness = Freshness::default();
        freshness.dispatched(1, at(0.0), 0.1);
        freshness.released(1);
        freshness.first_token(1, at(50.0));
        assert!(freshness.expected.is_empty() && freshness.lags.is_empty());
    }
}
