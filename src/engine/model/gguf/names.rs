//! llama.cpp's names of tensors.

use crate::engine::model::family::Family;

/// Translates Hugging Face's name of a tensor to llama.cpp's; `None` if llama.cpp has no such tensor.
pub fn in_gguf(family: &Family, name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if let Some(stem) = match stem {
        "model.embed_tokens" => Some("token_embd"),
        "model.norm" => Some("output_norm"),
        "lm_head" => Some("output"),
        "rope_factors_long" | "rope_factors_short" | "rope_freqs" => Some(stem),
        _ => None,
    } {
        return Some(format!("{stem}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    if part == "self_attn" && kind == "sinks" {
        return Some(format!("blk.{layer}.attn_sinks.weight"));
    }
    if part == "mlp.gate" && kind == "e_score_correction_bias" {
        return Some(format!("blk.{layer}.exp_probs_b.bias"));
    }
    let part = layer_part(part, family).map(Into::into).or_else(|| part_of_expert(part));
    Some(format!("blk.{layer}.{}.{kind}", part?))
}

/// Translates the name of a layer's part; that of a norm by what it is of, as families call them differently.
fn layer_part(part: &str, family: &Family) -> Option<&'static str> {
    let norms = &family.norms;
    // Called by its place, after attention, and not by what follows it.
    let is_late = ["glm4_moe", "gpt_oss"].contains(&family.name);
    for (norm, name) in [
        (norms.attention, "attn_norm"),
        (norms.after_attention, "post_attention_norm"),
        (norms.mlp, if is_late { "post_attention_norm" } else { "ffn_norm" }),
        (norms.after_mlp, "post_ffw_norm"),
    ] {
        if norm == Some(part) {
            return Some(name);
        }
    }
    Some(match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "mlp.gate" | "mlp.router" | "block_sparse_moe.gate" => "ffn_gate_inp",
        "mlp.shared_expert_gate" => "ffn_gate_inp_shexp",
        _ => return None,
    })
}

/// Translates the name of a part of one expert, of all together, or of the block that every row takes.
fn part_of_expert(part: &str) -> Option<String> {
    let (_, part) = part.split_once('.')?;
    let (of, part) = part.split_once('.')?;
    let (number, part) = part.split_once('.').map_or((None, part), |(number, part)| (Some(number), part));
    let part = match part {
        "gate_proj" | "w1" => "ffn_gate",
        "up_proj" | "w3" => "ffn_up",
        "down_proj" | "w2" => "ffn_down",
        "gate_up_proj" => "ffn_gate_up",
        _ => return None,
    };
    match (of, number) {
        ("experts", Some(number)) => Some(format!("{part}.{number}")),
        ("experts", None) => Some(format!("{part}_exps")),
        ("shared_expert" | "shared_experts", None) => Some(format!("{part}_shexp")),
        _ => None,
    }
}
