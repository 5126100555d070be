//! llm-d's tiers and scores by predicted latency.

use super::features::Features;
use super::options::LlmdPredictedLatencyOptions;

/// An instance that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Place among the ready instances.
    pub(super) index: usize,
    pub(super) features: Features,
    /// SLO less predicted TTFT and TPOT, in seconds; `None` before the first training.
    pub(super) headroom: Option<[f64; 2]>,
}

impl Candidate {
    /// Whether it is predicted to meet both SLOs.
    pub(super) fn meets(&self) -> bool {
        self.headroom.is_some_and(|headroom| headroom.iter().all(|&seconds| seconds >= 0.0))
    }

    /// How it misses the SLO, the least bad first: in TPOT, in TTFT, in both; `None` when it meets it.
    fn deficit(&self) -> Option<u8> {
        match self.headroom?.map(|seconds| seconds < 0.0) {
            [false, false] => None,
            [false, true] => Some(0),
            [true, false] => Some(1),
            [true, true] => Some(2),
        }
    }
}

/// Ranges of headroom below which all are alike, in milliseconds as llm-d has it.
const LEAST_RANGE_MS: f64 = 1e-9;

/// A weight for each candidate, by which it is drawn. All candidates have a prediction, or none has.
pub(super) fn weights(candidates: &[Candidate], options: &LlmdPredictedLatencyOptions) -> Vec<f64> {
    if candidates.iter().any(|candidate| candidate.headroom.is_none()) {
        return composite(candidates);
    }
    let any_meets = candidates.iter().any(Candidate::meets);
    let any_idle = candidates.iter().any(|candidate| candidate.features.in_flight == 0);
    let least_deficit = candidates.iter().filter_map(Candidate::deficit).min();
    let is_scored = |candidate: &Candidate| {
        if any_meets {
            candidate.meets()
        } else if any_idle {
            candidate.features.in_flight == 0
        } else {
            candidate.deficit() == least_deficit
        }
    };
    by_headroom(candidates, is_scored, options)
}

/// The nearer to the SLO, the higher: from 0.01 to 1 in steps of 0.01 for those that are scored, 0 for the others.
fn by_headroom(
    candidates: &[Candidate],
    is_scored: impl Fn(&Candidate) -> bool,
    options: &LlmdPredictedLatencyOptions,
) -> Vec<f64> {
    let distances =
        |candidate: &Candidate| candidate.headroom.unwrap_or_default().map(|seconds| 1e3 * seconds.abs());
    let mut lowest = [f64::INFINITY; 2];
    let mut highest = [f64::NEG_INFINITY; 2];
    for distances in candidates.iter().filter(|candidate| is_scored(candidate)).map(distances) {
        for (latency, distance) in distances.into_iter().enumerate() {
            lowest[latency] = lowest[latency].min(distance);
            highest[latency] = highest[latency].max(distance);
        }
    }
    let ranges: [f64; 2] = std::array::from_fn(|latency| highest[latency] - lowest[latency]);
    let sum = options.ttft_weight + options.tpot_weight;
    let shares = match ranges.map(|range| range > LEAST_RANGE_MS) {
        [true, false] => [1.0, 0.0],
        [false, true] => [0.0, 1.0],
        [true, true] | [false, false] => [options.ttft_weight / sum, options.tpot_weight / sum],
    };
    let score = |candidate: &Candidate| {
        if !is_scored(candidate) {
            return 0.0;
        }
        let normalised = distances(candidate).into_iter().enumerate().map(|(latency, distance)| {
            if ranges[latency] > LEAST_RANGE_MS {
                (distance - lowest[latency]) / ranges[latency]
            } else {
                0.5
            }
        });
        let combined: f64 = normalised.zip(shares).map(|(distance, share)| share * distance).sum();
        // As every scorer of llm-d it is held at 1.
        ((libm::trunc((1.0 - combined) * 100.0) + 1.0) / 100.0).min(1.0)
    };
    candidates.iter().map(score).collect()
}

/// llm-d's score without predictions: free KV cache, short queue and cached prefix, each a third.
fn composite(candidates: &[Candidate]) -> Vec<f64> {
    let longest = candidates.iter().map(|candidate| candidate.features.waiting).max().unwrap_or(0);
    let score = |Candidate { features, .. }: &Candidate| {
        let queue =
            if longest > 0 { f64::from(longest - features.waiting) / f64::from(longest) } else { 1.0 };
        let sum = (1.0 - features.kv_usage) + queue + features.cached_share.unwrap_or(0.0);
        libm::round(100.0 * sum / 3.0) / 100.0
    };
    candidates.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(in_flight: u32, headroom: [f64; 2]) -> Candidate {
        let features = Features { in_flight, ..Features::default() };
        Candidate { index: 0, features, headroom: Some(headroom) }
    }

    fn scores(candidates: &[Candidate]) -> Vec<f64> {
        weights(candidates, &LlmdPredictedLatencyOptions::default())
    }

    #[test]
    fn without_a_goal_the_lowest_predicted_latency_scores_highest() {
        // Deficits of TTFT and TPOT, 0.8 and 0.2 of the way from the best to the worst.
        let all = [candidate(1, [-1.0, -0.01]), candidate(1, [-2.0, -0.02]), candidate(1, [-3.0, -0.03])];
        assert_eq!(scores(&all), [1.0, 0.51, 0.01]);
        let opposed = [candidate(1, [-1.0, -0.03]), candidate(1, [-3.0, -0.01])];
        assert_eq!(scores(&opposed), [0.81, 0.20]);
    }

    #[test]
    fn a_latency_that_is_the_same_everywhere_does_not_count() {
        let all = [candidate(1, [-1.0, -0.03]), candidate(1, [-1.0, -0.01])];
        assert_eq!(scores(&all), [0.01, 1.0]);
        assert_eq!(scores(&[all[0], all[0]]), [0.51, 0.51]);
    }

    #[test]
    fn instances_that_meet_the_slo_shut_out_the_others_and_the_nearest_to_it_leads() {
        let all = [candidate(1, [0.4, 0.02]), candidate(1, [0.1, 0.01]), candidate(0, [-0.1, 0.01])];
        assert_eq!(scores(&all), [0.01, 1.0, 0.0]);
    }

    #[test]
    fn when_all_miss_idle_ones_come_first_then_those_that_miss_least() {
        let busy = [candidate(1, [-1.0, -1.0]), candidate(1, [-1.0, 1.0]), candidate(1, [1.0, -1.0])];
        assert_eq!(scores(&busy), [0.0, 0.0, 0.51]);
        assert_eq!(scores(&busy[..2]), [0.0, 0.51]);
        let with_idle = [busy[0], busy[2], candidate(0, [-9.0, -9.0])];
        assert_eq!(scores(&with_idle), [0.0, 0.0, 0.51]);
    }

    #[test]
    fn before_the_first_training_kv_cache_queue_and_prefix_decide() {
        let known = |kv_usage, waiting, cached_share| {
            let features = Features { kv_usage, waiting, cached_share, ..Features::default() };
            Candidate { index: 0, features, headroom: None }
        };
        let all = [known(0.5, 4, None), known(0.0, 2, Some(0.7)), known(1.0, 4, None)];
        assert_eq!(scores(&all), [0.17, 0.73, 0.0]);
        assert_eq!(scores(&[known(0.4, 0, None)]), [0.53]);
    }
}
