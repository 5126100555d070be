//! All candidates and instances of one decision, against which each is measured.

use crate::ids::RequestKey;
use crate::policy::ClusterView;
use crate::request::Request;

use super::site::Site;
use super::sketch::RequestSketch;

/// Services of the mean request in which patience is measured.
const PATIENCE: f32 = 8.0;

/// A request that is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// In the queue.
    pub(super) key: Option<RequestKey>,
    pub(super) request: &'a Request,
    pub(super) effort_seconds: f32,
}

/// What waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    pub(super) requests: f32,
    pub(super) effort_seconds: f32,
}

impl Candidate<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "features have 32 bits")]
    pub(super) fn waited_seconds(&self, view: &ClusterView<'_>) -> f32 {
        (view.now - self.request.arrival).as_seconds().max(0.0) as f32
    }
}

/// The least of some measures among the sites, and means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) in_flight: f32,
    pub(super) prefill: f32,
    pub(super) slowness: f32,
    pub(super) mean_in_flight: f32,
    pub(super) mean_work_seconds: f32,
    pub(super) longest_wait_seconds: f32,
    pub(super) mean_service_seconds: f32,
    pub(super) least_effort_seconds: f32,
    pub(super) backlog_seconds: f32,
    pub(super) waiting: f32,
}

/// Features that only depend on the request and the queue.
pub(super) const OF_REQUEST: usize = 19;

impl Field {
    /// `None` when nothing is ready.
    pub(super) fn new(
        view: &ClusterView<'_>,
        sites: &[Site],
        candidates: &[Candidate<'_>],
        crowd: Crowd,
        mean_service_seconds: f32,
    ) -> Option<Self> {
        let count = sites.len() as f32;
        let least = |of: fn(&Site) -> f32| sites.iter().map(of).reduce(f32::min);
        let mean = |of: fn(&Site) -> f32| sites.iter().map(of).sum::<f32>() / count;
        let mean_in_flight = mean(|site| site.in_flight);
        let ready = view.ready().count() as f32;
        Some(Self {
            in_flight: least(|site| site.in_flight)?,
            prefill: least(|site| site.prefill)?,
            slowness: least(|site| site.slowness)?,
            mean_in_flight,
            mean_work_seconds: mean(|site| site.work_seconds),
            longest_wait_seconds: candidates
                .iter()
                .map(|candidate| candidate.waited_seconds(view))
                .fold(0.0, f32::max),
            mean_service_seconds,
            least_effort_seconds: candidates
                .iter()
                .map(|candidate| candidate.effort_seconds)
                .reduce(f32::min)?,
            backlog_seconds: crowd.effort_seconds / ready,
            waiting: crowd.requests / (1.0 + mean_in_flight * ready),
        })
    }

    /// The first features, which only depend on the request and the queue.
    pub(super) fn of_request(
        &self,
        view: &ClusterView<'_>,
        candidate: &Candidate<'_>,
        sketch: &RequestSketch,
    ) -> [f32; OF_REQUEST] {
        let waited = candidate.waited_seconds(view);
        let service = sketch.service_seconds;
        let lateness = (waited / (self.backlog_seconds + service)).min(4.0);
        let patience_of = |seconds: f32| (seconds / (PATIENCE * self.mean_service_seconds)).min(4.0);
        let patience = patience_of(waited);
        let due = patience_of(waited + service);
        let due_at_worst = patience_of(waited + sketch.longest_service_seconds);
        let crowd = self.backlog_seconds + PATIENCE * self.mean_service_seconds;
        let due_in_crowd = ((waited + service) / crowd).min(4.0);
        [
            libm::logf(candidate.effort_seconds.max(1e-9) / self.least_effort_seconds.max(1e-9)),
            lateness,
            0.25 * lateness * lateness,
            patience,
            0.25 * patience * patience,
            due,
            0.25 * due * due,
            due_at_worst,
            0.25 * due_at_worst * due_at_worst,
            due_in_crowd,
            0.25 * due_in_crowd * due_in_crowd,
            libm::log1pf(waited / service),
            libm::log1pf(waited / sketch.prefill_seconds),
            waited / self.longest_wait_seconds.max(1e-9),
            sketch.spread,
            sketch.prompt_share,
            libm::log1pf(self.waiting),
            libm::log1pf(self.backlog_seconds / service),
            patience_of(self.longest_wait_seconds),
        ]
    }
}
