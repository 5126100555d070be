//! `litellm_latency`: the `latency-based-routing` strategy of the `LiteLLM` router.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::time::Picos;

use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::estimate::PerInstance;
use crate::policy::{ClusterView, End, Needs, Policy};

/// `LiteLLM`'s `latency-based-routing`, as of `litellm` 1.109 with its in-memory cache (B22 of the peers' list).
///
/// ```text
/// latency  =  mean of the last `samples` completed requests of the instance
/// any instance with  latency <= (1 + buffer) x lowest latency, at random
/// ```
///
/// * `measure` `per_token`: seconds from dispatch to completion per output token, what `LiteLLM` takes when responses are
///   not streamed; `first_token`: seconds from dispatch to the first token, what it takes when they are. Either is known once
///   the request has completed, so that it tells of the past and not of what was sent since;
/// * an instance without samples has latency 0 and is tried first.
///
/// Two effects of its cache are kept: per token, an instance without samples at a decision after the first completion gets
/// a sample of 0, which stays among its last; and `memory_seconds` after the first completion all samples are dropped.
///
/// Failed and cancelled requests leave no sample (`LiteLLM` adds 1,000 s for those that time out, which is not known here).
/// Ties are broken at random, as in `LiteLLM`. Load, prompt and output lengths are not known to it.
#[derive(Clone, Debug)]
pub(crate) struct LitellmLatency {
    options: LitellmLatencyOptions,
    memory: Picos,
    draws: Draws,
    /// When the samples that are there began.
    since: Option<Picos>,
    samples: PerInstance<VecDeque<f64>>,
    /// Requests in flight by their numbers.
    sent: BTreeMap<u64, Sent>,
}

/// Constants of [`LitellmLatency`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LitellmLatencyOptions {
    /// What is measured: `per_token`.
    pub measure: Measure,
    /// Share above the lowest latency that is as good as it: 0.
    pub buffer: f64,
    /// Completed requests that the mean is taken over: 10.
    pub samples: u32,
    /// Seconds after which all samples are dropped: 3,600.
    pub memory_seconds: f64,
}

/// The latency of a completed request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Seconds until it completed, per output token.
    #[default]
    PerToken,
    /// Seconds until its first token.
    FirstToken,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Picos,
    first_token: Option<Picos>,
}

impl Default for LitellmLatencyOptions {
    fn default() -> Self {
        Self { measure: Measure::PerToken, buffer: 0.0, samples: 10, memory_seconds: 3600.0 }
    }
}

impl LitellmLatency {
    fn latency(&self, instance: InstanceId) -> f64 {
        let samples = self.samples.get(instance).filter(|samples| !samples.is_empty());
        samples.map_or(0.0, |samples| samples.iter().sum::<f64>() / samples.len() as f64)
    }

    /// Drops samples that are too old, all at once.
    fn expire(&mut self, now: Picos) {
        if self.since.is_some_and(|since| now.0.saturating_sub(since.0) > self.memory.0) {
            self.since = None;
            self.samples = PerInstance::default();
        }
    }

    /// Latency of a completed request in seconds.
    fn measured(&self, sent: Sent, end: End) -> f64 {
        match self.options.measure {
            Measure::PerToken => (end.at - sent.at).as_seconds() / f64::from(end.tokens.max(1)),
            Measure::FirstToken => (sent.first_token.unwrap_or(end.at) - sent.at).as_seconds(),
        }
    }
}

