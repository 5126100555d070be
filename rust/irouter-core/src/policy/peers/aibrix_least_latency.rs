//! `aibrix_least_latency`: `AIBrix`'s `least-latency`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::load::Source;
use crate::policy::configurable::Configurable;
use crate::policy::draws::Draws;
use crate::policy::estimate::{PerInstance, expected_output_tokens};
use crate::policy::{ClusterView, End, Needs, Policy};

/// The least expected latency by the past of each instance, as of `AIBrix` 0.7 (B14 of the peers' list).
///
/// ```text
/// argmin  queue  +  prefill / P x guess P  +  decode / G x guess G        (seconds)
/// ```
///
/// * `queue`, `prefill`, `decode`: mean seconds that the completed requests of the instance spent waiting, until their first
///   token, and from there to their end, since the instance started;
/// * `P`, `G`: their mean prompt and output tokens;
/// * `guess P`, `guess G`: the mean of those of all instances; 10 and 100 tokens while there are none. Every request is
///   taken to be alike: neither its prompt nor its output is looked at.
///
/// `AIBrix` reads the means from the histograms of the engine's `/metrics` every `report_seconds`. Here they come from the
/// events of the same requests. A router does not see when a prefill begins: of the time until the first token the prefill
/// is what the profile says for the prompt, at most all of it, and the rest is queue. An instance without completed
/// requests costs nothing, so that it is tried first. What is in flight is not known to the rule: an instance is chosen
/// until its slow requests have completed.
///
/// With `own_events` the means are those of the moment, and with `predicted_lengths` this request's own prompt and
/// predicted mean output are the guesses. Ties are broken at random.
#[derive(Clone, Debug)]
pub(crate) struct AibrixLeastLatency {
    options: AibrixLeastLatencyOptions,
    source: Source,
    draws: Draws,
    records: PerInstance<Record>,
    /// The multiple of the interval at which the histograms were read last.
    tick: i64,
}

/// Constants of [`AibrixLeastLatency`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AibrixLeastLatencyOptions {
    /// Seconds between two reads of the histograms: 0.05.
    pub report_seconds: f64,
    /// Whether the histograms are read at every decision: false.
    pub own_events: bool,
    /// Whether a request's own prompt and predicted output take the place of the fleet's means: false.
    pub predicted_lengths: bool,
}

impl Default for AibrixLeastLatencyOptions {
    fn default() -> Self {
        Self { report_seconds: 0.05, own_events: false, predicted_lengths: false }
    }
}

/// Prompt and output tokens of a request as long as nothing has completed.
const COLD_GUESS: [f64; 2] = [10.0, 100.0];

/// What is remembered of an instance.
#[derive(Clone, Debug, Default)]
struct Record {
    /// Requests in flight by the caller's number: when they went out, and when their first token came.
    open: BTreeMap<u64, (Picos, Option<Picos>)>,
    live: Sums,
    /// The sums as they were read last.
    read: Sums,
}

/// Sums over the completed requests of an instance.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: f64,
    first_token_seconds: f64,
    decode_seconds: f64,
    prompt_tokens: f64,
    output_tokens: f64,
}

impl AibrixLeastLatency {
    /// Reads the histograms when an interval has passed: called before anything is added to them.
    fn read(&mut self, now: Picos) {
        let Source::Reports(interval) = self.source else { return };
        let tick = now.0.div_euclid(interval.0);
        if tick != self.tick {
            self.tick = tick;
            self.records.values_mut().for_each(|record| record.read = record.live);
        }
    }

    /// What the rule knows of an instance's past; `None` before the first completed request.
    fn past(&self, instance: InstanceId) -> Option<&Sums> {
        let record = self.records.get(instance)?;
        let sums = match self.source {
            Source::Reports(_) => &record.read,
            Source::OwnEvents => &record.live,
        };
        (sums.requests > 0.0).then_some(sums)
    }

    /// Prompt and output tokens that the request is taken to have.
    fn guess(&self, view: &ClusterView<'_>, request: &Request) -> [f64; 2] {
        if self.options.predicted_lengths {
            return [f64::from(request.prompt_tokens), expected_output_tokens(request)];
        }
        let pasts = || view.ready().filter_map(|instance| self.past(instance.id()));
        let count = pasts().count() as f64;
        if count == 0.0 {
            return COLD_GUESS;
        }
        let prompts: f64 = pasts().map(|sums| sums.prompt_tokens / sums.requests).sum();
        let outputs: f64 = pasts().map(|sums| sums.output_tokens / sums.requests).sum();
        [prompts / count, outputs / count]
    }

    fn seconds(&self, instance: &InstanceState, [prompt, output]: [f64; 2]) -> f64 {
        let Some(sums) = self.past(instance.id()) else { return 0.0 };
        let modelled = instance.rates().seconds(sums.prompt_tokens, 0.0);
        let prefill = sums.first_token_seconds.min(modelled);
        (sums.first_token_seconds - prefill) / sums.requests
            + prefill / sums.prompt_tokens * prompt
            + sums.decode_seconds / sums.output_tokens * output
    }
}

impl Configurable for AibrixLeastLatency {
    type Options = AibrixLeastLatencyOptions;

    const EQUALISED: &'static str = r#"{"own_events": true, "predicted_lengths": true}"#;

    fn new(options: AibrixLeastLatencyOptions, seed: u64) -> Result<Self> {
        let source = Source::new(options.own_events, options.report_seconds)?;
        let (draws, records) = (Draws::new(seed), PerInstance::default());
        Ok(Self { options, source, draws, records, tick: i64::MIN })
    }
}

