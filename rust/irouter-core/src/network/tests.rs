use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use super::*;

/// A file of these tensors with this header.
fn file(tensors: &[(&str, &[usize], &[f32])], header: Option<&str>) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let metadata = header.map(|text| [("irouter".to_owned(), text.to_owned())].into_iter().collect());
    serialize(views, metadata).unwrap()
}

fn network(tensors: &[(&str, &[usize], &[f32])]) -> Result<Network> {
    Network::new(&WeightsFile::parse(&file(tensors, None)).unwrap(), "net.")
}

const HIDDEN: (&str, &[usize], &[f32]) = ("net.0.weight", &[3, 2], &[1.0, 2.0, -1.0, 0.5, 0.0, -3.0]);
const HIDDEN_BIAS: (&str, &[usize], &[f32]) = ("net.0.bias", &[3], &[0.5, 0.0, 1.0]);
const OUT: (&str, &[usize], &[f32]) = ("net.2.weight", &[2, 3], &[1.0, 10.0, 100.0, -1.0, 0.0, 1.0]);
const OUT_BIAS: (&str, &[usize], &[f32]) = ("net.2.bias", &[2], &[0.25, -0.25]);

#[test]
fn outputs_are_those_of_the_formula() {
    let network = network(&[HIDDEN, HIDDEN_BIAS, OUT, OUT_BIAS]).unwrap();
    assert_eq!((network.inputs(), network.outputs()), (2, 2));
    let mut scratch = Scratch::default();
    // Hidden: 1 + 4 + 0.5 = 5.5, -1 + 1 = 0, -6 + 1 < 0.
    assert_eq!(network.forward(&[1.0, 2.0], &mut scratch), [5.75, -5.75]);
    // Hidden: -1.5 < 0, 2, 1; what was there before leaves no trace.
    assert_eq!(network.forward(&[-2.0, 0.0], &mut scratch), [120.25, 0.75]);
}

#[test]
fn a_network_without_hidden_layers_is_linear() {
    let network = network(&[HIDDEN, HIDDEN_BIAS]).unwrap();
    let mut scratch = Scratch::default();
    assert_eq!(network.forward(&[-2.0, 0.0], &mut scratch), [-1.5, 2.0, 1.0]);
}

#[test]
fn the_header_is_read_into_its_type() {
    let parse =
        |header| WeightsFile::parse(&file(&[HIDDEN], header)).unwrap().header::<BTreeMap<String, u32>>();
    assert_eq!(parse(Some(r#"{"version":3}"#)).unwrap()["version"], 3);
    assert!(parse(None).unwrap_err().to_string().contains("no metadata `irouter`"));
    assert!(parse(Some(r#"{"version":"x"}"#)).unwrap_err().to_string().contains("invalid type"));
}

#[test]
fn what_mismatches_is_named() {
    let message = |tensors: &[_]| network(tensors).unwrap_err().to_string();
    assert!(message(&[OUT_BIAS]).contains("no tensor `net.0.weight`"));
    assert!(message(&[HIDDEN]).contains("no tensor `net.0.bias`"));
    assert!(
        message(&[HIDDEN, ("net.0.bias", &[2], &[0.0, 0.0])])
            .contains("`net.0.bias` has shape [2], expected [3]")
    );
    assert!(message(&[("net.0.weight", &[2], &[0.0, 0.0])]).contains("expected (outputs, inputs)"));
    let narrow = ("net.2.weight", &[1, 2][..], &[1.0, 1.0][..]);
    let text = message(&[HIDDEN, HIDDEN_BIAS, narrow, ("net.2.bias", &[1], &[0.0])]);
    assert!(text.contains("`net.2.weight` has 2 inputs, expected the 3 outputs"), "{text}");
}

#[test]
fn bytes_that_are_no_weights_are_refused() {
    let message = |bytes: &[u8]| WeightsFile::parse(bytes).unwrap_err().to_string();
    assert!(message(b"").contains("expected safetensors"));
    assert!(message(&file(&[HIDDEN], None)[..40]).contains("expected safetensors"));
    let text = message(&file(&[("net.0.bias", &[2], &[0.0, f32::NAN])], None));
    assert!(text.contains("`net.0.bias` has NaN at 1"), "{text}");
    let whole = serialize([("x", TensorView::new(Dtype::I32, vec![1], &[0; 4]).unwrap())], None).unwrap();
    assert!(message(&whole).contains("`x` is of type I32, expected F32"));
}
