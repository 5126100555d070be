//! The completed requests that the predictor is trained on.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::features::Features;

/// A completed request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) features: Features,
    /// From dispatch to first token.
    pub(super) ttft_seconds: f64,
    /// From first to last token, by token; `None` for an output of one token.
    pub(super) tpot_seconds: Option<f64>,
}

/// How many are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimits {
    /// Of each regime.
    pub(super) bucket_samples: usize,
    /// In all.
    pub(super) samples: usize,
}

/// Upper ends of the classes of waiting requests but the last, classes of KV usage and of the cached share.
const WAITING_CLASSES: [u32; 4] = [0, 2, 5, 10];
const KV_CLASSES: usize = 20;
const CACHED_CLASSES: usize = 4;
const BUCKETS: usize = (WAITING_CLASSES.len() + 1) * KV_CLASSES * CACHED_CLASSES;

/// The newest samples of each regime, so that the common ones do not crowd out the rare ones: 0, 1-2, 3-5, 6-10 or more
/// waiting, steps of 5 % of KV usage, quarters of the prompt cached.
#[derive(Clone, Debug)]
pub(super) struct Window {
    limits: WindowLimits,
    buckets: Vec<VecDeque<(u64, Sample)>>,
    /// Samples in all buckets, and those ever added.
    length: usize,
    added: u64,
}

impl Window {
    pub(super) fn new(limits: WindowLimits) -> Self {
        Self { limits, buckets: vec![VecDeque::new(); BUCKETS], length: 0, added: 0 }
    }

    /// Adds the newest sample. A full regime loses its oldest, a full window the oldest of its largest regime.
    pub(super) fn push(&mut self, sample: Sample) {
        let bucket = &mut self.buckets[bucket(&sample.features)];
        bucket.push_back((self.added, sample));
        self.added += 1;
        self.length += 1;
        let full = if bucket.len() > self.limits.bucket_samples {
            Some(bucket)
        } else if self.length > self.limits.samples {
            let oldest =
                |bucket: &VecDeque<(u64, Sample)>| bucket.front().map(|&(number, _)| Reverse(number));
            self.buckets.iter_mut().max_by_key(|bucket| (bucket.len(), oldest(bucket)))
        } else {
            None
        };
        if full.and_then(VecDeque::pop_front).is_some() {
            self.length -= 1;
        }
    }

    /// Samples ever added.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    /// The samples, the oldest first.
    pub(super) fn by_age(&self) -> Vec<Sample> {
        let mut samples: Vec<(u64, Sample)> = self.buckets.iter().flatten().copied().collect();
        samples.sort_unstable_by_key(|&(number, _)| number);
        samples.into_iter().map(|(_, sample)| sample).collect()
    }
}

fn bucket(features: &Features) -> usize {
    let waiting = WAITING_CLASSES.iter().filter(|&&end| features.waiting > end).count();
    let kv = class(features.kv_usage, KV_CLASSES);
    let cached = class(features.cached_share.unwrap_or(0.0), CACHED_CLASSES);
    (waiting * KV_CLASSES + kv) * CACHED_CLASSES + cached
}

/// Which of so many equal parts of 0 to 1 the share is in.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the classes")]
fn class(share: f64, classes: usize) -> usize {
    ((share * classes as f64) as usize).min(classes - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ttft_seconds: f64, waiting: u32) -> Sample {
        let features = Features { waiting, ..Features::default() };
        Sample { features, ttft_seconds, tpot_seconds: None }
    }

    fn kept(window: &Window) -> Vec<f64> {
        window.by_age().iter().map(|sample| sample.ttft_seconds).collect()
    }

    #[test]
    fn a_full_regime_forgets_its_oldest_and_leaves_the_rare_ones_alone() {
        let mut window = Window::new(WindowLimits { bucket_samples: 3, samples: 100 });
        window.push(sample(0.0, 11));
        (1..6u8).for_each(|number| window.push(sample(f64::from(number), 0)));
        assert_eq!(kept(&window), [0.0, 3.0, 4.0, 5.0]);
        assert_eq!(window.added(), 6);
    }

    #[test]
    fn a_full_window_forgets_the_oldest_of_its_largest_regime() {
        let mut window = Window::new(WindowLimits { bucket_samples: 10, samples: 4 });
        window.push(sample(0.0, 11));
        for (ttft, waiting) in [(1.0, 0), (2.0, 0), (3.0, 3), (4.0, 3), (5.0, 3)] {
            window.push(sample(ttft, waiting));
        }
        assert_eq!(kept(&window), [0.0, 2.0, 4.0, 5.0]);
    }

    #[test]
    fn regimes_are_llmds() {
        let of = |kv_usage, waiting, cached_share| {
            bucket(&Features { kv_usage, waiting, cached_share: Some(cached_share), ..Features::default() })
        };
        assert_eq!(
            [0, 1, 2, 3, 5, 6, 10, 11].map(|waiting| of(0.0, waiting, 0.0) / 80),
            [0, 1, 1, 2, 2, 3, 3, 4]
        );
        assert_eq!([0.0, 0.04, 0.05, 0.99, 1.0].map(|usage| of(usage, 0, 0.0) / 4), [0, 0, 1, 19, 19]);
        assert_eq!([0.0, 0.3, 0.5, 1.0].map(|share| of(0.0, 0, share)), [0, 1, 2, 3]);
        assert_eq!(of(1.0, u32::MAX, 1.0), BUCKETS - 1);
    }
}
