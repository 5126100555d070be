//! A predictor of output lengths that needs no text: what finished requests of the same kind produced.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::censored::{CensoredSample, ObservedLength};
use crate::error::{Error, Result};
use crate::length::{LEVELS, LengthDistribution};

/// Lengths kept per window: the newest ones.
const WINDOW: usize = 512;
/// A window with fewer lengths is not asked.
const ENOUGH: usize = 32;
/// A window is fitted again when it has taken in this share of its lengths since the last fit: 1 in 8.
const REFIT_DIVISOR: usize = 8;
/// Most windows of each kind; a new one takes the place of the one that has learned nothing for longest.
const MOST_WINDOWS: usize = 2048;
/// Quantiles at [`LEVELS`] of a log-normal length with median 128 and sigma 1.2, which spans the public traces: what is
/// said before anything has finished.
const PRIOR: [f64; LEVELS.len()] = [10.9, 27.5, 46.6, 68.2, 94.4, 128.0, 173.5, 240.2, 351.5, 595.8, 1505.1];

/// Running quantiles of the output length per application and prompt length.
///
/// A request is predicted from the newest 512 finished requests of its application whose prompts have as many bits as its
/// own; with fewer than 32 of these, from those of its application, then from those of all; before that, from a wide prior.
/// Memory is bounded, and the same calls give the same answers.
#[derive(Clone, Debug)]
pub struct HistoryModel {
    by_prompt: Windows<(u32, u32)>,
    by_application: Windows<u32>,
    all: Window,
    prior: Arc<LengthDistribution>,
    observed: u64,
}

impl Default for HistoryModel {
    /// A model that has seen nothing.
    fn default() -> Self {
        Self {
            by_prompt: Windows::default(),
            by_application: Windows::default(),
            all: Window::default(),
            prior: Arc::new(LengthDistribution::build(&PRIOR)),
            observed: 0,
        }
    }
}

impl HistoryModel {
    /// A model that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns from a request that has ended, of at least 1 token; see [`CensoredSample`] for those that were cut.
    ///
    /// # Errors
    /// [`Error::Field`] for an output of 0 tokens.
    pub fn observe(&mut self, application: u32, prompt_tokens: u32, output: ObservedLength) -> Result<()> {
        if output.tokens == 0 {
            return Err(Error::field("output_tokens", 0, "at least 1 token"));
        }
        self.observed += 1;
        self.by_prompt.push((application, prompt_class(prompt_tokens)), output, self.observed);
        self.by_application.push(application, output, self.observed);
        self.all.push(output, self.observed);
        Ok(())
    }

    /// What is known of the length of a request that arrives now.
    pub fn predict(&mut self, application: u32, prompt_tokens: u32) -> Arc<LengthDistribution> {
        let key = (application, prompt_class(prompt_tokens));
        let known = self
            .by_prompt
            .fitted(&key)
            .or_else(|| self.by_application.fitted(&application))
            .or_else(|| self.all.fitted());
        known.unwrap_or_else(|| Arc::clone(&self.prior))
    }
}

/// Number of bits of a prompt's length.
fn prompt_class(prompt_tokens: u32) -> u32 {
    u32::BITS - prompt_tokens.leading_zeros()
}

/// Windows by key, a bounded number of them.
#[derive(Clone, Debug)]
struct Windows<Key>(BTreeMap<Key, Window>);

impl<Key> Default for Windows<Key> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<Key: Copy + Ord> Windows<Key> {
    fn push(&mut self, key: Key, output: ObservedLength, now: u64) {
        if self.0.len() == MOST_WINDOWS && !self.0.contains_key(&key) {
            let stalest = self.0.iter().min_by_key(|(_, window)| window.newest).map(|(&key, _)| key);
            if let Some(stalest) = stalest {
                self.0.remove(&stalest);
            }
        }
        self.0.entry(key).or_default().push(output, now);
    }

    fn fitted(&mut self, key: &Key) -> Option<Arc<LengthDistribution>> {
        self.0.get_mut(key)?.fitted()
    }
}

/// The newest lengths of one kind of request.
#[derive(Clone, Debug, Default)]
struct Window {
    lengths: Vec<ObservedLength>,
    /// Where the next length goes once the window is full.
    oldest: usize,
    since_fit: usize,
    fit: Option<Arc<LengthDistribution>>,
    /// Number of the observation that came last.
    newest: u64,
}

impl Window {
    fn push(&mut self, output: ObservedLength, now: u64) {
        if self.lengths.len() < WINDOW {
            self.lengths.push(output);
        } else {
            self.lengths[self.oldest] = output;
            self.oldest = (self.oldest + 1) % WINDOW;
        }
        self.since_fit += 1;
        self.newest = now;
    }

