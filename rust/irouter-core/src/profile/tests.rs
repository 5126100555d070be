//! The schema: what is written is read back, and every bad field is named.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn profile_with(form: Form) -> Profile {
    Profile {
        name: "toy@bench".into(),
        model: "toy".into(),
        accelerator: "bench-1".into(),
        tensor_parallel: 1,
        max_model_len: 4096,
        scheduler: Scheduler {
            mode: SchedulerMode::VllmV1,
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            reserve_full_input: true,
            watermark: 0.0,
        },
        kv: KvCache { block_tokens: 16, blocks: 1000, prefix_cache: true },
        step_time: StepTime {
            form,
            prefill_token_ms: 1e-3,
            prefill_attention_ms: 1e-6,
            decode_sequence_ms: 1e-2,
            decode_context_token_ms: 1e-4,
            mixed_decode_sequence: 1.0,
            mixed_decode_context: 1.5,
            overhead_ms: 0.1,
            launch_floor_ms: 5.0,
        },
        source: Source {
            data: "made up".into(),
            fitted_tokens: 2048,
            fitted_sequences: 128,
            fitted_context_tokens: 8192,
            held_out_error_percent: Some(1.5),
        },
    }
}

fn form_a() -> Profile {
    profile_with(Form::A { constant_ms: 5.0 })
}

fn form_c() -> Profile {
    profile_with(Form::C {
        dense_ms: vec![(1, 5.0), (64, 6.0), (2048, 90.0)],
        per_sequence_ms: vec![(1, 0.5)],
        prefill_sequence_ms: 0.3,
        decode_ms: 0.4,
    })
}

/// Sets the value at a JSON pointer such as `/kv/blocks`, which must be there.
fn changed(profile: &Profile, pointer: &str, value: Value) -> String {
    let mut tree = serde_json::to_value(profile).unwrap();
    *tree.pointer_mut(pointer).unwrap() = value;
    tree.to_string()
}

#[test]
fn both_forms_read_back_what_was_written() {
    for profile in [form_a(), form_c()] {
        assert_eq!(Profile::from_json(&profile.to_json()), Ok(profile));
    }
}

proptest! {
    #[test]
    fn every_coefficient_reads_back_bit_for_bit(coefficient in 0.0..0.1f64, times in prop::collection::vec(0.0..1e6f64, 1..20)) {
        let mut profile = form_c();
        profile.step_time.decode_context_token_ms = coefficient;
        if let Form::C { dense_ms, .. } = &mut profile.step_time.form {
            *dense_ms = (1..).zip(times).collect();
        }
        prop_assert_eq!(Profile::from_json(&profile.to_json()), Ok(profile));
    }
}

#[test]
fn what_may_be_left_out_has_its_neutral_value() {
    let mut tree = serde_json::to_value(form_a()).unwrap();
    for (parent, field) in [
        ("/scheduler", "reserve_full_input"),
        ("/scheduler", "watermark"),
        ("/kv", "prefix_cache"),
        ("/step_time", "mixed_decode_sequence"),
        ("/step_time", "mixed_decode_context"),
        ("/step_time", "overhead_ms"),
        ("/step_time", "launch_floor_ms"),
    ] {
        tree.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
    }
    let read = Profile::from_json(&tree.to_string()).unwrap();
    assert!(!read.scheduler.reserve_full_input && !read.kv.prefix_cache);
    assert_eq!((read.step_time.mixed_decode_sequence, read.step_time.mixed_decode_context), (1.0, 1.0));
    assert_eq!((read.step_time.overhead_ms, read.step_time.launch_floor_ms), (0.0, 0.0));
}

