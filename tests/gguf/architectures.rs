//! Every architecture of the table runs like the folder that its file was made of.

use candle_core::quantized::{GgmlDType, gguf_file::Value};
use safetensors::Dtype;
use serde_json::json;

use crate::{apart, assert_refused, bundled, common, quantized, trace, writer::Writer};

#[test]
fn every_architecture_runs_as_its_folder() {
    let gemma = json!({ "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16, "tie_word_embeddings": true,
        "sliding_window": 40, "rope_local_base_freq": 1e4 });
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let longrope = json!({ "rope_type": "longrope", "short_factor": [1, 2, 3, 4, 5, 6], "long_factor": [2, 3, 4, 5, 6, 7] });
    for (architecture, family, changes) in [
        ("llama", "llama", json!({ "rope_scaling": llama3 })),
        ("llama", "mistral", json!({ "num_key_value_heads": 4 })),
        (
            "qwen2",
            "qwen2",
            json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 } }),
        ),
        ("qwen3", "qwen3", json!({ "tie_word_embeddings": true })),
        (
            "phi3",
            "phi3",
            json!({ "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64, "rope_scaling": longrope }),
        ),
        ("gemma2", "gemma2", json!({ "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0 })),
        ("gemma3", "gemma3_text", json!({ "rope_scaling": { "rope_type": "linear", "factor": 8.0 } })),
        (
            "granite",
            "granite",
            json!({ "embedding_multiplier": 12.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125,
                "logits_scaling": 4.0 }),
        ),
        ("olmo2", "olmo2", json!({})),
        ("olmo2", "olmo3", json!({ "sliding_window": 40, "num_hidden_layers": 5 })),
        ("smollm3", "smollm3", json!({ "num_hidden_layers": 5 })),
        ("glm4", "glm4", json!({ "partial_rotary_factor": 0.5, "attention_bias": true })),
        ("llama", "mixtral", json!({ "num_local_experts": 4, "num_experts_per_tok": 2 })),
        (
            "qwen2moe",
            "qwen2_moe",
            json!({ "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 64, "norm_topk_prob": false }),
        ),
        (
            "qwen3moe",
            "qwen3_moe",
            json!({ "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": true }),
        ),
        ("olmoe", "olmoe", json!({ "num_experts": 6, "num_experts_per_tok": 2 })),
        (
            "glm4moe",
            "glm4_moe",
            json!({ "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "n_shared_experts": 2,
                "routed_scaling_factor": 1.5, "n_group": 4, "topk_group": 2, "norm_topk_prob": true,
                "partial_rotary_factor": 0.5, "attention_bias": true, "use_qk_norm": true }),
        ),
        (
            "gpt-oss",
            "gpt_oss",
            json!({ "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 40, "rope_scaling": {
                "rope_type": "yarn", "factor": 4.0, "truncate": false, "original_max_position_embeddings": 64 } }),
        ),
    ] {
        let mut config =
            common::config(json!({ "model_type": family, "head_dim": 16, "intermediate_size": 96 }));
        if family.starts_with("gemma") {
            common::set(&mut config, gemma.clone());
        }
        common::set(&mut config, changes);
        let weights = common::random_weights(&config, Dtype::F32);
        let folder = common::folder(&config, &weights, 1);
        for (dtype, tolerance) in [(GgmlDType::F32, 1e-5), (GgmlDType::F16, 0.01), (GgmlDType::Q8_0, 0.1)] {
            let path = folder.path().join("model.gguf");
            Writer::of(architecture, &config, &weights, dtype).write(&path);
            let [a, b] = [&path, folder.path()]
                .map(|path| trace(path, &common::prompt(157)).unwrap().logits().unwrap());
            // Rounding may turn which expert a row takes.
            let is_rounded = config["num_experts_per_tok"].is_number() && dtype == GgmlDType::Q8_0;
            let tolerance = if is_rounded { 0.4 } else { tolerance };
            assert!(apart(&a, &b) < tolerance, "{architecture} {dtype:?}: {}", apart(&a, &b));
        }
    }
}

/// As llama.cpp wrote Mixtral at first.
#[test]
fn experts_with_a_tensor_each_run_as_their_folder() {
    let config = common::config(json!({ "model_type": "mixtral", "head_dim": 16, "intermediate_size": 96,
        "num_local_experts": 4, "num_experts_per_tok": 2 }));
    let mut weights = common::random_weights(&config, Dtype::F32);
    let folder = common::folder(&config, &weights, 1);
    for weight in weights.iter_mut().filter(|weight| weight.name.contains(".experts.")) {
        let parts: Vec<&str> = weight.name.split('.').collect();
        let [.., expert, part, kind] = parts[..] else { panic!("{}", weight.name) };
        let part = ["gate", "down", "up"][part[1..].parse::<usize>().unwrap() - 1];
        weight.name = format!("blk.{}.ffn_{part}.{expert}.{kind}", parts[2]);
    }
    let path = folder.path().join("model.gguf");
    Writer::of("llama", &config, &weights, GgmlDType::F32).write(&path);
    let [a, b] =
        [&path, folder.path()].map(|path| trace(path, &common::prompt(157)).unwrap().logits().unwrap());
    assert!(apart(&a, &b) < 1e-5, "{}", apart(&a, &b));
}

#[test]
fn experts_that_are_not_known_are_named() {
    let (_folder, path) = quantized(GgmlDType::Q8_0);
    let mut writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    writer.set("qwen3.expert_count", Value::U32(4));
    writer.write(&path);
    assert_refused(&path, &["qwen3moe", "found qwen3 with experts"]);
    let config = common::config(json!({ "model_type": "glm4_moe", "head_dim": 16, "n_routed_experts": 8,
        "num_experts_per_tok": 3, "moe_intermediate_size": 32, "n_shared_experts": 1 }));
    let weights = common::random_weights(&config, Dtype::F32);
    for (key, value, words) in [
        (
            "expert_gating_func",
            Value::U32(4),
            ["scored by a softmax or a sigmoid", "glm4moe.expert_gating_func 4"],
        ),
        ("expert_gating_func", Value::U32(1), ["scored by a sigmoid", "softmax"]),
        ("expert_used_count", Value::U32(9), ["num_experts_per_tok from 1 to 8", "9"]),
    ] {
        let mut writer = Writer::of("glm4moe", &config, &weights, GgmlDType::F32);
        writer.set(&format!("glm4moe.{key}"), value);
        writer.write(&path);
        assert_refused(&path, &words);
    }
}