impl Configurable for LitellmLatency {
    type Options = LitellmLatencyOptions;

    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "buffer", low: 0.0, high: 2.0, scale: Scale::Linear },
        Tunable { option: "samples", low: 1.0, high: 200.0, scale: Scale::Count },
    ];

    fn new(options: LitellmLatencyOptions, seed: u64) -> Result<Self> {
        let LitellmLatencyOptions { buffer, samples, memory_seconds, .. } = options;
        if !(buffer.is_finite() && buffer >= 0.0) {
            return Err(Error::field("buffer", buffer, "zero or more"));
        }
        if samples == 0 {
            return Err(Error::field("samples", 0, "at least 1"));
        }
        let memory = Picos::from_seconds(memory_seconds).filter(|memory| *memory > Picos::ZERO);
        let memory = memory
            .ok_or_else(|| Error::field("memory_seconds", memory_seconds, "a positive number of seconds"))?;
        Ok(Self {
            options,
            memory,
            draws: Draws::new(seed),
            since: None,
            samples: PerInstance::default(),
            sent: BTreeMap::new(),
        })
    }
}

impl Policy for LitellmLatency {
    fn needs(&self) -> Needs {
        Needs { counts: true, ..Needs::default() }
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        self.expire(view.now);
        if self.since.is_some() && self.options.measure == Measure::PerToken {
            for instance in view.ready() {
                let samples = self.samples.entry(instance.id());
                if samples.is_empty() {
                    samples.push_back(0.0);
                }
            }
        }
        let latencies: Vec<f64> = view.ready().map(|instance| self.latency(instance.id())).collect();
        let lowest = latencies.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = lowest + self.options.buffer * lowest;
        let mut is_worse = latencies.into_iter().map(|latency| latency > highest);
        self.draws.lowest(view, |_| f64::from(u8::from(is_worse.next().unwrap_or(true))))
    }

    fn dispatched(&mut self, request: &Request, _instance: InstanceId, now: Picos) {
        self.sent.insert(request.id, Sent { at: now, first_token: None });
    }

    fn first_token(&mut self, request: &Request, _instance: InstanceId, now: Picos) {
        if let Some(sent) = self.sent.get_mut(&request.id) {
            sent.first_token = Some(now);
        }
    }

    fn released(&mut self, request: &Request, instance: InstanceId, end: End) {
        let Some(sent) = self.sent.remove(&request.id).filter(|_| end.completed) else { return };
        let seconds = self.measured(sent, end);
        self.expire(end.at);
        self.since.get_or_insert(end.at);
        let samples = self.samples.entry(instance);
        if samples.len() >= self.options.samples as usize {
            samples.pop_front();
        }
        samples.push_back(seconds);
    }

    fn left(&mut self, instance: InstanceId) {
        self.samples.entry(instance).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, at, request};

    fn policy(options: LitellmLatencyOptions) -> LitellmLatency {
        LitellmLatency::new(options, 0).unwrap()
    }

    /// A request that is sent at zero and completes after so many seconds with so many tokens.
    fn complete(
        policy: &mut LitellmLatency,
        cluster: &mut Cluster,
        instance: u32,
        seconds: f64,
        tokens: u32,
    ) {
        let request = request(100, tokens);
        cluster.dispatch(policy, request.clone(), instance);
        let end = End { at: at(seconds), tokens, completed: true };
        policy.released(&request, InstanceId(instance), end);
    }

    fn latency(policy: &LitellmLatency, instance: u32) -> f64 {
        policy.latency(InstanceId(instance))
    }

    #[test]
    fn the_mean_seconds_per_token_of_the_last_requests_decide() {
        let mut policy = policy(LitellmLatencyOptions { samples: 2, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        for (instance, seconds) in [(0, 30.0), (1, 20.0), (0, 10.0)] {
            complete(&mut policy, &mut cluster, instance, seconds, 10);
        }
        assert!((latency(&policy, 0) - 2.0).abs() < 1e-12 && (latency(&policy, 1) - 2.0).abs() < 1e-12);
        complete(&mut policy, &mut cluster, 0, 15.0, 10);
        assert!((latency(&policy, 0) - 1.25).abs() < 1e-12, "the oldest of three is gone");
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 0);
        complete(&mut policy, &mut cluster, 1, 1.0, 0);
        complete(&mut policy, &mut cluster, 1, 1.2, 1);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1, "no token counts as one");
    }

