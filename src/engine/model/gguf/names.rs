//! llama.cpp's names of tensors.

use crate::engine::model::family::Norms;

/// Translates Hugging Face's name of a tensor to llama.cpp's; `None` if llama.cpp has no such tensor.
pub fn in_gguf(norms: &Norms, name: &str) -> Option<String> {
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
    Some(format!("blk.{layer}.{}.{kind}", layer_part(part, norms)?))
}

/// Translates the name of a layer's part; that of a norm by what it is of, as families call them differently.
fn layer_part(part: &str, norms: &Norms) -> Option<&'static str> {
    for (norm, name) in [
        (norms.attention, "attn_norm"),
        (norms.after_attention, "post_attention_norm"),
        (norms.mlp, "ffn_norm"),
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
        _ => return None,
    })
}
