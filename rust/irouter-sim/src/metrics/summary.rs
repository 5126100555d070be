//! The figures of one run.

use std::ops::{Range, RangeInclusive};

use irouter_core::Picos;
use serde::Serialize;

use super::{GapHistogram, Outcome, RequestRecords, Slo, Unloaded, finite, mean, quantiles};
use crate::error::{Result, SimError};
use crate::workload::Workload;

/// A finished run, as it is judged.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// What arrived.
    pub workload: &'a Workload,
    /// What became of each request.
    pub records: &'a RequestRecords,
    /// Gaps between tokens of the whole run.
    pub gaps: &'a GapHistogram,
    /// What each request takes alone.
    pub unloaded: &'a [Unloaded],
    /// The requests that count: those before are warm-up, those after keep the load up until the last of these is done.
    pub measured: Range<usize>,
    /// What goodput counts.
    pub slo: Slo,
    /// Whether clients wait for their answers: those that are through with their measured requests go on, and what they get
    /// until the last measured request is done counts for the rates.
    pub closed_loop: bool,
    /// Decisions of the whole run that the policy failed to make.
    pub policy_failures: u64,
}

/// Figures over the measured requests of one run. Times are in seconds; `None` where no request has the figure.
///
/// Latencies are of completed requests and start at the arrival at the router. Every request is in exactly one of
/// `completed`, `failed`, `aborted` and `dropped`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Mean of E2E, arrival to last token.
    pub e2e_mean_s: Option<f64>,
    /// Median of E2E.
    pub e2e_p50_s: Option<f64>,
    /// 90th percentile of E2E.
    pub e2e_p90_s: Option<f64>,
    /// 99th percentile of E2E.
    pub e2e_p99_s: Option<f64>,
    /// Mean of TTFT, arrival to first token.
    pub ttft_mean_s: Option<f64>,
    /// Median of TTFT.
    pub ttft_p50_s: Option<f64>,
    /// 90th percentile of TTFT.
    pub ttft_p90_s: Option<f64>,
    /// 99th percentile of TTFT.
    pub ttft_p99_s: Option<f64>,
    /// Mean gap between two tokens of a request, stalls and preemptions included.
    pub tbt_mean_s: Option<f64>,
    /// 99th percentile of all gaps of the run (warm-up and tail included), by [`GapHistogram::quantile`].
    pub tbt_p99_s: Option<f64>,
    /// Mean over requests of (E2E - TTFT) / (n - 1), outputs of one token aside.
    pub tpot_mean_s: Option<f64>,
    /// First arrival to last token.
    pub makespan_s: Option<f64>,
    /// Mean of the time held at the router, over requests that were dispatched.
    pub router_wait_mean_s: Option<f64>,
    /// Longest time held at the router.
    pub router_wait_max_s: Option<f64>,
    /// Mean time at the router and in the engine's waiting queue, over requests that were admitted.
    pub queue_wait_mean_s: Option<f64>,
    /// 99th percentile of E2E / E2E alone on an idle instance.
    pub slowdown_p99: Option<f64>,
    /// 99th percentile of E2E by quartile of output length (of all measured requests), shortest first.
    pub e2e_p99_by_output_quartile_s: [Option<f64>; 4],
    /// How often a request lost its KV blocks.
    pub preemptions: u64,
    /// Tokens produced by completed requests per second of makespan; in a closed loop by all that complete within it.
    pub throughput_tok_s: Option<f64>,
    /// Share of requests, those aborted by their clients aside, that met the SLO.
    pub goodput: Option<f64>,
    /// Requests per second of makespan that met the SLO; in a closed loop of all that complete within it.
    pub goodput_rps: Option<f64>,
    /// Requests whose last token came.
    pub completed: u64,
    /// Requests rejected, timed out or lost.
    pub failed: u64,
    /// Requests whose client went away.
    pub aborted: u64,
    /// Requests left out because they can never run.
    pub dropped: u64,
    /// Decisions of the whole run that the policy failed to make, so that the least predicted work made them.
    pub policy_failures: u64,
}

