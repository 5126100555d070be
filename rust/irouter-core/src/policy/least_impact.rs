//! `least_impact`: the least latency impact.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hash::mix;
use crate::ids::InstanceId;
use crate::impact::{Candidate, Estimator, Form, Lengths};
use crate::request::Request;

use super::configurable::Configurable;
use super::estimate::least_work_first;
use super::{ClusterView, Needs, Policy};

/// The least latency impact: what the request takes itself and what it costs those who are there.
///
/// ```text
/// argmin  own E2E + delay inflicted on the residents, summed        (seconds)
/// ```
///
/// Both are those of [`crate::impact`], in the form that `form` names: `linear` (the paper's gradients), `forecast` or
/// `fast_forward`, the latter at mean lengths, or on average over `samples` draws of all lengths. The request goes at once.
/// Only the `max_instances` with the least predicted work are looked at, the first of which wins ties.
pub(crate) struct LeastImpact {
    max_instances: u32,
    estimator: Estimator,
}

/// Constants of [`LeastImpact`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LeastImpactOptions {
    /// How the impact is estimated: `forecast`.
    pub form: Form,
    /// Runs of each twin with `fast_forward`, at lengths drawn from the predictions: 0, one at mean lengths instead.
    pub samples: u32,
    /// Instances looked at for a decision: 16.
    pub max_instances: u32,
}

impl Default for LeastImpactOptions {
    fn default() -> Self {
        Self { form: Form::default(), samples: 0, max_instances: 16 }
    }
}

impl Configurable for LeastImpact {
    type Options = LeastImpactOptions;

    fn new(options: LeastImpactOptions, seed: u64) -> Result<Self> {
        let LeastImpactOptions { form, samples, max_instances } = options;
        if max_instances == 0 {
            return Err(Error::field("max_instances", 0, "at least 1"));
        }
        if samples > 0 && form != Form::FastForward {
            return Err(Error::field("samples", samples, "0, or the form fast_forward"));
        }
        let mut estimator = Estimator::new(form);
        if samples > 0 {
            let lengths = (0..samples).map(|number| Lengths::Drawn(mix(seed, number.into())));
            estimator = estimator.with_lengths(lengths.collect());
        }
        Ok(Self { max_instances, estimator })
    }
}

impl Policy for LeastImpact {
    fn needs(&self) -> Needs {
        Estimator::NEEDS
    }

    fn place(&mut self, view: &ClusterView<'_>, request: &Request) -> Result<InstanceId> {
        let shortlist = least_work_first(view, request, self.max_instances);
        let mut chosen = shortlist.first().ok_or_else(|| view.no_instance())?.id();
        let candidate = Candidate::new(request);
        let mut least = f64::INFINITY;
        // Alone there is nothing to compare.
        for instance in shortlist.iter().filter(|_| shortlist.len() > 1) {
            if instance.holds(request).is_ok() {
                let impact = self.estimator.impact(view.state(), instance, &candidate, view.now)?;
                let cost = impact.e2e_seconds + impact.inflicted_seconds;
                if cost < least {
                    (chosen, least) = (instance.id(), cost);
                }
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Cluster, request, with_blocks};

    fn policy(form: Form) -> LeastImpact {
        LeastImpact::new(LeastImpactOptions { form, ..Default::default() }, 0).unwrap()
    }

    const FORMS: [Form; 3] = [Form::Linear, Form::Forecast, Form::FastForward];

    #[test]
    fn a_request_goes_where_it_costs_the_least() {
        for form in FORMS {
            let mut policy = policy(form);
            let mut cluster = Cluster::new(policy.needs(), 2);
            // A step takes 1 ms a request: five are slower than two, and more of them are delayed.
            for (instance, count) in [(0, 5), (1, 2)] {
                for _ in 0..count {
                    cluster.dispatch(&mut policy, request(10, 500), instance);
                }
            }
            assert_eq!(cluster.place(&mut policy, &request(10, 100)), 1, "{form:?}");
        }
    }

    #[test]
    fn a_cached_prefix_lowers_the_impact_in_every_form() {
        for form in FORMS {
            let mut policy = policy(form);
            let mut cluster = Cluster::new(policy.needs(), 2);
            let turn = with_blocks(4096, 10, 1);
            let first = cluster.dispatch(&mut policy, turn.clone(), 1);
            cluster.set_now(1.0);
            cluster.finish(&mut policy, first);
            assert_eq!(cluster.place(&mut policy, &turn), 1, "{form:?}");
            assert_eq!(cluster.place(&mut policy, &with_blocks(4096, 10, 2)), 0, "{form:?}");
        }
    }

    #[test]
    fn those_who_are_there_count_by_what_they_are_delayed() {
        // Its own end is later on 0, beside one more; on 1 a prompt of 2,000 tokens delays seven by 0.2 s each.
        for form in [Form::Forecast, Form::FastForward] {
            let mut policy = policy(form);
            let mut cluster = Cluster::new(policy.needs(), 2);
            cluster.dispatch(&mut policy, request(6000, 100), 0);
            for _ in 0..7 {
                cluster.dispatch(&mut policy, request(1, 50), 1);
            }
            cluster.set_now(0.02);
            let own = request(2000, 2);
            let [there, here] = [0, 1].map(|instance| {
                let view = cluster.view();
                let instance = cluster.instance(instance);
                let mut estimator = Estimator::new(form);
                estimator.impact(view.state(), instance, &Candidate::new(&own), view.now).unwrap()
            });
            assert!(there.e2e_seconds > here.e2e_seconds, "{form:?}");
            assert_eq!(cluster.place(&mut policy, &own), 0, "{form:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_looked_at() {
        let mut policy = policy(Form::Forecast);
        let cluster = Cluster::new(policy.needs(), 2);
        assert!(cluster.try_place(&mut policy, &request(Cluster::CAPACITY_TOKENS + 1, 10)).is_ok());
    }

    #[test]
    fn bad_constants_are_named() {
        let default = LeastImpactOptions::default();
        for (options, field) in [
            (LeastImpactOptions { max_instances: 0, ..default }, "max_instances"),
            (LeastImpactOptions { samples: 4, ..default }, "samples"),
        ] {
            let error = LeastImpact::new(options, 0).err().unwrap();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
