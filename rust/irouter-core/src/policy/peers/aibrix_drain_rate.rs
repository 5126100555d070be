//! `aibrix_drain_rate`: `AIBrix`'s load balance by drain rate.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::request::Request;
use crate::state::InstanceState;
use crate::time::Picos;

use super::load::Source;
use crate::policy::configurable::{Configurable, Scale, Tunable};
use crate::policy::draws::Draws;
use crate::policy::estimate::PerInstance;
use crate::policy::{ClusterView, End, Needs, Policy};

/// Running requests over the rate at which requests complete, as of `AIBrix` PR 2365 (B15 of the peers' list).
///
/// ```text
/// argmin  r / max(completed / window, lowest_rate)        (seconds until the running requests are gone)
/// ```
///
/// * `r`: requests running by the engine's last report, every 50 ms; nothing is added for what was sent since, and
///   waiting ones do not count;
/// * `completed / window`: requests per second that the instance completed in the last `window_seconds`, in steps of a
///   sixtieth of it (1 s), of which the one that is going on does not count. `AIBrix` asks Prometheus for
///   `drain_rate_1m`, which likewise divides by the whole window when there is less history.
///
/// With `own_events` all requests in flight count as running. Ties are broken at random. Lengths and cached prefixes are
/// not known to it.
#[derive(Clone, Debug)]
pub(crate) struct AibrixDrainRate {
    options: AibrixDrainRateOptions,
    source: Source,
    step: Picos,
    draws: Draws,
    completed: PerInstance<Completed>,
}

/// Constants of [`AibrixDrainRate`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AibrixDrainRateOptions {
    /// Seconds over which completed requests are counted: 60.
    pub window_seconds: f64,
    /// Lowest rate in requests per second, so that nothing is divided by zero: 0.01.
    pub lowest_rate: f64,
    /// Seconds between reports: 0.05.
    pub report_seconds: f64,
    /// Whether the router's own counts take the place of reports: false.
    pub own_events: bool,
}

impl Default for AibrixDrainRateOptions {
    fn default() -> Self {
        Self { window_seconds: 60.0, lowest_rate: 0.01, report_seconds: 0.05, own_events: false }
    }
}

/// Steps of a window.
const STEPS: i64 = 60;
/// Counters: a window, and the step that is going on.
const SLOTS: usize = 61;

/// Completed requests of an instance by step, the last of them and a window before it.
#[derive(Clone, Copy, Debug)]
struct Completed {
    counts: [u32; SLOTS],
    newest: i64,
}

impl Default for Completed {
    fn default() -> Self {
        Self { counts: [0; SLOTS], newest: i64::MIN }
    }
}

/// Counter of a step.
#[expect(clippy::cast_possible_truncation, reason = "below SLOTS")]
fn slot(step: i64) -> usize {
    step.rem_euclid(STEPS + 1) as usize
}

impl Completed {
    fn add(&mut self, step: i64) {
        let fresh = step.saturating_sub(self.newest).min(STEPS + 1);
        for passed in 0..fresh {
            self.counts[slot(step - passed)] = 0;
        }
        self.newest = self.newest.max(step);
        let count = &mut self.counts[slot(step)];
        *count = count.saturating_add(1);
    }

    /// Requests completed in the window before a step.
    fn before(&self, step: i64) -> u64 {
        let kept =
            (step - STEPS).max(self.newest.saturating_sub(STEPS))..step.min(self.newest.saturating_add(1));
        kept.map(|step| u64::from(self.counts[slot(step)])).sum()
    }
}

impl AibrixDrainRate {
    fn step_of(&self, now: Picos) -> i64 {
        now.0.div_euclid(self.step.0)
    }

    fn seconds(&self, instance: &InstanceState, now: Picos) -> f64 {
        let running = match self.source {
            Source::Reports(_) => self.source.load(instance).running,
            Source::OwnEvents => instance.in_flight(),
        };
        let completed =
            self.completed.get(instance.id()).map_or(0, |completed| completed.before(self.step_of(now)));
        let rate = completed as f64 / self.options.window_seconds;
        f64::from(running) / rate.max(self.options.lowest_rate)
    }
}

impl Configurable for AibrixDrainRate {
    type Options = AibrixDrainRateOptions;

