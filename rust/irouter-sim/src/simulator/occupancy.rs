//! Queues and KV use over time.

use irouter_core::Picos;
use irouter_core::engine::EngineLoad;
use serde::Serialize;

use super::Readings;

/// Readings at even intervals over a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// Times of the readings in seconds.
    pub time_s: Vec<f64>,
    /// Requests in each engine's own queue, by instance and reading.
    pub queue: Vec<Vec<u32>>,
    /// Requests in each engine's batch, by instance and reading.
    pub running: Vec<Vec<u32>>,
    /// Share of each engine's KV blocks in use, by instance and reading.
    pub kv_usage: Vec<Vec<f64>>,
    /// Requests at the router, by reading.
    pub router_queue: Vec<usize>,
    #[serde(skip)]
    interval: Picos,
    #[serde(skip)]
    samples: u32,
}

impl Occupancy {
    pub(super) fn new(readings: Readings, instances: u32) -> Self {
        let each = vec![Vec::new(); instances as usize];
        Self {
            time_s: Vec::new(),
            queue: each.clone(),
            running: each,
            kv_usage: vec![Vec::new(); instances as usize],
            router_queue: Vec::new(),
            interval: Picos(readings.until.0 / i64::from(readings.count.max(1))),
            samples: readings.count,
        }
    }

    pub(super) fn next_sample(&self) -> Option<Picos> {
        let taken = u32::try_from(self.time_s.len()).unwrap_or(u32::MAX);
        (taken < self.samples).then(|| self.interval * (i64::from(taken) + 1))
    }

    pub(super) fn record(&mut self, loads: impl Iterator<Item = (EngineLoad, u32)>, router_queue: usize) {
        let Some(at) = self.next_sample() else { return };
        self.time_s.push(at.as_seconds());
        self.router_queue.push(router_queue);
        for (index, (load, blocks)) in loads.enumerate() {
            self.queue[index].push(load.waiting);
            self.running[index].push(load.running);
            self.kv_usage[index].push(f64::from(load.used_blocks) / f64::from(blocks));
        }
    }
}
