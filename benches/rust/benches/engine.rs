//! Simulated requests per second of one engine, on conversation lengths (mean 1,155 prompt and 211 output tokens).

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use irouter_core::engine::{EngineConfig, Executor, FastForward, Job, Observer, Stepwise};
use irouter_core::{Picos, Profile};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const REQUESTS: u32 = 100_000;

/// What a simulator counts at least.
#[derive(Default)]
struct Counter {
    finished: u32,
    tokens: u64,
    latest: Picos,
}

impl Observer for Counter {
    fn finished(&mut self, _tag: u64, at: Picos) {
        self.finished += 1;
        self.latest = at;
    }
    fn gaps(&mut self, count: u32, _first: Picos, _increment: Picos, steps: u64) {
        self.tokens += u64::from(count) * steps;
    }
}

fn exponential(generator: &mut ChaCha8Rng, mean: f64) -> f64 {
    let uniform = ((generator.next_u64() >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
    -mean * uniform.ln()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "lengths are clamped")]
fn workload(rate: f64, count: u32) -> Vec<(Picos, Job)> {
    let mut generator = ChaCha8Rng::seed_from_u64(7);
    let mut at = Picos::ZERO;
    (0..count)
        .map(|tag| {
            at += Picos::from_seconds(exponential(&mut generator, 1.0 / rate)).unwrap_or(Picos::ZERO);
            let prompt_tokens = exponential(&mut generator, 1155.0).clamp(1.0, 8000.0) as u32;
            let output_tokens = exponential(&mut generator, 211.0).clamp(1.0, 1500.0) as u32;
            (at, Job { tag: tag.into(), prompt_tokens, output_tokens, prompt_blocks: None })
        })
        .collect()
}

/// Serves the workload as a simulator does: the engine is brought up to each arrival.
fn serve(engine: &mut impl Executor, workload: &[(Picos, Job)]) -> Counter {
    let mut counter = Counter::default();
    for (at, job) in workload {
        if engine.advance(*at, &mut counter).is_err() || engine.submit(*at, job.clone()).is_err() {
            return Counter::default();
        }
    }
    let _ = engine.advance(Picos::SECOND * 9_000_000, &mut counter);
    counter
}

fn bench(criterion: &mut Criterion) {
    let json = include_str!("../../../python/irouter/profiles/llama-3.1-8b@h100.json");
    let Ok(profile) = Profile::from_json(json) else { return };
    let Ok(config) = EngineConfig::new(&profile).map(Arc::new) else { return };
    // The rate at which an engine with a full queue completes requests.
    let backlog = serve(&mut FastForward::new(Arc::clone(&config), None), &workload(1e6, 20_000));
    let saturation = f64::from(backlog.finished) / backlog.latest.as_seconds();
    assert!(saturation > 0.0, "the profile serves requests");
    let mut group = criterion.benchmark_group("engine");
    group.sample_size(10);
    for load in [0.3, 0.7, 0.9, 1.5] {
        let jobs = workload(load * saturation, REQUESTS);
        group.throughput(Throughput::Elements(REQUESTS.into()));
        group.bench_function(BenchmarkId::new("fast_forward", load), |bencher| {
            bencher
                .iter(|| black_box(serve(&mut FastForward::new(Arc::clone(&config), None), &jobs).finished));
        });
    }
    let jobs = workload(0.7 * saturation, REQUESTS / 10);
    group.throughput(Throughput::Elements(u64::from(REQUESTS / 10)));
    group.bench_function(BenchmarkId::new("stepwise", 0.7), |bencher| {
        bencher.iter(|| black_box(serve(&mut Stepwise::new(Arc::clone(&config), None), &jobs).finished));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
