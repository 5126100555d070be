//! Gaps between tokens, counted in logarithmic buckets.

use irouter_core::Picos;

/// Bits of a value's mantissa that its bucket keeps: buckets are at most 1/128 of their values wide.
const MANTISSA_BITS: u32 = 7;
const HALF: u64 = 1 << MANTISSA_BITS;
/// Buckets of all 64-bit values.
const BUCKETS: usize = ((64 - MANTISSA_BITS as usize) + 1) << MANTISSA_BITS;

/// Histogram of durations in picoseconds.
///
/// The layout is that of an HDR histogram: values below 256 ps have a bucket each, every octave above has 128 of equal
/// width. Count and sum are exact; a quantile is the upper end of its bucket, so it is never below the true one and
/// less than 0.8 % above it.
#[derive(Clone, Debug, PartialEq)]
pub struct GapHistogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    longest: u64,
}

impl Default for GapHistogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum: 0, longest: 0 }
    }
}

impl GapHistogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `count` gaps of one length; `gap` is not negative.
    #[inline]
    pub fn record(&mut self, count: u32, gap: Picos) {
        self.add(u64::from(count), duration(gap));
    }

    /// Counts `count` gaps of each of the lengths `first`, `first + increment`, ... (`steps` of them, none negative).
    ///
    /// The cost is one addition per bucket crossed, not per step.
    #[inline]
    pub fn record_run(&mut self, count: u32, first: Picos, increment: Picos, steps: u64) {
        if steps == 0 || count == 0 {
            return;
        }
        let last = first + increment * (steps - 1).cast_signed();
        let (low, high) = (duration(first.min(last)), duration(first.max(last)));
        let count = u64::from(count);
        if bucket(low) == bucket(high) {
            self.counts[bucket(low)] += count * steps;
        } else {
            self.spread(count, low, increment.0.unsigned_abs(), steps);
        }
        self.count += count * steps;
        // The mean of an arithmetic series is that of its ends; the product is even.
        self.sum += u128::from(count) * (u128::from(steps) * (u128::from(low) + u128::from(high)) / 2);
        self.longest = self.longest.max(high);
    }

    /// Buckets of `low + j x increment` for `j` below `steps`, of which the last lies in another bucket than the first.
    fn spread(&mut self, count: u64, low: u64, increment: u64, steps: u64) {
        let mut done = 0;
        while done < steps {
            let index = bucket(low + increment * done);
            let within = (upper_end(index) - low) / increment + 1;
            let next = within.min(steps);
            self.counts[index] += count * (next - done);
            done = next;
        }
    }

    #[inline]
    fn add(&mut self, count: u64, value: u64) {
        self.counts[bucket(value)] += count;
        self.count += count;
        self.sum += u128::from(count) * u128::from(value);
        if count > 0 {
            self.longest = self.longest.max(value);
        }
    }

    /// Number of gaps.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean gap in seconds; `None` without gaps.
    pub fn mean_seconds(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64 * 1e-12)
    }

    /// The quantile at `level` (0 to 1): of the `ceil(level x count)` shortest gaps, the upper end of the longest one's
    /// bucket, but never beyond the longest gap of all. `None` without gaps.
    pub fn quantile(&self, level: f64) -> Option<Picos> {
        if self.count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates, and a rank is clamped to the counts there are"
        )]
        let rank = (libm::ceil(level * self.count as f64) as u64).clamp(1, self.count);
        let mut below = 0;
        let index = self.counts.iter().position(|&count| {
            below += count;
            below >= rank
        })?;
        Some(Picos(upper_end(index).min(self.longest).cast_signed()))
    }
}

#[inline]
fn duration(gap: Picos) -> u64 {
    debug_assert!(gap >= Picos::ZERO, "a gap of {gap} is negative");
    gap.0.cast_unsigned()
}

#[inline]
fn bucket(value: u64) -> usize {
    let shift = (value | HALF).ilog2() - MANTISSA_BITS;
    #[expect(clippy::cast_possible_truncation, reason = "below BUCKETS for every 64-bit value")]
    {
        ((u64::from(shift) << MANTISSA_BITS) + (value >> shift)) as usize
    }
}

/// The largest value of a bucket.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index >> MANTISSA_BITS).saturating_sub(1);
    let mantissa = index - (shift << MANTISSA_BITS);
    // The top bucket ends at 2^64 - 1: shift the mantissa first, then fill the bits below it.
    (mantissa << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_tile_the_numbers() {
        for index in 0..BUCKETS {
            let end = upper_end(index);
            assert_eq!(bucket(end), index);
            if let Some(next) = end.checked_add(1) {
                assert_eq!(bucket(next), index + 1);
                assert!(u128::from(upper_end(index + 1) - next) * 128 <= u128::from(next));
            }
        }
        assert_eq!(upper_end(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_are_the_upper_ends_of_their_buckets() {
        let mut gaps = GapHistogram::new();
        assert_eq!(gaps.quantile(0.99), None);
        gaps.record(99, Picos(100));
        gaps.record(1, Picos(1000));
        assert_eq!(gaps.quantile(0.99), Some(Picos(100)));
        // 1000 lies in the bucket that ends at 1003, and is itself the longest.
        assert_eq!(gaps.quantile(1.0), Some(Picos(1000)));
        gaps.record(1, Picos(2000));
        assert_eq!(gaps.quantile(0.99), Some(Picos(1003)));
        assert_eq!(gaps.mean_seconds(), Some((99.0 * 100.0 + 1000.0 + 2000.0) / 101.0 * 1e-12));
    }

    proptest! {
        #[test]
        fn a_run_equals_its_steps(
            count in 0u32..5, first in 0i64..1 << 40, increment in -(1i64 << 20)..1 << 34, steps in 0u64..200,
        ) {
            let steps = if increment < 0 { steps.min((first / -increment).cast_unsigned()) } else { steps };
            let (mut run, mut single) = (GapHistogram::new(), GapHistogram::new());
            run.record_run(count, Picos(first), Picos(increment), steps);
            for step in 0..steps.cast_signed() {
                single.record(count, Picos(first + increment * step));
            }
            prop_assert_eq!(run, single);
        }

        #[test]
        fn a_quantile_is_at_most_a_128th_above_the_exact_one(
            mut values in prop::collection::vec(0i64..1 << 50, 1..300), level in 0.0f64..=1.0,
        ) {
            let mut gaps = GapHistogram::new();
            for &value in &values {
                gaps.record(1, Picos(value));
            }
            values.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small rank")]
            let exact = values[((level * values.len() as f64).ceil() as usize).max(1) - 1];
            let found = gaps.quantile(level).unwrap().0;
            prop_assert!(exact <= found && found <= exact + exact / 128, "{} {}", exact, found);
        }
    }
}
