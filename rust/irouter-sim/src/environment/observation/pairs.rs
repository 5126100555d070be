//! What `guided` sees, as numbers in a row.

use irouter_core::policy::observation::{CANDIDATES, COUNT, FEATURES, INSTANCES, Observer};
use irouter_core::policy::{ClusterView, Needs, QueueView, Waiting};
use irouter_core::state::Effort;
use irouter_core::{InstanceId, Request};

use super::{Encoder, Observation};

/// The features of each pair of candidate and instance.
pub(super) struct Pairs {
    instances: usize,
}

impl Pairs {
    /// For a cluster of so many instances.
    pub(super) fn new(instances: usize) -> Self {
        Self { instances: instances.min(INSTANCES) }
    }
}

impl Observation for Pairs {
    fn needs(&self) -> Needs {
        Needs { counts: true, progress: true, twin: true, prefix: true, occupancy: true, ..Needs::default() }
    }

    fn candidates(&self) -> usize {
        CANDIDATES
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn width(&self) -> usize {
        CANDIDATES * self.instances * COUNT
    }

    fn names(&self) -> Vec<String> {
        let pairs =
            (0..CANDIDATES).flat_map(|candidate| (0..self.instances).map(move |place| (candidate, place)));
        let named = |(candidate, place)| {
            FEATURES.iter().map(move |feature| format!("candidate_{candidate}_instance_{place}_{feature}"))
        };
        pairs.flat_map(named).collect()
    }

    fn bounds(&self) -> Vec<[f32; 2]> {
        vec![[f32::NEG_INFINITY, f32::INFINITY]; self.width()]
    }

    fn order_key(&self, _request: &Request, effort: Effort) -> f64 {
        effort.occupancy_seconds
    }

    fn overtaking_seconds(&self, effort: Effort) -> f64 {
        effort.occupancy_seconds
    }

    fn takes(&self, view: &ClusterView<'_>, instance: InstanceId, request: &Request) -> bool {
        view.offers(instance) && view.instances[instance.index()].holds(request).is_ok()
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(PairsEncoder { instances: self.instances, observer: Observer::default() })
    }
}

struct PairsEncoder {
    instances: usize,
    observer: Observer,
}

impl Encoder for PairsEncoder {
    fn encode(&mut self, view: &ClusterView<'_>, queue: &QueueView<'_>, out: &mut [f32]) {
        self.observer.observe(view, queue);
        let seen = self.observer.latest();
        out.fill(0.0);
        // Where instances are down, there are fewer than columns.
        let rows = seen.pairs.chunks_exact(seen.instances.len().max(1));
        for (row, out) in rows.zip(out.chunks_exact_mut(self.instances * COUNT)) {
            out[..row.as_flattened().len()].copy_from_slice(row.as_flattened());
        }
    }

    fn request<'a>(&self, queue: &QueueView<'a>, candidate: usize) -> Option<Waiting<'a>> {
        self.observer.latest().requests.get(candidate).and_then(|&key| queue.get(key))
    }

    fn instance(&self, place: usize) -> Option<InstanceId> {
        self.observer.latest().instances.get(place).copied()
    }

    fn dispatched(&mut self, request: &Request, instance: InstanceId) {
        self.observer.dispatched(request, instance);
    }

    fn released(&mut self, instance: InstanceId) {
        self.observer.released(instance);
    }
}
