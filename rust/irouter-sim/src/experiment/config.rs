//! An experiment as it is written down: the one source of configuration, read from JSON.

use std::collections::BTreeMap;

use irouter_core::policy::PolicySpec;
use irouter_core::profile::Scale;
use irouter_core::{OnFailure, Picos, Profile, RouterConfig, TenantId};
use serde::Deserialize;

use crate::error::{Result, SimError};
use crate::metrics::Slo;
use crate::prediction::Confusion;
use crate::simulator::{Aborts, Crash, Delays, NoiseLevels, Slow};
use crate::workload::{ArrivalSpec, Clients, LengthSpec};

use super::router_profile::{ProfileError, RouterProfile};

/// A comparison of policies on the same arrivals.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name of the scenario.
    pub name: String,
    /// Instances of the cluster, all alike.
    pub instances: u32,
    /// What the instances are.
    pub profile: Profile,
    /// KV blocks per instance, in place of the profile's.
    #[serde(default)]
    pub kv_blocks: Option<u32>,
    /// What the router believes the instances to be.
    #[serde(default)]
    pub router_profile: RouterProfile,
    /// How far that is off.
    #[serde(default)]
    pub router_profile_error: Option<ProfileError>,
    /// What arrives.
    pub workload: WorkloadSource,
    /// Arrivals per second, in place of the trace's own rate.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Arrivals as a share of the cluster's saturation, in place of a rate.
    #[serde(default)]
    pub load: Option<f64>,
    /// Clients that wait for their answers, in place of arrivals at a rate.
    #[serde(default)]
    pub clients: Option<ClientPlan>,
    /// Measured arrivals per run.
    #[serde(default)]
    pub requests: Option<usize>,
    /// Leave out requests that cannot fit the profile's context, and count them.
    #[serde(default)]
    pub drop_too_long: bool,
    /// The policies to compare.
    pub policies: Vec<PolicySpec>,
    /// How many seeds (windows of a trace, draws of a generator).
    #[serde(default = "one")]
    pub seeds: u64,
    /// The first seed.
    #[serde(default)]
    pub first_seed: u64,
    /// Run these of the seeds alone (`start` to before `end`), as the part of the whole experiment that they are.
    #[serde(default)]
    pub only_seeds: Option<std::ops::Range<u64>>,
    /// Where predicted output lengths come from.
    pub predictor: String,
    /// The measured matrix of `confusion:PATH`.
    #[serde(default)]
    pub confusion: Option<Confusion>,
    /// Noise of step times per 250 ms, as a standard deviation of the logarithm.
    #[serde(default)]
    pub step_noise: f64,
    /// The same per instance.
    #[serde(default)]
    pub instance_noise: f64,
    /// Seconds from a decision until the engine has the request.
    #[serde(default = "default_delay")]
    pub dispatch_delay_s: f64,
    /// Seconds from something happening in an engine until the router knows.
    #[serde(default = "default_delay")]
    pub event_delay_s: f64,
    /// Seconds between engine reports, in place of what each policy asks for.
    #[serde(default)]
    pub staleness_s: Option<f64>,
    /// What goodput counts.
    #[serde(default)]
    pub slo: SloLimits,
    /// Clients that go away.
    #[serde(default)]
    pub aborts: Option<Share>,
    /// Requests whose end the router is never told.
    #[serde(default)]
    pub leaks: Option<Share>,
    /// Instances that break and come back.
    #[serde(default)]
    pub crashes: Vec<CrashPlan>,
    /// Instances that are slower than their profile.
    #[serde(default)]
    pub slow: Vec<SlowPlan>,
    /// The longest that a request may be held while an engine has room, in seconds; unbounded without it.
    #[serde(default)]
    pub max_hold_s: Option<f64>,
    /// The most predicted work of the cluster, in seconds, that may overtake a request.
    #[serde(default = "default_overtaking")]
    pub overtaking_s: f64,
    /// Shares of tenants, by number.
    #[serde(default)]
    pub tenant_weights: BTreeMap<u32, f64>,
    /// Whether engines keep prefix blocks, in place of the profile's setting.
    #[serde(default)]
    pub prefix_cache: Option<bool>,
}