impl Summary {
    /// Computes the figures.
    ///
    /// # Errors
    /// [`SimError::Field`] when `measured` is empty or the columns differ in length, [`SimError::Row`] for a measured request
    /// that has not ended, [`SimError::NotFinite`] for a figure that is no number.
    pub fn new(run: &Run<'_>) -> Result<Self> {
        let rows = run.workload.len();
        if run.measured.is_empty() || run.measured.end > rows {
            let expected = format!("a part of 0..{rows} that is not empty");
            return Err(SimError::field("measured", format!("{:?}", run.measured), expected));
        }
        for (field, found) in [("records", run.records.len()), ("unloaded", run.unloaded.len())] {
            if found != rows {
                return Err(SimError::Columns { field, found, expected: rows });
            }
        }
        let mut tally = Tally::default();
        let quartiles = output_quartiles(&run.workload.output_tokens()[run.measured.clone()]);
        for row in run.measured.clone() {
            tally.add(run, row, &quartiles)?;
        }
        let summary = tally.summary(run);
        for (key, value) in summary.figures() {
            value.map(|value| finite(key, value)).transpose()?;
        }
        Ok(summary)
    }

    /// Every figure that is a single number, by its key, in the order of the report.
    pub fn figures(&self) -> [(&'static str, Option<f64>); 25] {
        let count = |number: u64| Some(number as f64);
        [
            ("e2e_mean_s", self.e2e_mean_s),
            ("e2e_p50_s", self.e2e_p50_s),
            ("e2e_p90_s", self.e2e_p90_s),
            ("e2e_p99_s", self.e2e_p99_s),
            ("ttft_mean_s", self.ttft_mean_s),
            ("ttft_p50_s", self.ttft_p50_s),
            ("ttft_p90_s", self.ttft_p90_s),
            ("ttft_p99_s", self.ttft_p99_s),
            ("tbt_mean_s", self.tbt_mean_s),
            ("tbt_p99_s", self.tbt_p99_s),
            ("tpot_mean_s", self.tpot_mean_s),
            ("makespan_s", self.makespan_s),
            ("router_wait_mean_s", self.router_wait_mean_s),
            ("router_wait_max_s", self.router_wait_max_s),
            ("queue_wait_mean_s", self.queue_wait_mean_s),
            ("slowdown_p99", self.slowdown_p99),
            ("preemptions", count(self.preemptions)),
            ("throughput_tok_s", self.throughput_tok_s),
            ("goodput", self.goodput),
            ("goodput_rps", self.goodput_rps),
            ("completed", count(self.completed)),
            ("failed", count(self.failed)),
            ("aborted", count(self.aborted)),
            ("dropped", count(self.dropped)),
            ("policy_failures", count(self.policy_failures)),
        ]
    }
}

/// Upper ends of the first three quartiles of the output lengths.
fn output_quartiles(outputs: &[u32]) -> [f64; 3] {
    let mut lengths: Vec<f64> = outputs.iter().copied().map(f64::from).collect();
    quantiles(&mut lengths, [0.25, 0.5, 0.75]).unwrap_or_default()
}

/// What is gathered over the measured requests.
#[derive(Default)]
struct Tally {
    e2e: Vec<f64>,
    ttft: Vec<f64>,
    tpot: Vec<f64>,
    slowdown: Vec<f64>,
    e2e_by_quartile: [Vec<f64>; 4],
    router_wait: Vec<f64>,
    queue_wait: Vec<f64>,
    decode_picos: i128,
    decode_gaps: u64,
    last_token: Option<Picos>,
    tokens: u64,
    met: u64,
    preemptions: u64,
    completed: u64,
    failed: u64,
    aborted: u64,
    dropped: u64,
}

impl Tally {
    fn add(&mut self, run: &Run<'_>, row: usize, quartiles: &[f64; 3]) -> Result<()> {
        let records = run.records;
        self.preemptions += u64::from(records.preemptions[row]);
        let known = |time: Picos| (time != RequestRecords::NEVER).then_some(time);
        if let Some(dispatched) = known(records.dispatched[row]) {
            let held = dispatched - records.arrival[row];
            self.router_wait.push(held.as_seconds());
            if let Some(admitted) = known(records.admitted[row]) {
                let queued = admitted - records.reached_engine[row];
                self.queue_wait.push((held + queued).as_seconds());
            }
        }
        match records.outcome[row] {
            Outcome::Open => {
                let expected = "ended; the run stopped before the last measured request";
                return Err(SimError::row(row, "outcome", "open", expected));
            }
            Outcome::Completed => self.complete(run, row, quartiles),
            Outcome::Failed => self.failed += 1,
            Outcome::Aborted => self.aborted += 1,
            Outcome::Dropped => self.dropped += 1,
        }
        Ok(())
    }

