//! The profiles that the Python package ships.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;

use irouter_core::profile::{
    ModelShape, Profile, Scale, SchedulerMode, StepModel, StepShape, kv_capacity_blocks,
};

/// What the driver reports for one accelerator, in GiB.
const MEMORY_GIB: [(&str, f64); 6] = [
    ("v100-32", 32.0),
    ("a100-80", 80.0),
    ("h100-80", 80.0),
    ("h200-141", 139.8),
    ("rtx4090-24", 23.517),
    ("rtxpro6000-96", 94.97),
];

fn shipped() -> Vec<(String, Profile)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/irouter/profiles");
    let mut profiles: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let profile = Profile::from_json(&fs::read_to_string(&path).unwrap());
            (stem.clone(), profile.unwrap_or_else(|error| panic!("{stem}: {error}")))
        })
        .collect();
    profiles.sort_by(|left, right| left.0.cmp(&right.0));
    assert_eq!(profiles.len(), 21);
    profiles
}

fn named(name: &str) -> Profile {
    shipped().into_iter().find(|(stem, _)| stem == name).unwrap().1
}

fn step_ms(profile: &Profile, prefill: &[u64], decodes: u32, context: u64) -> f64 {
    let shape = StepShape {
        prefill_sequences: u32::try_from(prefill.len()).unwrap(),
        prefill_tokens: u32::try_from(prefill.iter().sum::<u64>()).unwrap(),
        prefill_pairs: prefill.iter().map(|chunk| chunk * chunk).sum(),
        decodes,
        decode_context: u64::from(decodes) * context,
    };
    StepModel::new(profile).unwrap().step(&shape, Scale::ONE).0 as f64 / 1e9
}

#[test]
fn every_profile_is_named_as_its_file_and_states_its_source() {
    for (stem, profile) in shipped() {
        assert_eq!(profile.name, stem);
        assert!(
            profile.source.data.contains("Apache-2.0") || !profile.source.data.contains("aiconfigurator")
        );
        let measured = stem != "llama-2-7b@v100-paper";
        assert_eq!(profile.source.held_out_error_percent.is_some(), measured, "{stem}");
        assert!(profile.source.held_out_error_percent.is_none_or(|error| error < 4.0), "{stem}");
    }
}

#[test]
fn kv_blocks_are_those_of_the_capacity_function() {
    for (stem, profile) in shipped() {
        let shape = ModelShape::of(&profile.model).unwrap();
        let memory = MEMORY_GIB.iter().find(|(name, _)| *name == profile.accelerator).unwrap().1;
        let blocks =
            kv_capacity_blocks(shape, memory, profile.tensor_parallel, profile.kv.block_tokens).unwrap();
        assert_eq!(profile.kv.blocks, blocks, "{stem}");
    }
}

#[test]
fn no_profile_serves_a_context_that_its_cache_cannot_hold() {
    for (stem, profile) in shipped() {
        assert!(profile.kv.blocks * profile.kv.block_tokens >= profile.max_model_len, "{stem}");
    }
}

#[test]
fn batches_stay_within_the_fitted_tokens_and_sequences() {
    for (stem, profile) in shipped() {
        let beyond = profile.extrapolations();
        assert!(beyond.iter().all(|found| found.quantity == "context"), "{stem}: {beyond:?}");
    }
    let beyond: Vec<_> =
        named("llama-3.1-8b@a100").extrapolations().iter().map(ToString::to_string).collect();
    assert_eq!(beyond, ["context 131072 beyond the fitted 32768"]);
}

#[test]
fn steps_take_what_the_fits_say() {
    // Composed from the full tables. A fit smooths single points of them by up to 6 %; its mean error is below 4 %.
    let examples: [(&str, &[u64], u32, u64, f64); 8] = [
        ("llama-3.1-8b@h100", &[], 1, 512, 6.48),
        ("llama-3.1-8b@h100", &[], 64, 1024, 10.76),
        ("llama-3.1-8b@h100", &[], 256, 1024, 19.68),
        ("llama-3.1-8b@h100", &[2048], 0, 0, 44.24),
        ("llama-2-7b@a100", &[512], 0, 0, 32.28),
        ("llama-2-70b-tp4@h100", &[], 64, 1024, 20.46),
        ("llama-3.1-70b-tp8@h200", &[4096], 0, 0, 202.76),
        ("llama-2-7b@v100-paper", &[1000], 0, 0, 354.0),
    ];
    for (name, prefill, decodes, context, expected) in examples {
        let time = step_ms(&named(name), prefill, decodes, context);
        assert!((time / expected - 1.0).abs() < 0.07, "{name}: {time} ms, fitted {expected} ms");
    }
}

#[test]
fn a_mixed_step_costs_more_attention_than_its_parts_where_that_was_measured() {
    for name in ["llama-3.1-8b@rtx4090", "llama-3.1-8b@rtxpro6000"] {
        let times = named(name).step_time;
        assert!(times.mixed_decode_context > 1.5 && times.mixed_decode_sequence > 1.5, "{name}: {times:?}");
    }
}

#[test]
fn the_paper_profile_batches_as_the_paper_says() {
    let profile = named("llama-2-7b@v100-paper");
    assert_eq!(profile.scheduler.mode, SchedulerMode::VllmV0);
    assert_eq!((profile.scheduler.max_num_seqs, profile.max_model_len), (128, 4096));
}