/// What arrives.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum WorkloadSource {
    /// A trace, given beside the experiment.
    Trace {
        /// Arrivals are quantised to ticks of this many seconds, and spread evenly within.
        #[serde(default)]
        spread_arrivals_s: Option<f64>,
    },
    /// Generated requests.
    Generated {
        /// When they arrive; without a word, Poisson. Clients have no use for it.
        #[serde(default)]
        arrivals: ArrivalSpec,
        /// How long they are.
        lengths: LengthSpec,
    },
}

/// A closed loop of clients.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    /// How many.
    pub count: u32,
    /// Mean seconds between the end of a client's request and its next one.
    pub think_time_s: f64,
}

/// Constant limits of the SLO in seconds, in place of the default's multiples of the unloaded times.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SloLimits {
    /// On TTFT.
    #[serde(default)]
    pub ttft_s: Option<f64>,
    /// On the mean TPOT of a request.
    #[serde(default)]
    pub tpot_s: Option<f64>,
}

/// A share of the requests.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// From 0 to 1.
    pub share: f64,
}

/// An instance that breaks.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrashPlan {
    /// Which instance.
    pub instance: u32,
    /// When, in seconds from the start.
    pub at_s: f64,
    /// For how many seconds it is away.
    pub down_s: f64,
}

/// An instance that is slower than its profile, or faster.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowPlan {
    /// Which instance.
    pub instance: u32,
    /// Factor on its step times.
    pub factor: f64,
    /// From when, in seconds from the start.
    #[serde(default)]
    pub at_s: f64,
    /// For how many seconds; for the rest of the run without it.
    #[serde(default)]
    pub down_s: Option<f64>,
}

fn one() -> u64 {
    1
}

fn default_delay() -> f64 {
    0.001
}

fn default_overtaking() -> f64 {
    RouterConfig::default().overtaking_seconds
}

impl Experiment {
    /// Reads and validates an experiment.
    ///
    /// # Errors
    /// [`SimError::Schema`] for JSON that is no experiment, [`SimError::Field`] for a value out of range.
    pub fn from_json(text: &str) -> Result<Self> {
        let experiment: Self = serde_json::from_str(text)
            .map_err(|error| SimError::Schema { what: "experiment", message: error.to_string() })?;
        experiment.profile.validate()?;
        let positive = [("rate", experiment.rate), ("load", experiment.load)];
        for (field, value) in
            positive.into_iter().filter_map(|(field, value)| value.map(|value| (field, value)))
        {
            if !(value.is_finite() && value > 0.0) {
                return Err(SimError::field(field, value, "a positive number"));
            }
        }
        if experiment.rate.is_some() && experiment.load.is_some() {
            return Err(SimError::field("load", "given with `rate`", "one of the two"));
        }
        if experiment.clients.is_some() && (experiment.rate.is_some() || experiment.load.is_some()) {
            let expected = "one of the two: clients ask when they have their answers";
            return Err(SimError::field("clients", "given with a rate or a load", expected));
        }
        if let Some(error) = &experiment.router_profile_error {
            error.validate()?;
        }
        for (field, noise) in
            [("step_noise", experiment.step_noise), ("instance_noise", experiment.instance_noise)]
        {
            if !(0.0..=1.0).contains(&noise) {
                return Err(SimError::field(field, noise, "a number from 0 to 1"));
            }
        }
        for (field, count) in [
            ("instances", u64::from(experiment.instances)),
            ("kv_blocks", u64::from(experiment.kv_blocks.unwrap_or(1))),
            ("requests", experiment.requests.unwrap_or(1) as u64),
            ("seeds", experiment.seeds),
            ("clients.count", experiment.clients.map_or(1, |clients| u64::from(clients.count))),
        ] {
            if count == 0 {
                return Err(SimError::field(field, 0, "at least 1"));
            }
        }
        if let Some(part) = &experiment.only_seeds {
            let all = experiment.seed_numbers();
            if part.is_empty() || part.start < all.start || part.end > all.end {
                return Err(SimError::field("only_seeds", format!("{part:?}"), format!("a part of {all:?}")));
            }
        }
        if experiment.policies.is_empty() {
            return Err(SimError::field("policies", "empty", "at least one policy"));
        }
        Ok(experiment)
    }

    /// The seeds, first to last.
    pub(super) fn seed_numbers(&self) -> std::ops::Range<u64> {
        self.first_seed..self.first_seed + self.seeds
    }