    #[test]
    fn an_instance_without_samples_is_tried_first_and_keeps_a_sample_of_zero() {
        let mut policy = policy(LitellmLatencyOptions { samples: 3, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        complete(&mut policy, &mut cluster, 0, 1.0, 10);
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 1);
        complete(&mut policy, &mut cluster, 1, 4.0, 10);
        assert!((latency(&policy, 1) - 0.2).abs() < 1e-12, "the mean of 0 and 0.4");
        complete(&mut policy, &mut cluster, 1, 4.0, 10);
        complete(&mut policy, &mut cluster, 1, 4.0, 10);
        assert!((latency(&policy, 1) - 0.4).abs() < 1e-12, "0 is no longer among the last three");
        policy.left(InstanceId(0));
        assert!(latency(&policy, 0).abs() < 1e-12);
    }

    #[test]
    fn first_tokens_count_once_the_request_has_completed() {
        let options = LitellmLatencyOptions { measure: Measure::FirstToken, ..Default::default() };
        let mut policy = policy(options);
        let mut cluster = Cluster::new(policy.needs(), 2);
        let keys = [0, 1].map(|instance| {
            let request = Request { id: u64::from(instance), ..request(100, 10) };
            cluster.dispatch(&mut policy, request, instance)
        });
        for (key, seconds) in keys.into_iter().zip([2.0, 3.0]) {
            cluster.set_now(seconds);
            cluster.first_token(&mut policy, key);
        }
        assert!(latency(&policy, 0).abs() < 1e-12);
        cluster.set_now(60.0);
        for key in keys {
            cluster.finish(&mut policy, key);
        }
        assert!((latency(&policy, 0) - 2.0).abs() < 1e-12 && (latency(&policy, 1) - 3.0).abs() < 1e-12);
        assert!(policy.sent.is_empty());
        assert_eq!(cluster.place(&mut policy, &request(1, 1)), 0);
    }

    #[test]
    fn instances_within_the_buffer_share_what_comes() {
        let mut policy = policy(LitellmLatencyOptions { buffer: 0.5, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 3);
        for (instance, seconds) in [(0, 10.0), (1, 15.0), (2, 15.1)] {
            complete(&mut policy, &mut cluster, instance, seconds, 10);
        }
        let mut counts = [0_u32; 3];
        for _ in 0..1000 {
            counts[cluster.place(&mut policy, &request(1, 1)) as usize] += 1;
        }
        // A binomial of 1,000 fair draws lies within 2.58 standard deviations (41) at 1 %.
        assert!(counts[0].abs_diff(500) < 41 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn failures_leave_no_sample_and_old_samples_go_together() {
        let mut policy = policy(LitellmLatencyOptions { memory_seconds: 60.0, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 1);
        let failed = End { at: at(50.0), tokens: 1, completed: false };
        cluster.dispatch(&mut policy, request(100, 10), 0);
        policy.released(&request(100, 10), InstanceId(0), failed);
        assert!(latency(&policy, 0).abs() < 1e-12);
        complete(&mut policy, &mut cluster, 0, 10.0, 10);
        complete(&mut policy, &mut cluster, 0, 70.0, 10);
        assert!((latency(&policy, 0) - 4.0).abs() < 1e-12, "60 s after the first");
        cluster.set_now(70.5);
        cluster.place(&mut policy, &request(1, 1));
        assert!(latency(&policy, 0).abs() < 1e-12);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = LitellmLatencyOptions::default();
        for (options, field) in [
            (LitellmLatencyOptions { buffer: -0.1, ..default }, "buffer"),
            (LitellmLatencyOptions { samples: 0, ..default }, "samples"),
            (LitellmLatencyOptions { memory_seconds: f64::INFINITY, ..default }, "memory_seconds"),
        ] {
            let error = LitellmLatency::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
