//! The experts of a model as llama.cpp's converter writes them: one tensor for a part of all experts of a layer.

use std::collections::BTreeMap;

use candle_core::{Tensor, quantized::gguf_file::Value};
use serde_json::Value as Json;

/// Stacks the experts' tensors, by llama.cpp's names; the others stay as they are.
pub fn stacked(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Vec<(String, Tensor)> {
    let mut stacks: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    let mut others = Vec::new();
    for (name, tensor) in tensors {
        let Some((before, part)) = name.split_once(".experts.") else {
            others.push((name, tensor));
            continue;
        };
        let layer: Vec<&str> = before.split('.').collect();
        let name = |part: &str, kind: &str| format!("blk.{}.ffn_{part}_exps.{kind}", layer[2]);
        match part.split('.').collect::<Vec<_>>()[..] {
            [number, part, kind] => {
                let part = match part {
                    "w1" | "gate_proj" => "gate",
                    "w3" | "up_proj" => "up",
                    _ => "down",
                };
                stacks.entry(name(part, kind)).or_default().insert(number.parse().unwrap(), tensor);
            }
            // gpt-oss: `[n_experts, n_in, n_out]`, and biases `[n_experts, n_out]`.
            _ => {
                let (part, kind) = match part.strip_suffix("_bias") {
                    Some(part) => (part, "bias"),
                    None => (part, "weight"),
                };
                let rows = if kind == "bias" { tensor } else { tensor.transpose(1, 2).unwrap() };
                if part == "down_proj" {
                    others.push((name("down", kind), rows.contiguous().unwrap()));
                } else {
                    others.push((name("gate", kind), every_other(&rows, 0)));
                    others.push((name("up", kind), every_other(&rows, 1)));
                }
            }
        }
    }
    let stack = |(name, tensors): (String, BTreeMap<usize, Tensor>)| {
        (name, Tensor::stack(&tensors.into_values().collect::<Vec<_>>(), 0).unwrap())
    };
    others.into_iter().chain(stacks.into_iter().map(stack)).collect()
}

/// Returns the rows `first`, `first + 2`, … of each expert.
fn every_other(rows: &Tensor, first: u32) -> Tensor {
    let n = rows.dim(1).unwrap() as u32;
    let places: Vec<u32> = (first..n).step_by(2).collect();
    let places = Tensor::from_vec(places, n as usize / 2, rows.device()).unwrap();
    rows.contiguous().unwrap().index_select(&places, 1).unwrap()
}

/// Returns the metadata of experts, without the architecture's prefix.
pub fn metadata(config: &Json) -> Vec<(&'static str, Value)> {
    let whole = |name: &str| config[name].as_u64().map(|n| Value::U32(n as u32));
    let experts = ["num_experts", "num_local_experts", "n_routed_experts"];
    let Some(count) = experts.iter().find_map(|name| whole(name)) else { return Vec::new() };
    let is_glm = config["model_type"] == "glm4_moe";
    let own_width =
        if config["model_type"] == "gpt_oss" { "intermediate_size" } else { "moe_intermediate_size" };
    let entries = [
        ("expert_count", Some(count)),
        ("expert_used_count", whole("num_experts_per_tok")),
        ("expert_feed_forward_length", whole(own_width)),
        ("expert_shared_feed_forward_length", whole("shared_expert_intermediate_size")),
        ("expert_shared_count", whole("n_shared_experts")),
        ("expert_group_count", whole("n_group")),
        ("expert_group_used_count", whole("topk_group")),
        ("expert_weights_norm", config["norm_topk_prob"].as_bool().map(Value::Bool)),
        ("expert_weights_scale", config["routed_scaling_factor"].as_f64().map(|x| Value::F32(x as f32))),
        ("expert_gating_func", is_glm.then_some(Value::U32(2))),
        ("leading_dense_block_count", is_glm.then_some(Value::U32(1))),
        // A layer for drafts alone, which is not among the model's.
        ("nextn_predict_layers", is_glm.then_some(Value::U32(1))),
    ];
    entries.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// llama.cpp's names of the parts beside the experts.
pub const NAMES: [(&str, &str); 9] = [
    ("block_sparse_moe.gate.", "ffn_gate_inp."),
    ("mlp.router.", "ffn_gate_inp."),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_experts.", "mlp.shared_expert."),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
];
