//! Simulated requests per second of the whole simulator, on one core and with the figures of a report: by policy, and by the
//! size of the cluster at the same load per instance.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use irouter_bench::Conversations;

/// Policies that read nothing, counts, counts and progress, engine reports, and the twin.
const POLICIES: [&str; 6] =
    ["round_robin", "least_requests", "least_work", "llmd_token_load", "central_fcfs", "central_shortest"];

fn bench(
    criterion: &mut Criterion,
    group: &str,
    cases: impl IntoIterator<Item = (u32, f64, usize)>,
    policies: &[&str],
) {
    let mut group = criterion.benchmark_group(group);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (instances, load, requests) in cases {
        let Ok(conversations) = Conversations::new(instances, load, requests) else { return };
        group.throughput(Throughput::Elements(requests as u64));
        for policy in policies {
            let case = BenchmarkId::new(*policy, format!("{instances}x{load}"));
            group.bench_function(case, |bencher| {
                bencher.iter(|| black_box(conversations.run(policy)));
            });
        }
    }
    group.finish();
}

fn by_policy(criterion: &mut Criterion) {
    let cases = [4, 16].into_iter().flat_map(|instances| [0.8, 1.2].map(|load| (instances, load, 50_000)));
    bench(criterion, "simulator", cases, &POLICIES);
}

fn by_instances(criterion: &mut Criterion) {
    let cases = [4_u32, 16, 64, 256].map(|instances| (instances, 0.8, 100_000));
    bench(
        criterion,
        "instances",
        cases,
        &["round_robin", "least_requests", "least_work", "central_shortest"],
    );
}

criterion_group!(benches, by_policy, by_instances);
criterion_main!(benches);
