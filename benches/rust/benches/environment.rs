//! Decisions per second of the environment on one core, new episodes included: the paper's main experiment, shown as counts and
//! as what `guided` sees, with an agent that takes the instances in turn and holds now and then.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use irouter_bench::paper_environment;

const ENVIRONMENTS: usize = 64;
const STEPS: usize = 200;

fn by_reward_and_tick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("environment");
    group.sample_size(10).throughput(Throughput::Elements((ENVIRONMENTS * STEPS) as u64));
    for (observation, name, spec) in [
        ("counts", "events", r#"{"reward": "requests_in_system"}"#),
        ("counts", "events, paper's reward", r#"{"reward": "paper"}"#),
        ("counts", "ticks, paper's reward", r#"{"reward": "paper", "tick_s": 0.02}"#),
        ("pairs", "events", r#"{"observation": "pairs"}"#),
    ] {
        let Ok(mut environments) = paper_environment(spec, ENVIRONMENTS) else { return };
        if environments.reset(None).is_err() {
            return;
        }
        let Ok(hold) = i64::try_from(environments.actions() - 1) else { return };
        let mut turn = 0;
        group.bench_function(BenchmarkId::new(observation, name), |bencher| {
            bencher.iter(|| {
                for _ in 0..STEPS {
                    turn += 1;
                    let action = if turn % 16 == 0 { hold } else { turn % 4 };
                    let _ = environments.step(&[action; ENVIRONMENTS], 0.0);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, by_reward_and_tick);
criterion_main!(benches);
