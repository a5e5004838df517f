//! The settings of experts in a GGUF file's metadata, as fields of a `config.json`.

use serde_json::{Value, json};

use super::Gguf;
use crate::{
    engine::model::family::{Family, Score},
    error::Error,
};

/// llama.cpp's numbers of what a logit of an expert means.
const SOFTMAX: f64 = 1.0;
const SIGMOID: f64 = 2.0;
const SOFTMAX_OF_CHOSEN: f64 = 3.0;

/// Adds the fields of a family with experts to a `config.json`.
///
/// # Errors
/// [`Error::Model`] for another way of scoring experts than the family's.
pub fn add(gguf: &Gguf, family: &Family, json: &mut Value) -> Result<(), Error> {
    let Some(routed) = family.experts else { return Ok(()) };
    let number = |key: &str| gguf.architecture_number(&format!("expert_{key}"));
    let whole = |key: &str| number(key).map(|n| n as usize);
    let first = gguf.architecture_number("leading_dense_block_count").unwrap_or(0.0) as usize;
    // Not every converter wrote the widths.
    let width = |name: &str| {
        let name = format!("model.layers.{first}.mlp.{name}.weight");
        Some(*gguf.get(&name).ok()??.shape().last()?)
    };
    let own_width = whole("feed_forward_length").or_else(|| width("experts.down_proj"));
    let scores = match number("gating_func").filter(|&n| n != 0.0) {
        None => routed.score,
        Some(SOFTMAX | SOFTMAX_OF_CHOSEN) => Score::Softmax,
        Some(SIGMOID) => Score::Sigmoid,
        Some(n) => {
            let found = format!("{}.expert_gating_func {n}", gguf.architecture);
            return Err(refused(gguf, "experts scored by a softmax or a sigmoid", found));
        }
    };
    if scores != routed.score {
        let expected = format!("experts scored by a {}, as {} has them", word(routed.score), family.name);
        return Err(refused(gguf, &expected, format!("a {}", word(scores))));
    }
    json["num_experts"] = json!(whole("count"));
    json["num_experts_per_tok"] = json!(whole("used_count"));
    if routed.has_own_width {
        json["moe_intermediate_size"] = json!(own_width);
    } else if let Some(width) = own_width {
        json["intermediate_size"] = json!(width);
    }
    if routed.shared_gate.is_some() {
        json["shared_expert_intermediate_size"] =
            json!(whole("shared_feed_forward_length").or_else(|| width("shared_expert.down_proj")));
    } else if routed.shared.is_some() {
        json["n_shared_experts"] = json!(whole("shared_count"));
    }
    // llama.cpp always normalises those of Qwen3, whose files do not say so.
    let normalised = gguf.architecture_switch("expert_weights_norm");
    json["norm_topk_prob"] = json!(normalised.or((family.name == "qwen3_moe").then_some(true)));
    json["routed_scaling_factor"] = json!(number("weights_scale").filter(|&scale| scale > 0.0));
    json["n_group"] = json!(whole("group_count").filter(|&n| n > 0));
    json["topk_group"] = json!(whole("group_used_count").filter(|&n| n > 0));
    json["first_k_dense_replace"] = json!(first);
    Ok(())
}

fn refused(gguf: &Gguf, expected: &str, found: String) -> Error {
    Error::model(gguf.path.display(), expected, found, "choose another model")
}

fn word(score: Score) -> &'static str {
    match score {
        Score::Softmax => "softmax",
        Score::Sigmoid => "sigmoid",
    }
}
