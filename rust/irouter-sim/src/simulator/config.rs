//! What a run is made of.

use std::ops::Range;
use std::sync::Arc;

use irouter_core::engine::EngineConfig;
use irouter_core::profile::Scale;
use irouter_core::{Picos, RouterConfig};

use crate::error::{Result, SimError};
use crate::workload::Sequels;

/// One run of one policy.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Instances of the cluster.
    pub instances: u32,
    /// What their engines are.
    pub engine: Arc<EngineConfig>,
    /// What the router believes them to be.
    pub router_engine: Arc<EngineConfig>,
    /// Name of the policy, for errors.
    pub policy_name: String,
    /// Seed of the disturbances.
    pub seed: u64,
    /// Seed of the step-time noise, the same for every policy that is compared.
    pub noise_seed: u64,
    /// Step-time noise.
    pub noise: NoiseLevels,
    /// Rules of the router.
    pub router: RouterConfig,
    /// Delays between router and engines.
    pub delays: Delays,
    /// Interval of engine reports in place of the policy's own, for policies that read reports.
    pub staleness: Option<Picos>,
    /// Rows that are measured: the run ends when the last of them has.
    pub measured: Range<usize>,
    /// Which requests follow which, in place of the workload's arrivals: for its conversations, and for clients that wait.
    pub sequels: Option<Arc<Sequels>>,
    /// Clients that go away.
    pub aborts: Option<Aborts>,
    /// Share of the requests whose end the router is never told.
    pub leak_share: f64,
    /// Instances that break and come back. One that is away cannot break again.
    pub crashes: Vec<Crash>,
    /// Instances that are slower than their profile.
    pub slow: Vec<Slow>,
    /// When queues and KV use are read.
    pub readings: Option<Readings>,
}

/// Standard deviations of the logarithm of step times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NoiseLevels {
    /// Per 250 ms of engine time.
    pub slice_sigma: f64,
    /// Per instance.
    pub instance_sigma: f64,
}

/// Delays between router and engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// From a decision until the request is in the engine's queue.
    pub dispatch: Picos,
    /// From something happening in the engine until the router knows.
    pub event: Picos,
}

/// Readings of queues and KV use at even intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readings {
    /// How many.
    pub count: u32,
    /// When the last one is due.
    pub until: Picos,
}

/// Clients that go away before their answer is complete.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aborts {
    /// Share of the requests.
    pub share: f64,
}

/// An instance that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Which.
    pub instance: u32,
    /// When.
    pub at: Picos,
    /// For how long it is away.
    pub down: Picos,
}

impl Crash {
    /// When the instance is back: not before the router knows that it broke.
    pub(super) fn back(self, event_delay: Picos) -> Picos {
        self.at.saturating_add(self.down.max(event_delay))
    }
}

/// An instance whose steps take longer, or shorter, than its profile says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Which.
    pub instance: u32,
    /// Factor on its step times; factors that hold at the same time multiply.
    pub factor: Scale,
    /// From when, to within a step.
    pub at: Picos,
    /// For how long; `None` for the rest of the run.
    pub down: Option<Picos>,
}

impl RunConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.instances == 0 {
            return Err(SimError::field("instances", 0, "at least 1"));
        }
        let delays = [("dispatch_delay_s", self.delays.dispatch), ("event_delay_s", self.delays.event)];
        let named = delays.into_iter().chain(self.staleness.map(|staleness| ("staleness_s", staleness)));
        for (field, delay) in named {
            if delay < Picos::ZERO {
                return Err(SimError::field(field, delay.as_seconds(), "zero or more"));
            }
        }
        if self.staleness == Some(Picos::ZERO) {
            // A report at every instant is what the policy's own events already are, one event delay old.
            return Err(SimError::field("staleness_s", 0, "a positive interval"));
        }
        let shares = [
            ("leaks.share", self.leak_share),
            ("aborts.share", self.aborts.map_or(0.0, |aborts| aborts.share)),
        ];
        for (field, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(SimError::field(field, share, "a share from 0 to 1"));
            }
        }
        for crash in &self.crashes {
            self.validate_outage("crashes", crash.instance, crash.at, crash.down)?;
        }
        self.validate_crashes_apart()?;
        for slow in &self.slow {
            self.validate_outage("slow", slow.instance, slow.at, slow.down.unwrap_or(Picos::MAX))?;
        }
        Ok(())
    }

    /// A second crash of an instance that is away would end with the first one's return.
    fn validate_crashes_apart(&self) -> Result<()> {
        let mut crashes = self.crashes.clone();
        crashes.sort_by_key(|crash| (crash.instance, crash.at));
        for pair in crashes.windows(2) {
            let (before, crash) = (pair[0], pair[1]);
            let back = before.back(self.delays.event);
            if crash.instance == before.instance && crash.at <= back {
                let value = format!("at {} on instance {}", crash.at, crash.instance);
                let expected =
                    format!("a time after {back}, when the instance is back from its crash at {}", before.at);
                return Err(SimError::field("crashes", value, expected));
            }
        }
        Ok(())
    }

    fn validate_outage(&self, field: &str, instance: u32, at: Picos, down: Picos) -> Result<()> {
        if instance >= self.instances {
            let expected = format!("an instance from 0 to {}", self.instances - 1);
            return Err(SimError::field(format!("{field}.instance"), instance, expected));
        }
        if at < Picos::ZERO || down <= Picos::ZERO {
            let value = format!("at {at}, down {down}");
            return Err(SimError::field(field, value, "a time from 0 and a positive duration"));
        }
        Ok(())
    }
}
