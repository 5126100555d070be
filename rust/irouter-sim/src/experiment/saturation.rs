//! Saturation: the completion rate of one always-backlogged instance, which no policy has a part in.

use std::sync::Arc;

use irouter_core::Picos;
use irouter_core::engine::{EngineConfig, Executor, FastForward, Job, Observer};

use crate::error::Result;
use crate::workload::Workload;

/// Requests of the backlog: their completions from the tenth percentile to the ninetieth are timed.
const BACKLOG: usize = 4000;

#[derive(Default)]
struct Completions(Vec<Picos>);

impl Observer for Completions {
    fn finished(&mut self, _tag: u64, at: Picos) {
        self.0.push(at);
    }
}

/// Requests per second that one instance completes when requests of `workload` (every k-th of it, in order) never run out,
/// first come first served, without prefix cache or noise.
///
/// # Errors
/// The engine's, for a request that cannot fit.
pub fn saturation_rate(engine: &EngineConfig, workload: &Workload) -> Result<f64> {
    let mut config = engine.clone();
    config.kv.prefix_cache = false;
    let mut instance = FastForward::new(Arc::new(config), None);
    for index in 0..BACKLOG {
        let row = index * workload.len() / BACKLOG.min(workload.len()).max(1) % workload.len();
        let job = Job {
            tag: index as u64,
            prompt_tokens: workload.prompt_tokens()[row],
            output_tokens: workload.output_tokens()[row],
            prompt_blocks: None,
        };
        instance.submit(Picos::ZERO, job)?;
    }
    let mut completions = Completions::default();
    while let Some(at) = instance.next_event() {
        instance.advance(at, &mut completions)?;
    }
    let (first, last) = (BACKLOG / 10, BACKLOG * 9 / 10);
    let span = completions.0[last] - completions.0[first];
    Ok((last - first) as f64 / span.as_seconds())
}
