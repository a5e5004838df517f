//! Weights with a NaN, an infinity, or a number as large as its type allows.

use std::path::Path;

use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::{Error, StreamConfig, Trace, trace::CompareConfig};

use crate::common::{self, VOCABULARY, Weight};

/// Makes configurations of models with norms of queries and keys, with biases, with soft caps and norms after
/// each part, and with a window.
fn configs() -> impl Strategy<Value = Value> {
    let gemma = json!({ "model_type": "gemma2", "head_dim": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh" });
    let others = [
        json!({ "model_type": "qwen3", "head_dim": 16 }),
        json!({ "model_type": "qwen2" }),
        json!({ "model_type": "phi3" }),
        json!({ "model_type": "mistral", "sliding_window": 30 }),
        json!({ "model_type": "llama", "tie_word_embeddings": true, "head_dim": 16, "num_key_value_heads": 1 }),
    ];
    prop::sample::select([&others[..], &[gemma]].concat()).prop_map(common::config)
}

/// Puts a number, in the bytes of its type, into a random place of a random tensor; returns the tensor's
/// name.
fn put(weights: &mut [Weight], number: f32, tensor: prop::sample::Index, at: prop::sample::Index) -> String {
    let weight = &mut weights[tensor.index(weights.len())];
    let bytes = match weight.dtype {
        Dtype::F16 => half::f16::from_f32(number).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f32(number).to_le_bytes().to_vec(),
        _ => number.to_le_bytes().to_vec(),
    };
    let n = at.index(weight.bytes.len() / bytes.len());
    weight.bytes[n * bytes.len()..][..bytes.len()].copy_from_slice(&bytes);
    weight.name.clone()
}

/// Returns a prompt of every word, so that every row of the embedding is read.
fn every_word() -> String {
    (0..VOCABULARY).map(|i| format!("w{i} ")).collect()
}

fn trace(folder: &Path, config: StreamConfig) -> Result<Trace, Error> {
    common::load(folder)?.with(config).trace(&every_word())
}

/// Returns the layer of a tensor, as errors name it; "the logits" for the last norm and the output layer.
fn place(tensor: &str, is_tied: bool) -> String {
    match tensor.split('.').nth(2) {
        Some(layer) if tensor.starts_with("model.layers.") => format!("layer {layer}"),
        _ if tensor.starts_with("model.embed_tokens") || is_tied && !tensor.starts_with("model.norm") => {
            "layer 0".into()
        }
        _ => "the logits".into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_number_that_is_none_is_found_where_it_is(
        config in configs(),
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::BF16]),
        bits in prop::sample::select(vec![0x7fc0_0000u32, 0x7fc0_2001, 0xffff_ffff, 0x7f80_0000, 0xff80_0000]),
        tensor in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut weights = common::random_weights(&config, dtype);
        let name = put(&mut weights, f32::from_bits(bits), tensor, at);
        let folder = common::folder(&config, &weights, 1);
        let place = place(&name, config["tie_word_embeddings"] == true);
        match trace(folder.path(), StreamConfig { top_k: 8, sink_blocks: 1, local_blocks: 4, ..StreamConfig::default() }) {
            Err(error @ Error::NotFinite { .. }) => prop_assert!(error.to_string().contains(&place), "{}: {}", name, error),
            other => prop_assert!(false, "{:x} in {}: {:?}", bits, name, other.map(|trace| trace.logits())),
        }
    }

    /// A type's largest and smallest numbers are valid: either their results are too large and are reported,
    /// or they equal those of dense attention.
    #[test]
    fn a_types_extremes_are_computed_with_or_found(
        config in configs(),
        (dtype, number) in prop::sample::select(vec![
            (Dtype::F16, 65504.0f32), (Dtype::F16, -65504.0), (Dtype::F16, 6e-8),
            (Dtype::BF16, 3.389e38), (Dtype::BF16, -3.389e38), (Dtype::BF16, 1e30), (Dtype::BF16, 1e-38), (Dtype::BF16, 9.2e-41),
        ]),
        tensor in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut weights = common::random_weights(&config, dtype);
        let name = put(&mut weights, number, tensor, at);
        let folder = common::folder(&config, &weights, 1);
        match trace(folder.path(), StreamConfig { top_k: usize::MAX, ..StreamConfig::default() }) {
            Err(error) => prop_assert!(matches!(error, Error::NotFinite { .. }) && number.abs() > 1.0, "{}: {}", name, error),
            Ok(trace) => {
                // At other positions than the last the logits may be too large.
                let last = CompareConfig { positions: Some(0), ..CompareConfig::default() };
                let compared = common::load(folder.path()).unwrap().compare_with(&trace, &last).unwrap();
                let fidelity = compared.summary().fidelity.clone().unwrap();
                let is_dense = fidelity.kl < Some(1e-4) && (fidelity.recall - 1.0).abs() < 1e-4;
                prop_assert!(is_dense && fidelity.same_next_token == Some(true), "{} in {}: {:?}", number, name, fidelity);
            }
        }
    }
}

/// The squares of such numbers overflow their sum: a norm would turn them into 0.
#[test]
fn hidden_states_without_a_norm_are_found() {
    let config = common::config(json!({ "model_type": "llama" }));
    let mut weights = common::random_weights(&config, Dtype::F32);
    for value in weights[0].bytes.as_chunks_mut().0 {
        *value = (f32::from_le_bytes(*value) * 1e25).to_le_bytes();
    }
    let folder = common::folder(&config, &weights, 1);
    let error = trace(folder.path(), StreamConfig::default()).err().unwrap();
    assert!(matches!(&error, Error::NotFinite { place, .. } if place.contains("layer 0")), "{error}");
}
