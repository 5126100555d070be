//! Time of a decision of `guided`: 32 residents an instance, their KV cache three quarters full.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use irouter_bench::vague_request;
use irouter_core::engine::EngineConfig;
use irouter_core::policy::PolicySpec;
use irouter_core::{Event, InstanceId, Outcome, Picos, Profile, RequestKey, Result, Router, RouterConfig};

const RESIDENTS: u32 = 32;
/// Of 16 tokens: what the residents come to hold is about three quarters.
const BLOCKS: u32 = 5_500;
/// From one decision to the next.
const PAUSE: Picos = Picos(5_000_000_000);

/// A cluster in the middle of its work, to which one more request comes, is decided on, and goes away again.
struct Cluster {
    router: Router,
    now: Picos,
    number: u32,
}

impl Cluster {
    fn new(instances: u32, waiting: u32) -> Result<Self> {
        let text = include_str!("../../../python/irouter/profiles/llama-3.1-8b@h100.json");
        let mut profile = Profile::from_json(text)?;
        profile.kv.blocks = BLOCKS;
        let config = Arc::new(EngineConfig::new(&profile)?);
        let policy = PolicySpec::named("guided").build(0)?;
        let mut cluster = Self {
            router: Router::new("guided", policy, RouterConfig::default())?,
            now: Picos::ZERO,
            number: 0,
        };
        for instance in (0..instances).map(InstanceId) {
            let config = Arc::clone(&config);
            cluster.router.observe(Event::Joined { instance, config }, cluster.now)?;
        }
        let keys: Vec<RequestKey> =
            (0..RESIDENTS * instances).map(|_| cluster.submit()).collect::<Result<_>>()?;
        for (index, key) in (0..).zip(&keys) {
            cluster.router.dispatch(*key, InstanceId(index % instances), cluster.now)?;
        }
        cluster.now = Picos::SECOND * 2;
        for (index, request) in (0..).zip(keys) {
            cluster.router.observe(Event::Progress { request, tokens: 16 * (1 + index % 9) }, cluster.now)?;
        }
        for _ in 0..waiting {
            cluster.submit()?;
        }
        Ok(cluster)
    }

    fn submit(&mut self) -> Result<RequestKey> {
        self.number += 1;
        self.router.submit(vague_request(self.number)?, self.now)
    }

    /// One request comes; whoever is sent is done at once, so that the cluster stays as it is.
    fn decide(&mut self) -> Result<Outcome> {
        self.now += PAUSE;
        let newcomer = self.submit()?;
        let outcome = self.router.decide(self.now)?;
        let gone = match &outcome {
            Outcome::Dispatch(decision) => Event::Finished { request: decision.key, tokens: None },
            _ => Event::Cancelled { request: newcomer },
        };
        self.router.observe(gone, self.now)?;
        Ok(outcome)
    }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    for instances in [4, 64] {
        for waiting in [0, 16, 256] {
            let Ok(mut cluster) = Cluster::new(instances, waiting) else { return };
            let name = BenchmarkId::new(format!("guided/{instances}"), waiting);
            group.bench_function(name, |bencher| bencher.iter(|| black_box(cluster.decide())));
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
