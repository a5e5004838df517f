//! Translates the metadata of a GGUF file to a `config.json`.

use serde_json::{Value, json};

use super::{Gguf, experts};
use crate::{
    engine::model::{
        config::ModelConfig,
        config_file::Unsupported,
        family::{FAMILIES, Family},
        rope::RopeScaling,
        weight::Weight,
    },
    error::Error,
};

/// Reads the configuration of a GGUF file.
pub fn from_metadata(gguf: &Gguf) -> Result<ModelConfig, Error> {
    let Some(family) = gguf.family else {
        let has_experts = gguf.architecture_number("expert_count").is_some_and(|n| n > 0.0);
        let with = if has_experts { " with experts" } else { "" };
        let families = FAMILIES.iter().filter(|family| family.experts.is_some() == has_experts);
        let mut names: Vec<&str> = families.filter_map(|family| family.gguf).collect();
        names.dedup();
        let expected = format!("general.architecture {}{with}", names.join(", "));
        return Err(Unsupported::new(&expected, &format!("{}{with}", gguf.architecture)).at(&gguf.path));
    };
    check_is_whole(gguf)?;
    let mut config =
        ModelConfig::parse(json(gguf, family)?).map_err(|unsupported| unsupported.at(&gguf.path))?;
    config.norm_offset = 0.0; // llama.cpp stores the weights with the offset added
    if let Some(frequencies) = gguf.get("rope_freqs.weight")? {
        config.rope.scaling =
            RopeScaling::Divided { factors: numbers(gguf, &frequencies, config.rope.n_rotated / 2)? };
    }
    Ok(config)
}

/// Checks that a file has what every decoder needs, in the file's own names.
fn check_is_whole(gguf: &Gguf) -> Result<(), Error> {
    let key = |name: &str| {
        let is_there = gguf.architecture_number(name).is_some();
        (!is_there).then(|| format!("the key {}.{name}", gguf.architecture))
    };
    let missing =
        ["block_count", "embedding_length", "attention.head_count"].iter().find_map(|name| key(name));
    let table = || gguf.get("model.embed_tokens.weight").map(|table| table.is_none());
    match missing {
        Some(missing) => Err(incomplete(gguf, missing)),
        None if table()? => Err(incomplete(gguf, "the tensor token_embd.weight".into())),
        None => Ok(()),
    }
}

/// The error for a file without a key or a tensor that every decoder has.
fn incomplete(gguf: &Gguf, expected: String) -> Error {
    Error::model(gguf.path.display(), expected, "none", "choose another file of this model")
}

