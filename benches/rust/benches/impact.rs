//! Time of one estimate of the latency impact, on an instance with 32 residents.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use irouter_bench::vague_request;
use irouter_core::engine::EngineConfig;
use irouter_core::impact::{Candidate, Forecast};
use irouter_core::policy::PolicySpec;
use irouter_core::{Event, InstanceId, Picos, Profile, Result, Router, RouterConfig};

const RESIDENTS: u32 = 32;
const NOW: Picos = Picos(2_000_000_000_000);

/// A router with one instance, `kv_share` of whose KV cache the residents will probably need.
fn busy(blocks: u32) -> Result<Router> {
    let text = include_str!("../../../python/irouter/profiles/llama-3.1-8b@h100.json");
    let mut profile = Profile::from_json(text)?;
    profile.kv.blocks = blocks;
    let policy = PolicySpec::named("ordered_hold").with_option("overflow_probability", 1.0).build(0)?;
    let mut router = Router::new("ordered_hold", policy, RouterConfig::default())?;
    let config = Arc::new(EngineConfig::new(&profile)?);
    router.observe(Event::Joined { instance: InstanceId(0), config }, Picos::ZERO)?;
    let keys = (0..RESIDENTS).map(|number| router.submit(vague_request(number)?, Picos::ZERO));
    let keys = keys.collect::<Result<Vec<_>>>()?;
    for _ in &keys {
        router.decide(Picos::ZERO)?;
    }
    for (number, request) in (0..).zip(keys) {
        router.observe(Event::Progress { request, tokens: 16 * (1 + number % 9) }, NOW)?;
    }
    router.decide(NOW)?;
    Ok(router)
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("impact");
    // Far from full, and with half of a chance to overflow.
    for (name, blocks) in [("free", 20_000), ("full", 4_200)] {
        let Ok(router) = busy(blocks) else { return };
        let state = router.state();
        let Ok(instance) = state.instance(InstanceId(0)) else { return };
        assert_eq!(instance.in_flight(), RESIDENTS);
        let Ok(own) = vague_request(99) else { return };
        let forecast = Forecast::new(state, instance, NOW);
        let candidate = Candidate::new(&own);
        eprintln!("{:?}", forecast.impact(instance, &candidate));
        group.bench_function(format!("{name}/forecast"), |bencher| {
            bencher.iter(|| black_box(Forecast::new(state, instance, NOW)));
        });
        group.bench_function(format!("{name}/candidate"), |bencher| {
            bencher.iter(|| black_box(Candidate::new(&own)));
        });
        group.bench_function(format!("{name}/impact"), |bencher| {
            bencher.iter(|| black_box(forecast.impact(instance, &candidate)));
        });
        group.bench_function(format!("{name}/overflow"), |bencher| {
            let capacity = f64::from(blocks * 16);
            bencher.iter(|| black_box(forecast.overflow_probability_with(&candidate, capacity)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
