//! The tensors of layers with experts, in the layout of Hugging Face.

use serde_json::Value;

/// Returns names and shapes of a layer's feed-forward block, if it has experts.
pub fn shapes(config: &Value, layer: usize) -> Option<Vec<(String, Vec<usize>)>> {
    let family = config["model_type"].as_str()?;
    let size = |names: &[&str]| names.iter().find_map(|name| config[*name].as_u64()).map(|n| n as usize);
    let n = size(&["num_experts", "num_local_experts", "n_routed_experts"])?;
    let first = if family == "glm4_moe" { size(&["first_k_dense_replace"]).unwrap_or(1) } else { 0 };
    let step = size(&["decoder_sparse_step"]).unwrap_or(1);
    let dense = config["mlp_only_layers"].as_array().cloned().unwrap_or_default();
    if layer < first || !(layer + 1).is_multiple_of(step) || dense.contains(&layer.into()) {
        return None;
    }
    let hidden = size(&["hidden_size"])?;
    let inner = size(&["moe_intermediate_size", "intermediate_size"])?;
    let mut shapes = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    let (block, router) = match family {
        "mixtral" => ("block_sparse_moe", "gate"),
        "gpt_oss" => ("mlp", "router"),
        _ => ("mlp", "gate"),
    };
    add(format!("{block}.{router}.weight"), &[n, hidden]);
    match family {
        "gpt_oss" => {
            add("mlp.router.bias".into(), &[n]);
            for (part, n_out, n_in) in [("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)] {
                let name = format!("mlp.experts.{part}");
                add(format!("{name}_bias"), &[n, n_out]);
                if config["quantization_config"].is_object() {
                    add(format!("{name}_blocks"), &[n, n_out, n_in / 32, 16]);
                    add(format!("{name}_scales"), &[n, n_out, n_in / 32]);
                } else {
                    add(name, &[n, n_in, n_out]);
                }
            }
        }
        _ => {
            let names =
                if family == "mixtral" { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
            for i in 0..n {
                for (name, shape) in names.iter().zip([[inner, hidden], [inner, hidden], [hidden, inner]]) {
                    add(format!("{block}.experts.{i}.{name}.weight"), &shape);
                }
            }
        }
    }
    let shared = match family {
        "qwen2_moe" => size(&["shared_expert_intermediate_size"]).map(|inner| ("shared_expert", inner)),
        "glm4_moe" => size(&["n_shared_experts"]).map(|n| ("shared_experts", n * inner)),
        _ => None,
    };
    if let Some((name, inner)) = shared {
        for (part, shape) in [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])] {
            add(format!("mlp.{name}.{part}_proj.weight"), &shape);
        }
    }
    match family {
        "qwen2_moe" => add("mlp.shared_expert_gate.weight".into(), &[1, hidden]),
        "glm4_moe" => add("mlp.gate.e_score_correction_bias".into(), &[n]),
        _ => {}
    }
    Some(shapes)
}