    /// Those of the seeds that are to be run.
    pub(super) fn seeds_to_run(&self) -> std::ops::Range<u64> {
        self.only_seeds.clone().unwrap_or_else(|| self.seed_numbers())
    }

    /// Whether arrivals come at another rate than the trace's.
    pub(super) fn changes_rate(&self) -> bool {
        self.rate.is_some() || self.load.is_some()
    }

    /// The instances' profile with the experiment's own settings.
    pub(super) fn engine_profile(&self) -> Profile {
        let mut profile = self.profile.clone();
        profile.kv.blocks = self.kv_blocks.unwrap_or(profile.kv.blocks);
        profile.kv.prefix_cache = self.prefix_cache.unwrap_or(profile.kv.prefix_cache);
        profile
    }

    pub(super) fn delays(&self) -> Result<Delays> {
        Ok(Delays {
            dispatch: seconds("dispatch_delay_s", self.dispatch_delay_s)?,
            event: seconds("event_delay_s", self.event_delay_s)?,
        })
    }

    pub(super) fn staleness(&self) -> Result<Option<Picos>> {
        self.staleness_s.map(|value| seconds("staleness_s", value)).transpose()
    }

    pub(super) fn noise(&self) -> NoiseLevels {
        NoiseLevels { slice_sigma: self.step_noise, instance_sigma: self.instance_noise }
    }

    pub(super) fn aborts(&self) -> Option<Aborts> {
        self.aborts.map(|Share { share }| Aborts { share })
    }

    pub(super) fn crashes(&self) -> Result<Vec<Crash>> {
        let crash = |plan: &CrashPlan| {
            Ok(Crash {
                instance: plan.instance,
                at: seconds("crashes.at_s", plan.at_s)?,
                down: seconds("crashes.down_s", plan.down_s)?,
            })
        };
        self.crashes.iter().map(crash).collect()
    }

    pub(super) fn slow(&self) -> Result<Vec<Slow>> {
        let slow = |plan: &SlowPlan| {
            let expected = "a factor from 1/1024 to 1024";
            Ok(Slow {
                instance: plan.instance,
                factor: Scale::new(plan.factor)
                    .ok_or_else(|| SimError::field("slow.factor", plan.factor, expected))?,
                at: seconds("slow.at_s", plan.at_s)?,
                down: plan.down_s.map(|down| seconds("slow.down_s", down)).transpose()?,
            })
        };
        self.slow.iter().map(slow).collect()
    }

    pub(super) fn clients(&self) -> Result<Option<Clients>> {
        let clients = |plan: ClientPlan| {
            let think_time = seconds("clients.think_time_s", plan.think_time_s)?;
            Ok(Clients { count: plan.count, think_time })
        };
        self.clients.map(clients).transpose()
    }

    pub(super) fn slo(&self) -> Result<Slo> {
        let mut slo = Slo::default();
        if let Some(seconds) = self.slo.ttft_s {
            (slo.ttft_seconds, slo.ttft_factor) = (seconds, 0.0);
        }
        if let Some(seconds) = self.slo.tpot_s {
            (slo.tpot_seconds, slo.tpot_factor) = (seconds, 0.0);
        }
        slo.validate()?;
        Ok(slo)
    }

    pub(super) fn router(&self) -> Result<RouterConfig> {
        Ok(RouterConfig {
            max_hold: self.max_hold_s.map(|value| seconds("max_hold_s", value)).transpose()?,
            overtaking_seconds: self.overtaking_s,
            tenant_weights: self
                .tenant_weights
                .iter()
                .map(|(&tenant, &weight)| (TenantId(tenant), weight))
                .collect(),
            dispatch_delay: seconds("dispatch_delay_s", self.dispatch_delay_s)?,
            // A policy that fails in a comparison must not look right.
            on_failure: OnFailure::Stop,
            ..RouterConfig::default()
        })
    }
}

/// A time of zero or more.
pub(super) fn seconds(field: &'static str, value: f64) -> Result<Picos> {
    Picos::from_seconds(value)
        .filter(|&time| time >= Picos::ZERO)
        .ok_or_else(|| SimError::field(field, value, "a number of seconds, zero or more"))
}