impl Policy for AibrixLeastLatency {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        self.read(view.now);
        let guess = self.guess(view, request);
        let costs: Vec<f64> = view.ready().map(|instance| self.seconds(instance, guess)).collect();
        self.draws.lowest_cost(view, costs)
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        self.records.entry(instance).open.insert(request.id, (now, None));
    }

    fn first_token(&mut self, request: &Request, instance: InstanceId, now: Picos) {
        if let Some((_, first)) = self.records.entry(instance).open.get_mut(&request.id) {
            *first = Some(now);
        }
    }

    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        self.read(end.at);
        let record = self.records.entry(instance);
        if let Some((sent, Some(first))) = record.open.remove(&request.id)
            && end.completed
        {
            let sums = &mut record.live;
            sums.requests += 1.0;
            sums.first_token_seconds += (first - sent).as_seconds();
            sums.decode_seconds += (end.at - first).as_seconds();
            sums.prompt_tokens += f64::from(request.prompt_tokens);
            // A request that is done has produced a token, even where nobody counted.
            sums.output_tokens += f64::from(end.tokens.max(1));
        }
    }

    fn left(&mut self, instance: InstanceId) {
        *self.records.entry(instance) = Record::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, assert_close, request};

    fn policy(own_events: bool, predicted_lengths: bool) -> AibrixLeastLatency {
        let options = AibrixLeastLatencyOptions { own_events, predicted_lengths, ..Default::default() };
        AibrixLeastLatency::new(options, 0).unwrap()
    }

    /// A request from `start` on, whose first token comes after `first` seconds and whose 10 tokens after `all`.
    fn serve(
        cluster: &mut Cluster,
        policy: &mut AibrixLeastLatency,
        instance: u32,
        prompt_tokens: u32,
        [start, first, all]: [f64; 3],
    ) {
        cluster.set_now(start);
        let key = cluster.dispatch(policy, request(prompt_tokens, 10), instance);
        cluster.set_now(start + first);
        cluster.first_token(policy, key);
        cluster.progress(key, 10);
        cluster.set_now(start + all);
        cluster.finish(policy, key);
    }

    #[test]
    fn the_past_is_queue_prefill_and_decode_per_token() {
        let mut policy = policy(true, true);
        let mut cluster = Cluster::new(policy.needs(), 2);
        // 1,000 prompt tokens take 0.1 s by the profile: 0.3 s of 0.4 s are queue.
        serve(&mut cluster, &mut policy, 0, 1000, [1.0, 0.4, 2.4]);
        let seconds = |guess| policy.seconds(cluster.instance(0), guess);
        assert!((seconds([0.0, 0.0]) - 0.3).abs() < 1e-9);
        assert!((seconds([500.0, 20.0]) - (0.3 + 0.05 + 4.0)).abs() < 1e-9);
        assert!(
            seconds([0.0, 0.0]) > policy.seconds(cluster.instance(1), [500.0, 20.0]),
            "no past costs nothing"
        );
        // 0.05 s are less than the profile's: all prefill.
        serve(&mut cluster, &mut policy, 1, 1000, [10.0, 0.05, 1.05]);
        assert!((policy.seconds(cluster.instance(1), [2000.0, 10.0]) - 1.1).abs() < 1e-9);
    }

    #[test]
    fn lengths_are_guessed_from_the_fleet_or_taken_from_the_request() {
        let mut shipped = policy(false, false);
        let mut cluster = Cluster::new(shipped.needs(), 2);
        let own = request(70, 30);
        let guess = |policy: &AibrixLeastLatency, cluster: &Cluster| policy.guess(&cluster.view(), &own);
        assert_close(guess(&shipped, &cluster), COLD_GUESS);
        serve(&mut cluster, &mut shipped, 0, 1000, [1.0, 0.4, 2.4]);
        cluster.place(&mut shipped, &own);
        // Within the interval.
        assert_close(guess(&shipped, &cluster), COLD_GUESS);
        serve(&mut cluster, &mut shipped, 1, 200, [4.0, 0.4, 2.4]);
        assert_close(guess(&shipped, &cluster), [1000.0, 10.0]);
        cluster.set_now(6.5);
        cluster.place(&mut shipped, &own);
        assert_close(guess(&shipped, &cluster), [600.0, 10.0]);
        let predicted = expected_output_tokens(&own);
        assert_close(guess(&policy(false, true), &cluster), [70.0, predicted]);
    }

    #[test]
    fn an_instance_is_chosen_until_its_slow_requests_complete() {
        let mut policy = policy(false, false);
        let mut cluster = Cluster::new(policy.needs(), 2);
        serve(&mut cluster, &mut policy, 0, 100, [1.0, 0.1, 1.0]);
        serve(&mut cluster, &mut policy, 1, 100, [3.0, 0.1, 0.9]);
        cluster.set_now(5.0);
        for _ in 0..10 {
            assert_eq!(cluster.route(&mut policy, request(100, 10)), 1);
        }
        serve(&mut cluster, &mut policy, 1, 100, [6.0, 0.1, 9.0]);
        cluster.set_now(16.0);
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 0);
        policy.left(InstanceId(1));
        assert_eq!(cluster.place(&mut policy, &request(100, 10)), 1, "it starts without a past");
        assert!(policy.records.get(InstanceId(1)).unwrap().open.is_empty());
    }

    #[test]
    fn a_bad_interval_is_named() {
        let options = AibrixLeastLatencyOptions { report_seconds: 0.0, ..Default::default() };
        let error = AibrixLeastLatency::new(options, 0).err().unwrap();
        assert!(error.to_string().contains("report_seconds"), "{error}");
    }
}
