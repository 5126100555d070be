//! What a learned policy sees: pairs of a waiting request and an instance, as numbers without units.
//!
//! The live router, the simulator and training all call [`Observer::observe`], so that what is trained is what runs.

mod features;
mod field;
mod outlook;
mod site;
mod sketch;

pub use features::{COUNT, FEATURES, VERSION};

use crate::ids::{InstanceId, RequestKey};
use crate::request::Request;
use crate::state::InstanceState;

use super::estimate::PerInstance;
use super::{ClusterView, QueueView, Waiting};
use field::{Candidate, Crowd, Field, OF_REQUEST};
use site::{Cost, Site};
use sketch::{InstanceSketch, RequestSketch};

/// Waiting requests that are looked at in the policy's order.
const FIRST: usize = 6;
/// And those that have waited longest, whatever their place.
const SENIORS: usize = 2;
/// The most requests in an observation.
pub const CANDIDATES: usize = FIRST + SENIORS;
/// Requests over which the mean service is taken.
const MEAN_OF: f32 = 64.0;
/// Instances that are looked at: those with the least predicted work.
pub const INSTANCES: usize = 16;

/// What there is to choose from, written anew by each [`Observer::observe`].
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// The requests.
    pub requests: Vec<RequestKey>,
    /// The instances, by ascending number.
    pub instances: Vec<InstanceId>,
    /// Which of the instances have no request in flight.
    pub idle: Vec<bool>,
    /// [`FEATURES`] of each pair, the instances of the first request first.
    pub pairs: Vec<[f32; COUNT]>,
    /// Whether the instance of the pair can ever hold the request.
    pub fits: Vec<bool>,
    /// Until the first token of the pair's request, if it went now.
    pub ttft_seconds: Vec<f32>,
}

/// Makes observations; keeps what does not change between them.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    /// By ledger slot, with its generation.
    requests: Vec<Option<(u32, RequestSketch)>>,
    instances: PerInstance<InstanceSketch>,
    sites: Vec<Site>,
    meetings: Vec<Meeting>,
    /// Service of the mean request, over about the last [`MEAN_OF`] that were new.
    mean_service_seconds: f32,
    observation: Observation,
}

/// A request on an instance.
#[derive(Clone, Copy, Debug)]
struct Meeting {
    overflow: f32,
    work_seconds: f32,
    uncached: f32,
    delay: f32,
    cost: Cost,
}

impl Observer {
    /// Looks at the shortlist of the queue on the instances with the least predicted work.
    #[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
    pub fn observe(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>) {
        let mut candidates = Vec::with_capacity(CANDIDATES);
        for Waiting { key, request, effort } in queue.shortlist(FIRST, SENIORS) {
            // A few: a set would cost more.
            if candidates.iter().all(|before: &Candidate<'_>| before.key != Some(key)) {
                let effort_seconds = effort.occupancy_seconds as f32;
                candidates.push(Candidate { key: Some(key), request, effort_seconds });
            }
        }
        let crowd = Crowd { requests: queue.len() as f32, effort_seconds: queue.waiting_seconds() as f32 };
        self.look(view, &candidates, crowd);
    }

    /// The same for one request that is not in the queue, as if it were alone there.
    #[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
    pub fn observe_request(&mut self, view: &ClusterView<'_>, request: &Request) {
        let effort_seconds =
            view.instances.first().map_or(0.0, |instance| instance.rates().occupancy_seconds(request) as f32);
        let candidate = Candidate { key: None, request, effort_seconds };
        self.look(view, &[candidate], Crowd { requests: 1.0, effort_seconds });
    }