#[test]
fn every_value_out_of_range_is_an_error_that_names_its_field() {
    let cases = [
        ("/name", json!(" ")),
        ("/model", json!("")),
        ("/accelerator", json!("")),
        ("/tensor_parallel", json!(0)),
        ("/max_model_len", json!(0)),
        ("/scheduler/max_num_seqs", json!(0)),
        ("/scheduler/max_num_batched_tokens", json!(0)),
        ("/scheduler/max_num_batched_tokens", json!(255)),
        ("/scheduler/watermark", json!(1.0)),
        ("/scheduler/watermark", json!(-0.1)),
        ("/kv/block_tokens", json!(0)),
        ("/kv/blocks", json!(0)),
        ("/step_time/prefill_token_ms", json!(-1e-9)),
        ("/step_time/prefill_attention_ms", json!(0.01)),
        ("/step_time/decode_sequence_ms", json!(1001.0)),
        ("/step_time/decode_context_token_ms", json!(0.2)),
        ("/step_time/mixed_decode_sequence", json!(-1.0)),
        ("/step_time/mixed_decode_context", json!(1e9)),
        ("/step_time/overhead_ms", json!(-1.0)),
        ("/step_time/launch_floor_ms", json!(2e6)),
        ("/step_time/form/dense_ms", json!([])),
        ("/step_time/form/dense_ms", json!([[2, 1.0], [2, 1.0]])),
        ("/step_time/form/dense_ms", json!([[1, -1.0]])),
        ("/step_time/form/per_sequence_ms", json!([[8, 1.0], [4, 2.0]])),
        ("/step_time/form/prefill_sequence_ms", json!(-1.0)),
        ("/step_time/form/decode_ms", json!(-1.0)),
        ("/source/fitted_tokens", json!(0)),
        ("/source/fitted_sequences", json!(0)),
        ("/source/fitted_context_tokens", json!(0)),
        ("/source/held_out_error_percent", json!(-1.0)),
    ];
    for (pointer, value) in cases {
        let error = Profile::from_json(&changed(&form_c(), pointer, value.clone())).unwrap_err();
        let field = pointer.trim_start_matches('/').replace('/', ".");
        assert!(
            matches!(&error, Error::Field { field: named, .. } if named.starts_with(&field)),
            "{pointer} = {value}: {error}"
        );
    }
    let error =
        Profile::from_json(&changed(&form_a(), "/step_time/form/constant_ms", json!(-1))).unwrap_err();
    assert!(error.to_string().starts_with("`step_time.form.constant_ms` is -1"), "{error}");
}

#[test]
fn numbers_that_json_cannot_hold_are_refused_in_memory_too() {
    for bad in [f64::NAN, f64::INFINITY, -f64::INFINITY] {
        let mut profile = form_a();
        profile.step_time.decode_sequence_ms = bad;
        assert!(profile.validate().unwrap_err().to_string().contains("step_time.decode_sequence_ms"));
        let mut profile = form_a();
        profile.source.held_out_error_percent = Some(bad);
        assert!(profile.validate().unwrap_err().to_string().contains("source.held_out_error_percent"));
    }
}

#[test]
fn unknown_and_missing_fields_are_refused_at_every_level() {
    for parent in ["", "/scheduler", "/kv", "/step_time", "/step_time/form", "/source"] {
        let mut tree = serde_json::to_value(form_c()).unwrap();
        let fields = tree.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        fields.insert("surprise".into(), json!(1));
        let error = Profile::from_json(&tree.to_string()).unwrap_err().to_string();
        assert!(error.starts_with("profile: unknown field `surprise`"), "{parent}: {error}");
    }
    for (parent, field) in
        [("", "kv"), ("/scheduler", "mode"), ("/step_time/form", "decode_ms"), ("/source", "data")]
    {
        let mut tree = serde_json::to_value(form_c()).unwrap();
        tree.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        let error = Profile::from_json(&tree.to_string()).unwrap_err().to_string();
        assert!(error.contains(&format!("missing field `{field}`")), "{parent}: {error}");
    }
}

#[test]
fn a_mode_or_form_that_does_not_exist_is_refused_with_those_that_do() {
    let error =
        Profile::from_json(&changed(&form_a(), "/scheduler/mode", json!("vllm-v2"))).unwrap_err().to_string();
    assert!(error.contains("vllm-v2") && error.contains("`vllm-v1`, `vllm-v0`, `sarathi`"), "{error}");
    let error =
        Profile::from_json(&changed(&form_a(), "/step_time/form/kind", json!("B"))).unwrap_err().to_string();
    assert!(error.contains('B'), "{error}");
}

#[test]
fn the_fitted_range_ends_where_it_says() {
    let source = form_a().source;
    assert_eq!(source.extrapolations(2048, 128, 8192), []);
    let beyond = source.extrapolations(2049, 128, 8193);
    assert_eq!(
        beyond,
        [
            Extrapolation { quantity: "tokens", value: 2049, fitted: 2048 },
            Extrapolation { quantity: "context", value: 8193, fitted: 8192 },
        ]
    );
    assert_eq!(beyond[0].to_string(), "tokens 2049 beyond the fitted 2048");
}

#[test]
fn a_profile_says_which_of_its_own_limits_extrapolate() {
    let limits: Vec<_> = form_a().extrapolations().iter().map(|found| found.quantity).collect();
    assert_eq!(limits, ["sequences"]);
}