    fn complete(&mut self, run: &Run<'_>, row: usize, quartiles: &[f64; 3]) {
        let (arrival, finished) = (run.records.arrival[row], run.records.finished[row]);
        let output = run.workload.output_tokens()[row];
        let alone = &run.unloaded[row];
        let (e2e, ttft) = (finished - arrival, run.records.first_token[row] - arrival);
        self.completed += 1;
        self.tokens += u64::from(output);
        self.last_token = self.last_token.max(Some(finished));
        self.met += u64::from(run.slo.met(ttft, e2e, output, alone));
        self.e2e.push(e2e.as_seconds());
        self.ttft.push(ttft.as_seconds());
        self.slowdown.push(e2e.as_seconds() / alone.e2e.as_seconds());
        let quartile = quartiles.iter().filter(|&&end| f64::from(output) > end).count();
        self.e2e_by_quartile[quartile].push(e2e.as_seconds());
        if output > 1 {
            self.decode_picos += i128::from((e2e - ttft).0);
            self.decode_gaps += u64::from(output - 1);
            self.tpot.push((e2e - ttft).as_seconds() / f64::from(output - 1));
        }
    }

    fn summary(mut self, run: &Run<'_>) -> Summary {
        const LEVELS: [f64; 3] = [0.5, 0.9, 0.99];
        let arrivals = &run.records.arrival[run.measured.clone()];
        let first_arrival = arrivals.iter().copied().min().unwrap_or_default();
        let makespan = self.last_token.map(|last| (last - first_arrival).as_seconds());
        let per_second = |amount: u64| makespan.map(|seconds| amount as f64 / seconds);
        let (tokens, met) = match self.last_token {
            Some(last) if run.closed_loop => completed_within(run, first_arrival..=last),
            _ => (self.tokens, self.met),
        };
        let judged = self.completed + self.failed + self.dropped;
        let (e2e_mean_s, ttft_mean_s) = (mean(&self.e2e), mean(&self.ttft));
        let [e2e_p50_s, e2e_p90_s, e2e_p99_s] = split(quantiles(&mut self.e2e, LEVELS));
        let [ttft_p50_s, ttft_p90_s, ttft_p99_s] = split(quantiles(&mut self.ttft, LEVELS));
        let p99 = |values: &mut [f64]| quantiles(values, [0.99]).map(|[value]| value);
        Summary {
            e2e_mean_s,
            e2e_p50_s,
            e2e_p90_s,
            e2e_p99_s,
            ttft_mean_s,
            ttft_p50_s,
            ttft_p90_s,
            ttft_p99_s,
            tbt_mean_s: (self.decode_gaps > 0)
                .then(|| self.decode_picos as f64 / self.decode_gaps as f64 * 1e-12),
            tbt_p99_s: run.gaps.quantile(0.99).map(Picos::as_seconds),
            tpot_mean_s: mean(&self.tpot),
            makespan_s: makespan,
            router_wait_mean_s: mean(&self.router_wait),
            router_wait_max_s: self.router_wait.iter().copied().max_by(f64::total_cmp),
            queue_wait_mean_s: mean(&self.queue_wait),
            slowdown_p99: p99(&mut self.slowdown),
            e2e_p99_by_output_quartile_s: self.e2e_by_quartile.each_mut().map(|values| p99(values)),
            preemptions: self.preemptions,
            throughput_tok_s: per_second(tokens),
            goodput: (judged > 0).then(|| self.met as f64 / judged as f64),
            goodput_rps: per_second(met),
            completed: self.completed,
            failed: self.failed,
            aborted: self.aborted,
            dropped: self.dropped,
            policy_failures: run.policy_failures,
        }
    }
}

/// Tokens of all requests, measured or not, that completed within `period`, and how many of them met the SLO.
fn completed_within(run: &Run<'_>, period: RangeInclusive<Picos>) -> (u64, u64) {
    let records = run.records;
    let completed = (0..records.len())
        .filter(|&row| records.outcome[row] == Outcome::Completed && period.contains(&records.finished[row]));
    completed.fold((0, 0), |(tokens, met), row| {
        let output = run.workload.output_tokens()[row];
        let (ttft, e2e) =
            (records.first_token[row] - records.arrival[row], records.finished[row] - records.arrival[row]);
        (tokens + u64::from(output), met + u64::from(run.slo.met(ttft, e2e, output, &run.unloaded[row])))
    })
}

fn split<const N: usize>(values: Option<[f64; N]>) -> [Option<f64>; N] {
    values.map_or([None; N], |values| values.map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WorkloadColumns;

    fn seconds(value: f64) -> Picos {
        Picos::from_seconds(value).unwrap()
    }

    struct Example {
        workload: Workload,
        records: RequestRecords,
        gaps: GapHistogram,
        unloaded: Vec<Unloaded>,
    }

    /// Six requests, one a second, that wait 0.5 s at the router, 0.25 s in the engine's queue, and 0.25 s for their first
    /// token, then take a second per token; the first five alone would take a third of that.
    fn example() -> Example {
        let outputs = [1, 2, 3, 4, 5, 6];
        let arrival: Vec<Picos> = (0..6).map(|index| seconds(f64::from(index))).collect();
        let mut records = RequestRecords::new(&arrival);
        let mut gaps = GapHistogram::new();
        let mut unloaded = Vec::new();
        for (row, &output) in outputs.iter().enumerate() {
            records.dispatched[row] = arrival[row] + seconds(0.5);
            records.reached_engine[row] = arrival[row] + seconds(0.501);
            records.admitted[row] = arrival[row] + seconds(0.751);
            records.first_token[row] = arrival[row] + seconds(1.0);
            records.finished[row] = arrival[row] + seconds(f64::from(output));
            records.outcome[row] = Outcome::Completed;
            gaps.record(output - 1, Picos::SECOND);
            unloaded.push(Unloaded { ttft: seconds(0.25), e2e: seconds(0.25 * f64::from(output)) });
        }
        let workload = Workload::new(WorkloadColumns {
            arrival,
            prompt_tokens: vec![10; 6],
            output_tokens: outputs.to_vec(),
            ..WorkloadColumns::default()
        });
        Example { workload: workload.unwrap(), records, gaps, unloaded }
    }

    impl Example {
        fn run(&self, measured: Range<usize>) -> Run<'_> {
            let Self { workload, records, gaps, unloaded } = self;
            Run {
                workload,
                records,
                gaps,
                unloaded,
                measured,
                slo: Slo::default(),
                closed_loop: false,
                policy_failures: 0,
            }
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "small binary fractions are exact")]
    fn figures_follow_their_definitions() {
        let summary = Summary::new(&example().run(0..6)).unwrap();
        assert_eq!(summary.e2e_mean_s, Some(3.5));
        assert_eq!(summary.e2e_p50_s, Some(3.5));
        assert!((summary.e2e_p90_s.unwrap() - 5.5).abs() < 1e-12);
        assert_eq!((summary.ttft_mean_s, summary.ttft_p99_s), (Some(1.0), Some(1.0)));
        assert_eq!(
            (summary.tbt_mean_s, summary.tbt_p99_s, summary.tpot_mean_s),
            (Some(1.0), Some(1.0), Some(1.0))
        );
        assert_eq!((summary.makespan_s, summary.slowdown_p99), (Some(11.0), Some(4.0)));
        assert_eq!((summary.router_wait_mean_s, summary.router_wait_max_s), (Some(0.5), Some(0.5)));
        assert_eq!(summary.queue_wait_mean_s, Some(0.75));
        // Quartiles of 1..6 end at 2.25, 3.5 and 4.75: {1, 2}, {3}, {4}, {5, 6}.
        let tail = summary.e2e_p99_by_output_quartile_s.map(|value| (value.unwrap() * 100.0).round() / 100.0);
        assert_eq!(tail, [1.99, 3.0, 4.0, 5.99]);
        assert_eq!((summary.throughput_tok_s, summary.goodput), (Some(21.0 / 11.0), Some(1.0)));
        assert_eq!((summary.completed, summary.preemptions), (6, 0));
    }

    #[test]
    fn only_measured_requests_count() {
        let summary = Summary::new(&example().run(1..3)).unwrap();
        assert_eq!((summary.e2e_mean_s, summary.makespan_s, summary.completed), (Some(2.5), Some(4.0), 2));
    }

    #[test]
    fn the_rates_of_a_closed_loop_count_all_that_completes_while_it_is_measured() {
        let example = example();
        let open = Summary::new(&example.run(1..3)).unwrap();
        let closed = Summary::new(&Run { closed_loop: true, ..example.run(1..3) }).unwrap();
        // From the arrival at 1 s until the last token at 5 s; the request before them, of one token, ends at 1 s.
        assert_eq!((open.throughput_tok_s, closed.throughput_tok_s), (Some(5.0 / 4.0), Some(6.0 / 4.0)));
        assert_eq!((open.goodput_rps, closed.goodput_rps), (Some(2.0 / 4.0), Some(3.0 / 4.0)));
        assert_eq!((open.goodput, open.e2e_mean_s), (closed.goodput, closed.e2e_mean_s));
    }

    #[test]
    fn every_request_ends_in_one_count_and_failures_miss_the_slo() {
        let mut example = example();
        let records = &mut example.records;
        records.outcome[1..4].copy_from_slice(&[Outcome::Failed, Outcome::Aborted, Outcome::Dropped]);
        records.dispatched[3] = RequestRecords::NEVER;
        records.preemptions[1] = 2;
        let summary = Summary::new(&example.run(0..6)).unwrap();
        assert_eq!((summary.completed, summary.failed, summary.aborted, summary.dropped), (3, 1, 1, 1));
        // Three met it, of the five whose client stayed.
        assert_eq!((summary.goodput, summary.preemptions), (Some(0.6), 2));
        assert_eq!(summary.goodput_rps, Some(3.0 / 11.0));
        assert_eq!(summary.e2e_p99_by_output_quartile_s[1], None);
    }

    #[test]
    fn figures_without_a_request_are_null() {
        let mut example = example();
        example.records.outcome.fill(Outcome::Failed);
        let summary = Summary::new(&example.run(0..6)).unwrap();
        assert_eq!((summary.e2e_mean_s, summary.makespan_s, summary.goodput), (None, None, Some(0.0)));
    }

    #[test]
    fn an_open_request_and_a_bad_range_are_errors() {
        let mut example = example();
        assert!(Summary::new(&example.run(4..7)).is_err());
        example.records.outcome[2] = Outcome::Open;
        assert_eq!(
            Summary::new(&example.run(0..6)).unwrap_err().to_string(),
            "row 2 (counted from 0): `outcome` is open, expected ended; the run stopped before the last measured request"
        );
        assert!(Summary::new(&example.run(3..6)).is_ok());
    }

    #[test]
    fn the_report_lists_the_figures_by_their_keys() {
        let summary = Summary::new(&example().run(0..6)).unwrap();
        let json = serde_json::to_value(&summary).unwrap();
        for (key, value) in summary.figures() {
            assert_eq!(json[key].as_f64(), value, "{key}");
        }
        assert_eq!(json.as_object().unwrap().len(), summary.figures().len() + 1, "and the quartiles");
    }
}