    fn look(&mut self, view: &ClusterView<'_>, candidates: &[Candidate<'_>], crowd: Crowd) {
        self.find_sites(view);
        self.observation.requests.clear();
        self.observation.pairs.clear();
        self.observation.fits.clear();
        self.observation.ttft_seconds.clear();
        let sketches: Vec<_> = candidates.iter().map(|candidate| self.sketch(view, candidate)).collect();
        if let Some(field) = Field::new(view, &self.sites, candidates, crowd, self.mean_service_seconds) {
            for (candidate, sketch) in candidates.iter().zip(sketches) {
                self.observation.requests.extend(candidate.key);
                let own = field.of_request(view, candidate, &sketch);
                self.add_pairs(view, candidate, &sketch, own, &field);
            }
        }
    }

    /// What was observed last.
    pub fn latest(&self) -> &Observation {
        &self.observation
    }

    /// Service of the mean request: prefill and expected decode time on a full instance.
    pub fn mean_service_seconds(&self) -> f32 {
        self.mean_service_seconds
    }

    /// A request went to an instance.
    pub fn dispatched(&mut self, request: &Request, instance: InstanceId) {
        self.instances.entry(instance).add(request);
    }

    /// A request left an instance, or the instance left.
    pub fn released(&mut self, instance: InstanceId) {
        self.instances.entry(instance).forget();
    }

    /// Chooses the instances and looks at each once.
    fn find_sites(&mut self, view: &ClusterView<'_>) {
        let Self { instances, sites, observation, .. } = self;
        let mut ready: Vec<&InstanceState> = view.ready().collect();
        if ready.len() > INSTANCES {
            let work = |instance: &&InstanceState| (instance.work_seconds(), instance.id());
            ready.select_nth_unstable_by(INSTANCES, |left, right| {
                let (left, right) = (work(left), work(right));
                left.0.total_cmp(&right.0).then(left.1.cmp(&right.1))
            });
            ready.truncate(INSTANCES);
            ready.sort_unstable_by_key(|instance| instance.id());
        }
        sites.clear();
        sites.extend(ready.iter().map(|instance| Site::new(view, instance, instances.entry(instance.id()))));
        observation.instances.clear();
        observation.instances.extend(sites.iter().map(|site| site.id));
        observation.idle.clear();
        observation.idle.extend(ready.iter().map(|instance| instance.in_flight() == 0));
    }

    /// What is kept of a request, worked out where it is new.
    fn sketch(&mut self, view: &ClusterView<'_>, candidate: &Candidate<'_>) -> RequestSketch {
        // Efforts and service times are in the time of the first instance, as the queue's are.
        let Some(first) = view.instances.first() else { return RequestSketch::default() };
        let (rates, block_tokens) = (first.rates(), first.config().kv.block_tokens);
        let mean = &mut self.mean_service_seconds;
        let mut new = || {
            let sketch = RequestSketch::new(candidate.request, rates, block_tokens);
            let share = if *mean == 0.0 { 1.0 } else { 1.0 / MEAN_OF };
            *mean += share * (sketch.service_seconds - *mean);
            sketch
        };
        let Some(key) = candidate.key else { return new() };
        if self.requests.len() <= key.index() {
            self.requests.resize(key.index() + 1, None);
        }
        match &mut self.requests[key.index()] {
            Some((generation, sketch)) if *generation == key.generation => *sketch,
            place => place.insert((key.generation, new())).1,
        }
    }

    /// Adds the features of a request on each site.
    fn add_pairs(
        &mut self,
        view: &ClusterView<'_>,
        candidate: &Candidate<'_>,
        sketch: &RequestSketch,
        own: [f32; OF_REQUEST],
        field: &Field,
    ) {
        let Self { sites, meetings, observation, .. } = self;
        meetings.clear();
        let request = candidate.request;
        let scale = field.mean_work_seconds + sketch.service_seconds;
        let prompt = request.prompt_tokens as f32;
        meetings.extend(sites.iter().map(|site| {
            let instance = &view.instances[site.id.index()];
            let cached = instance.cached_tokens(request.prompt_tokens, request.prompt_blocks.as_deref());
            let uncached = request.prompt_tokens.saturating_sub(cached) as f32;
            let prefill_seconds = uncached * site.prefill_seconds_per_token;
            observation.fits.push(instance.holds(request).is_ok());
            let cost = site.cost(request.prompt_tokens, cached, sketch);
            observation.ttft_seconds.push(cost.ttft_seconds);
            Meeting {
                overflow: site.overflow_with(sketch),
                work_seconds: site.work_seconds + prefill_seconds,
                uncached: uncached / prompt,
                delay: (prefill_seconds * site.in_flight / scale).min(4.0),
                cost,
            }
        }));
        let least = |of: fn(&Meeting) -> f32| meetings.iter().map(of).fold(f32::MAX, f32::min);
        let least_overflow = least(|meeting| meeting.overflow);
        let least_work = least(|meeting| meeting.work_seconds);
        let least_uncached = least(|meeting| meeting.uncached);
        let least_delay = least(|meeting| meeting.delay);
        let least_inflicted = least(|meeting| meeting.cost.inflicted_seconds);
        let least_e2e = least(|meeting| meeting.cost.e2e_seconds);
        let least_stall = least(|meeting| meeting.cost.stall_seconds);
        let waited = candidate.waited_seconds(view);
        let in_services = |seconds: f32| seconds / field.mean_service_seconds;
        observation.pairs.extend(sites.iter().zip(meetings.iter()).map(|(site, meeting)| {
            let mut pair = [0.0; COUNT];
            let Cost { ttft_seconds, e2e_seconds, inflicted_seconds, stall_seconds } = meeting.cost;
            let start = in_services(waited + ttft_seconds).min(8.0);
            let (of_request, of_pair) = pair.split_at_mut(OF_REQUEST);
            of_request.copy_from_slice(&own);
            of_pair.copy_from_slice(&[
                meeting.overflow,
                site.overflow,
                meeting.overflow.max(0.0),
                meeting.overflow - least_overflow,
                (sketch.tokens / site.capacity_tokens).min(1.0),
                (site.in_flight / site.slots).min(2.0),
                (site.in_flight + 1.0 - site.slots).clamp(0.0, 8.0),
                ((site.in_flight - field.in_flight) / (1.0 + field.mean_in_flight)).min(4.0),
                ((meeting.work_seconds - least_work) / scale).min(4.0),
                site.prefill,
                site.prefill - field.prefill,
                meeting.uncached - least_uncached,
                meeting.delay,
                meeting.delay - least_delay,
                site.slowness - field.slowness,
                libm::log1pf(in_services(inflicted_seconds)),
                in_services(inflicted_seconds - least_inflicted).min(16.0),
                in_services(e2e_seconds - least_e2e).min(16.0),
                in_services(stall_seconds - least_stall).min(16.0),
                start,
                0.125 * start * start,
            ]);
            pair
        }));
    }
}

#[cfg(test)]
mod tests;