    const EQUALISED: &'static str = r#"{"own_events": true}"#;
    const TUNABLE: &'static [Tunable] = &[
        Tunable { option: "window_seconds", low: 5.0, high: 600.0, scale: Scale::Logarithmic },
        Tunable { option: "lowest_rate", low: 0.001, high: 10.0, scale: Scale::Logarithmic },
    ];

    fn new(options: AibrixDrainRateOptions, seed: u64) -> Result<Self> {
        let AibrixDrainRateOptions { window_seconds, lowest_rate, .. } = options;
        let step = Picos::from_seconds(window_seconds).map(|window| Picos(window.0 / STEPS));
        let step = step
            .filter(|step| *step > Picos::ZERO)
            .ok_or_else(|| Error::field("window_seconds", window_seconds, "a positive number of seconds"))?;
        if !(lowest_rate.is_finite() && lowest_rate > 0.0) {
            return Err(Error::field("lowest_rate", lowest_rate, "a positive number"));
        }
        let source = Source::new(options.own_events, options.report_seconds)?;
        let (draws, completed) = (Draws::new(seed), PerInstance::default());
        Ok(Self { options, source, step, draws, completed })
    }
}

impl Policy for AibrixDrainRate {
    fn needs(&self) -> Needs {
        self.source.needs()
    }

    fn place(&mut self, view: &ClusterView<'_>, _request: &Request) -> Result<InstanceId> {
        let costs: Vec<f64> = view.ready().map(|instance| self.seconds(instance, view.now)).collect();
        self.draws.lowest_cost(view, costs)
    }

    fn released(&mut self, _request: &Request, instance: InstanceId, end: End) {
        if end.completed {
            let step = self.step_of(end.at);
            self.completed.entry(instance).add(step);
        }
    }

    fn left(&mut self, instance: InstanceId) {
        *self.completed.entry(instance) = Completed::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::testing::{Cluster, at, request};

    fn policy(options: AibrixDrainRateOptions) -> AibrixDrainRate {
        AibrixDrainRate::new(options, 0).unwrap()
    }

    fn complete(cluster: &mut Cluster, policy: &mut AibrixDrainRate, instance: u32, seconds: f64) {
        cluster.set_now(seconds);
        let key = cluster.dispatch(policy, request(10, 10), instance);
        cluster.finish(policy, key);
    }

    #[test]
    fn the_cost_is_running_requests_over_the_rate_of_the_last_minute() {
        let mut policy = policy(AibrixDrainRateOptions::default());
        let mut cluster = Cluster::new(policy.needs(), 1);
        cluster.report(0, EngineReport { at: at(0.0), running: 6, waiting: 99, ..EngineReport::default() });
        let seconds =
            |policy: &AibrixDrainRate, cluster: &Cluster, now| policy.seconds(cluster.instance(0), at(now));
        assert!((seconds(&policy, &cluster, 0.5) - 600.0).abs() < 1e-9, "6 over the lowest rate");
        for second in [10.2, 10.8, 40.5] {
            complete(&mut cluster, &mut policy, 0, second);
        }
        assert!(
            (seconds(&policy, &cluster, 40.9) - 6.0 / (2.0 / 60.0)).abs() < 1e-9,
            "this second does not count"
        );
        assert!((seconds(&policy, &cluster, 41.0) - 6.0 / (3.0 / 60.0)).abs() < 1e-9);
        assert!((seconds(&policy, &cluster, 70.9) - 6.0 / (3.0 / 60.0)).abs() < 1e-9);
        assert!(
            (seconds(&policy, &cluster, 71.0) - 6.0 / (1.0 / 60.0)).abs() < 1e-9,
            "the first two are out"
        );
        assert!((seconds(&policy, &cluster, 500.0) - 600.0).abs() < 1e-9);
        complete(&mut cluster, &mut policy, 0, 1000.0);
        assert!(
            (seconds(&policy, &cluster, 1001.0) - 360.0).abs() < 1e-9,
            "nothing old is left in the counters"
        );
    }

    #[test]
    fn the_instance_that_drains_first_is_chosen_and_a_new_one_has_no_rate() {
        let mut policy = policy(AibrixDrainRateOptions { own_events: true, ..Default::default() });
        let mut cluster = Cluster::new(policy.needs(), 2);
        for (instance, second) in [(0, 1.0), (1, 1.1), (1, 1.2), (1, 1.3)] {
            complete(&mut cluster, &mut policy, instance, second);
        }
        cluster.dispatch(&mut policy, request(10, 10), 0);
        for _ in 0..2 {
            cluster.dispatch(&mut policy, request(10, 10), 1);
        }
        cluster.set_now(5.0);
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 1, "2 / 3 against 1 / 1");
        policy.left(InstanceId(1));
        assert_eq!(cluster.place(&mut policy, &request(10, 10)), 0);
    }

    #[test]
    fn bad_constants_are_named() {
        let default = AibrixDrainRateOptions::default();
        for (options, field) in [
            (AibrixDrainRateOptions { window_seconds: 0.0, ..default }, "window_seconds"),
            (AibrixDrainRateOptions { lowest_rate: 0.0, ..default }, "lowest_rate"),
            (AibrixDrainRateOptions { report_seconds: 0.0, ..default }, "report_seconds"),
        ] {
            let error = AibrixDrainRate::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
