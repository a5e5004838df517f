//! Models of every shape, on prompts of every length: if every block is kept, a trace equals dense attention.

use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::{Estimate, Search, StreamConfig};

use crate::common;

fn models() -> impl Strategy<Value = Value> {
    let families =
        prop::sample::select(vec!["llama", "qwen2", "qwen3", "phi3", "mistral", "gemma2", "gemma3_text"]);
    let head_dims = prop::sample::select(vec![2, 6, 16, 34, 64, 80, 96, 128, 192, 256]);
    let sizes = (1..4usize, 1..3usize, 1..9usize, head_dims, prop::option::of(1..80usize));
    (families, sizes).prop_map(|(family, (n_layers, n_kv_heads, group, head_dim, window))| {
        let mut config = common::config(json!({
            "model_type": family, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": n_layers, "head_dim": head_dim,
            "num_attention_heads": n_kv_heads * group, "num_key_value_heads": n_kv_heads,
        }));
        if family.starts_with("gemma") {
            config = super::gemma(config);
            common::set(&mut config, json!({ "head_dim": head_dim, "query_pre_attn_scalar": head_dim }));
        }
        if let (Some(window), "mistral" | "gemma2" | "gemma3_text") = (window, family) {
            common::set(&mut config, json!({ "sliding_window": window, "rope_local_base_freq": 100.0 }));
        }
        config
    })
}

fn settings() -> impl Strategy<Value = StreamConfig> {
    let sizes = prop::sample::select(vec![(1, 1), (32, 8), (64, 16), (9, 3), (2, 8), (40, 4), (256, 256)]);
    let estimates = [Estimate::First, Estimate::Middle, Estimate::MeanSpread, Estimate::TwoMeans]
        .map(Search::Hierarchical);
    let searches =
        [&[Search::Exhaustive, Search::Window, Search::Random { seed: 3 }][..], &estimates].concat();
    (sizes, prop::sample::select(searches)).prop_map(|((block_size_q, block_size_k), search)| StreamConfig {
        block_size_q,
        block_size_k,
        top_k: usize::MAX,
        search,
        ..StreamConfig::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_trace_that_keeps_everything_is_dense(model in models(), settings in settings(), n_tokens in 1..150usize) {
        let folder = common::folder(&model, &common::random_weights(&model, Dtype::F32), 1);
        let tracer = common::load(folder.path()).unwrap().with(settings);
        let trace = tracer.compare(&tracer.trace(&common::prompt(n_tokens)).unwrap()).unwrap();
        let fidelity = trace.summary().fidelity.clone().unwrap();
        prop_assert!(fidelity.recall_by_head.iter().flatten().all(|recall| (recall - 1.0).abs() < 1e-4), "{:?}", fidelity);
        prop_assert!(fidelity.kl < Some(1e-7) && fidelity.same_next_token == Some(true), "{:?}", fidelity);
        // A window hides pairs, which count as pruned.
        let is_windowed = (0..trace.n_layers()).any(|layer| trace.blocks(layer).unwrap().window.is_some());
        prop_assert!(is_windowed || trace.summary().pruned.abs() < 1e-9, "{}", trace.summary().pruned);
    }
}
