//! Where a rule takes an instance's load from: polled engine metrics, or what this router counts itself.

use crate::error::{Error, Result};
use crate::policy::Needs;
use crate::state::InstanceState;
use crate::time::Picos;

/// Source of an instance's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The engine's last report, polled at an interval: as other routers ship.
    Reports(Picos),
    /// The events of the requests that this router dispatched.
    OwnEvents,
}

/// Load of an instance, by the names of an engine's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Requests in the engine's queue; by own events those without a first token.
    pub(super) waiting: u32,
    /// Requests in its batch; by own events those with a first token.
    pub(super) running: u32,
    /// Share of its KV cache in use, 0 to 1; by own events all prompts and known outputs in flight.
    pub(super) kv_usage: f64,
    /// Prompt tokens to compute; by own events the uncached ones of the requests without a first token.
    pub(super) queued_prefill_tokens: u64,
}

impl Source {
    /// The source that a rule's options `own_events` and `report_seconds` name.
    ///
    /// # Errors
    /// [`Error::Field`] for an interval that is not positive.
    pub(super) fn new(own_events: bool, report_seconds: f64) -> Result<Self> {
        let interval = Picos::from_seconds(report_seconds).filter(|interval| *interval > Picos::ZERO);
        let interval = interval
            .ok_or_else(|| Error::field("report_seconds", report_seconds, "a positive number of seconds"))?;
        Ok(if own_events { Self::OwnEvents } else { Self::Reports(interval) })
    }

    /// What the router has to keep up to date for it.
    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Reports(interval) => Needs { counts: true, reports: Some(interval), ..Needs::default() },
            Self::OwnEvents => Needs { counts: true, progress: true, ..Needs::default() },
        }
    }

    /// The load of an instance. One that has not reported looks idle, as before the first poll of a real router.
    pub(super) fn load(self, instance: &InstanceState) -> Load {
        match self {
            Self::Reports(_) => instance.report().map_or_else(Load::default, |report| Load {
                waiting: report.waiting,
                running: report.running,
                kv_usage: report.kv_usage,
                queued_prefill_tokens: report.queued_prefill_tokens,
            }),
            Self::OwnEvents => {
                let waiting = instance.awaiting_first_token();
                let usage = instance.context_tokens() as f64 / instance.kv_capacity_tokens() as f64;
                Load {
                    waiting,
                    running: instance.in_flight() - waiting,
                    kv_usage: usage.min(1.0),
                    queued_prefill_tokens: instance.queued_prefill_tokens(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EngineReport;
    use crate::policy::configurable::{Configurable, NoOptions};
    use crate::policy::round_robin::RoundRobin;
    use crate::policy::testing::{Cluster, at, request};

    #[test]
    fn reports_and_own_events_give_the_same_figures_of_the_same_load() {
        let (reports, own) = (Source::new(false, 0.05).unwrap(), Source::new(true, 0.05).unwrap());
        assert_eq!(reports.needs().reports, Some(Picos::MILLISECOND * 50));
        let mut bystander = RoundRobin::new(NoOptions {}, 0).unwrap();
        let mut cluster = Cluster::new(own.needs(), 1);
        let started = cluster.dispatch(&mut bystander, request(1000, 100), 0);
        cluster.dispatch(&mut bystander, request(600, 100), 0);
        cluster.progress(started, 38);
        assert_eq!(reports.load(cluster.instance(0)), Load::default());
        let report = EngineReport {
            at: at(1.0),
            waiting: 1,
            running: 1,
            kv_usage: 1638.0 / f64::from(Cluster::CAPACITY_TOKENS),
            queued_prefill_tokens: 600,
        };
        cluster.report(0, report);
        let load = reports.load(cluster.instance(0));
        assert_eq!((load.waiting, load.running, load.queued_prefill_tokens), (1, 1, 600));
        assert_eq!(load, own.load(cluster.instance(0)));
    }

    #[test]
    fn a_bad_interval_is_named() {
        for seconds in [0.0, -1.0, f64::NAN] {
            let error = Source::new(true, seconds).unwrap_err();
            assert!(error.to_string().contains("report_seconds"), "{error}");
        }
    }
}