    fn fitted(&mut self) -> Option<Arc<LengthDistribution>> {
        if self.lengths.len() < ENOUGH {
            return None;
        }
        if self.fit.is_none() || self.since_fit * REFIT_DIVISOR >= self.lengths.len() {
            let sample = CensoredSample::new(self.lengths.clone()).ok()?;
            self.fit = Some(Arc::new(LengthDistribution::build(&sample.quantiles())));
            self.since_fit = 0;
        }
        self.fit.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn median(model: &mut HistoryModel, application: u32, prompt_tokens: u32) -> f64 {
        model.predict(application, prompt_tokens).quantile(0.5).round()
    }

    fn learn(
        model: &mut HistoryModel,
        application: u32,
        prompt_tokens: u32,
        output_tokens: u32,
        times: usize,
    ) {
        for _ in 0..times {
            model.observe(application, prompt_tokens, ObservedLength::whole(output_tokens)).unwrap();
        }
    }

    #[test]
    fn the_prior_is_the_log_normal_it_claims() {
        let normal = [-2.053_749, -1.281_552, -0.841_621, -0.524_401, -0.253_347, 0.0];
        for (index, z) in normal.into_iter().enumerate() {
            let mirrored = LEVELS.len() - 1 - index;
            assert!((PRIOR[index] / (128.0 * libm::exp(1.2 * z)) - 1.0).abs() < 0.002);
            assert!((PRIOR[mirrored] / (128.0 * libm::exp(-1.2 * z)) - 1.0).abs() < 0.002);
        }
    }

    #[test]
    fn the_finest_class_with_enough_requests_answers() {
        let mut model = HistoryModel::new();
        assert!((median(&mut model, 1, 100) - 128.0).abs() < f64::EPSILON);
        learn(&mut model, 2, 10, 7, ENOUGH);
        assert!((median(&mut model, 1, 100) - 7.0).abs() < f64::EPSILON, "from all requests");
        learn(&mut model, 1, 5000, 50, ENOUGH);
        assert!((median(&mut model, 1, 100) - 50.0).abs() < f64::EPSILON, "from the application");
        learn(&mut model, 1, 100, 300, ENOUGH - 1);
        let between = median(&mut model, 1, 100);
        learn(&mut model, 1, 127, 300, 1);
        assert!(
            between < 300.0 && (median(&mut model, 1, 64) - 300.0).abs() < f64::EPSILON,
            "from the class"
        );
    }

    #[test]
    fn old_lengths_are_forgotten() {
        let mut model = HistoryModel::new();
        learn(&mut model, 0, 100, 10, WINDOW);
        learn(&mut model, 0, 100, 900, WINDOW);
        assert!((model.predict(0, 100).quantile(0.02) - 900.0).abs() < 1.0);
    }

    #[test]
    fn memory_is_bounded_and_the_stalest_class_goes_first() {
        let mut model = HistoryModel::new();
        learn(&mut model, 0, 100, 10, ENOUGH);
        for application in 1..=u32::try_from(2 * MOST_WINDOWS).unwrap() {
            learn(&mut model, application, 100, 500, 1);
            // Application 0 stays in use; the others come once.
            if application % 1000 == 0 {
                learn(&mut model, 0, 100, 10, 1);
            }
        }
        assert_eq!((model.by_prompt.0.len(), model.by_application.0.len()), (MOST_WINDOWS, MOST_WINDOWS));
        assert!((median(&mut model, 0, 100) - 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_cut_length_counts_as_at_least_itself() {
        let mut model = HistoryModel::new();
        for tokens in (1..=100).cycle().take(WINDOW) {
            model.observe(0, 100, ObservedLength::whole(tokens)).unwrap();
        }
        let whole = model.predict(0, 100).quantile(0.9);
        for tokens in (1..=100).cycle().take(WINDOW) {
            let seen = if tokens % 2 == 0 && tokens > 50 {
                ObservedLength::cut(50)
            } else {
                ObservedLength::whole(tokens)
            };
            model.observe(0, 100, seen).unwrap();
        }
        let cut = model.predict(0, 100).quantile(0.9);
        assert!((cut - whole).abs() < 5.0, "{cut} {whole}");
    }

    #[test]
    fn an_empty_output_is_refused() {
        let error = HistoryModel::new().observe(0, 1, ObservedLength::whole(0)).unwrap_err();
        assert_eq!(error.to_string(), "`output_tokens` is 0, expected at least 1 token");
    }
}