/// Returns the fields of a `config.json`; a missing one is left out.
fn json(gguf: &Gguf, of: &Family) -> Result<Value, Error> {
    let family = of.name;
    let whole = |key: &str| gguf.architecture_number(key).map(|n| n as u64);
    let has = |name: &str| gguf.get(name).is_ok_and(|weight| weight.is_some());
    let head_dim = gguf.head_dim();
    // The last ones may be for drafts alone.
    let n_drafting = whole("nextn_predict_layers").unwrap_or(0);
    let n_layers = whole("block_count").map(|n| n.saturating_sub(n_drafting));
    let vocab_size = gguf.get("model.embed_tokens.weight")?.map(|table| table.shape()[0]);
    let mut json = json!({
        "model_type": family,
        "hidden_size": whole("embedding_length"),
        "intermediate_size": whole("feed_forward_length"),
        "num_hidden_layers": n_layers,
        "num_attention_heads": whole("attention.head_count"),
        "num_key_value_heads": whole("attention.head_count_kv"),
        "head_dim": head_dim,
        "vocab_size": vocab_size,
        "rms_norm_eps": gguf.architecture_number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": whole("context_length"),
        "rope_theta": gguf.architecture_number("rope.freq_base"),
        "rope_scaling": rope_scaling(gguf, head_dim)?,
        "tie_word_embeddings": !has("lm_head.weight"),
        "attention_bias": has("model.layers.0.self_attn.o_proj.bias"),
        "sliding_window": whole("attention.sliding_window").filter(|&window| window > 0),
        "attn_logit_softcapping": gguf.architecture_number("attn_logit_softcapping"),
        "final_logit_softcapping": gguf.architecture_number("final_logit_softcapping"),
    });
    if family == "granite" {
        json["embedding_multiplier"] = json!(gguf.architecture_number("embedding_scale"));
        json["residual_multiplier"] = json!(gguf.architecture_number("residual_scale"));
        let factor = gguf.architecture_number("attention.scale").filter(|&factor| factor > 0.0);
        json["attention_multiplier"] = json!(factor.unwrap_or(1.0 / (head_dim as f64).sqrt()));
        json["logits_scaling"] = json!(gguf.architecture_number("logit_scale"));
    }
    if family.starts_with("glm") || family == "gpt_oss" {
        json["attention_bias"] = json!(has("model.layers.0.self_attn.q_proj.bias"));
    }
    if family == "glm4_moe" {
        json["use_qk_norm"] = json!(has("model.layers.0.self_attn.q_norm.weight"));
    }
    if family == "gpt_oss" {
        // Its blend between fast and slow pairs does not begin and end at whole ones, which no key says.
        json["rope_scaling"]["truncate"] = json!(false);
    }
    experts::add(gguf, of, &mut json)?;
    if family == "phi3" || family.starts_with("glm") {
        let n_rotated = gguf.architecture_number("rope.dimension_count").unwrap_or(head_dim as f64);
        json["partial_rotary_factor"] = json!(n_rotated / head_dim as f64);
    }
    if family.starts_with("gemma") {
        json["hidden_activation"] = json!("gelu_pytorch_tanh");
        json["query_pre_attn_scalar"] = json!(query_scalar(gguf, head_dim));
    }
    if family == "gemma3_text" {
        json["rope_local_base_freq"] = json!(10_000.0);
    }
    // A field without a value is left out, so that it gets its default or is named as missing.
    json.as_object_mut().into_iter().for_each(|fields| fields.retain(|_, value| !value.is_null()));
    Ok(json)
}

/// Returns Gemma's `query_pre_attn_scalar`, which the file does not have. It is hidden size over heads for
/// the 27B models of Gemma 2 and 3, which have 46 and 62 layers, and the head size for the others.
fn query_scalar(gguf: &Gguf, head_dim: usize) -> f64 {
    let hidden = gguf.architecture_number("embedding_length").unwrap_or(1.0);
    let n_heads = gguf.architecture_number("attention.head_count").unwrap_or(1.0);
    match gguf.architecture_number("block_count") {
        Some(46.0 | 62.0) => hidden / n_heads.max(1.0),
        _ => head_dim as f64,
    }
}

fn rope_scaling(gguf: &Gguf, head_dim: usize) -> Result<Option<Value>, Error> {
    let setting = |key: &str| gguf.architecture_number(&format!("rope.scaling.{key}"));
    let mut scaling = json!({
        "factor": setting("factor"),
        "original_max_position_embeddings": setting("original_context_length"),
    });
    let n_rotated = gguf.architecture_number("rope.dimension_count").map_or(head_dim, |n| n as usize);
    if let (Some(long), Some(short)) =
        (gguf.get("rope_factors_long.weight")?, gguf.get("rope_factors_short.weight")?)
    {
        scaling["rope_type"] = json!("longrope");
        scaling["attention_factor"] = json!(setting("attn_factor"));
        scaling["long_factor"] = json!(numbers(gguf, &long, n_rotated / 2)?);
        scaling["short_factor"] = json!(numbers(gguf, &short, n_rotated / 2)?);
        return Ok(Some(scaling));
    }
    let kind = gguf.text(&format!("{}.rope.scaling.type", gguf.architecture));
    Ok(kind.filter(|kind| kind != "none").map(|kind| {
        scaling["rope_type"] = json!(kind);
        scaling
    }))
}

/// Reads `n` numbers above 0, stored as f32.
fn numbers(gguf: &Gguf, weight: &Weight, n: usize) -> Result<Vec<f64>, Error> {
    let values = weight.read()?;
    let values: Vec<f64> =
        values.view().data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
    if values.len() == n && values.iter().all(|&x| x > 0.0) {
        return Ok(values);
    }
    Err(Error::model(
        gguf.path.display(),
        format!("{n} rope factors above 0"),
        format!("{} numbers", values.len()),
        "choose another file of this model",
    ))
}
