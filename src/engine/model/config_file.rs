//! The fields of `config.json`, with Hugging Face's names. Unknown fields are ignored, as there are many.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::family::{FAMILIES, Family};
use crate::error::Error;

/// The largest size that is accepted: above any decoder's, and a product of three does not overflow.
pub const MAX_SIZE: usize = 1 << 20;

/// The fields that the decoder depends on.
#[derive(Deserialize)]
pub struct ConfigFile {
    #[serde(skip, default = "llama")]
    pub family: &'static Family,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub vocab_size: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    pub max_position_embeddings: Option<f64>,
    pub original_max_position_embeddings: Option<f64>,
    pub rope_theta: Option<f64>,
    pub rope_local_base_freq: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub rope_scaling: Option<RopeFile>,
    pub rope_parameters: Option<RopeFile>,
    pub tie_word_embeddings: Option<bool>,
    pub attention_bias: Option<bool>,
    #[serde(default)]
    pub mlp_bias: bool,
    pub embedding_multiplier: Option<f64>,
    pub residual_multiplier: Option<f64>,
    pub attention_multiplier: Option<f64>,
    pub logits_scaling: Option<f64>,
    pub no_rope_layers: Option<Vec<u8>>,
    pub no_rope_layer_interval: Option<usize>,
    pub query_pre_attn_scalar: Option<f64>,
    pub attn_logit_softcapping: Option<f64>,
    pub final_logit_softcapping: Option<f64>,
    pub sliding_window: Option<usize>,
    pub sliding_window_pattern: Option<usize>,
    /// The other name of `sliding_window_pattern`; files may have both.
    #[serde(rename = "_sliding_window_pattern")]
    pub hidden_sliding_window_pattern: Option<usize>,
    pub use_sliding_window: Option<bool>,
    pub max_window_layers: Option<usize>,
    pub layer_types: Option<Vec<String>>,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    /// Gemma's name of `hidden_act`; it takes precedence.
    pub hidden_activation: Option<String>,
    pub quantization_config: Option<Value>,
    pub num_experts: Option<usize>,
    pub num_local_experts: Option<usize>,
    pub n_routed_experts: Option<usize>,
    pub num_experts_per_tok: Option<usize>,
    pub moe_intermediate_size: Option<usize>,
    pub shared_expert_intermediate_size: Option<usize>,
    pub n_shared_experts: Option<usize>,
    pub norm_topk_prob: Option<bool>,
    pub routed_scaling_factor: Option<f64>,
    pub n_group: Option<usize>,
    pub topk_group: Option<usize>,
    pub mlp_only_layers: Option<Vec<usize>>,
    pub decoder_sparse_step: Option<usize>,
    pub first_k_dense_replace: Option<usize>,
    pub use_qk_norm: Option<bool>,
    pub clip_qkv: Option<f64>,
    pub swiglu_limit: Option<f64>,
    pub swiglu_alpha: Option<f64>,
    #[serde(default)]
    pub use_bidirectional_attention: Value,
}

/// `rope_scaling`, or the newer `rope_parameters`, which may have one entry for each kind of layer.
#[derive(Default, Deserialize)]
pub struct RopeFile {
    pub full_attention: Option<Box<RopeFile>>,
    pub sliding_attention: Option<Box<RopeFile>>,
    pub rope_type: Option<String>,
    /// The older name of `rope_type`; files may have both.
    pub r#type: Option<String>,
    pub rope_theta: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub factor: Option<f64>,
    pub low_freq_factor: Option<f64>,
    pub high_freq_factor: Option<f64>,
    pub short_factor: Option<Vec<f64>>,
    pub long_factor: Option<Vec<f64>>,
    pub beta_fast: Option<f64>,
    pub beta_slow: Option<f64>,
    pub attention_factor: Option<f64>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    pub original_max_position_embeddings: Option<f64>,
    pub truncate: Option<bool>,
}

fn llama() -> &'static Family {
    &FAMILIES[0]
}

fn default_eps() -> f64 {
    1e-6
}

fn default_act() -> String {
    "silu".into()
}

impl ConfigFile {
    /// Reads the fields, and refuses settings that no supported decoder has.
    pub(super) fn parse(json: Value) -> Result<Self, Unsupported> {
        let name = json["model_type"].as_str().unwrap_or("none").to_string();
        let mut json = if name == "gemma3" { text_part(&json) } else { json };
        let name = if name == "gemma3" { "gemma3_text" } else { &name };
        let Some(family) = Family::of_name(name) else {
            let found = Unsupported::new(&format!("model_type {}", Family::names()), name);
            return Err(found.with_fix(
                "choose a model of a supported family; if this one is built like one of these, say so: --as llama",
            ));
        };
        drop_nulls(&mut json);
        let file: Self = Self::deserialize(&json).map_err(|why| Unsupported::broken(&json, &why))?;
        let file = ConfigFile { family, ..file };
        let quantization = file.quantization_config.as_ref();
        let is_read = |method: &str| family.name == "gpt_oss" && method == "mxfp4";
        if let Some(quantization) = quantization.filter(|settings| **settings != json!({}))
            && let method = quantization["quant_method"].as_str().unwrap_or("a quantization_config")
            && !is_read(method)
        {
            let found = Unsupported::new("weights in f32, f16 or bf16", method);
            return Err(found.with_fix("take the model that is not quantized, or its GGUF file"));
        }
        for (name, value, read) in
            [("clip_qkv", file.clip_qkv, None), ("swiglu_alpha", file.swiglu_alpha, Some(1.702))]
        {
            if let Some(value) = value.filter(|value| Some(*value) != read) {
                let expected = read.map_or(format!("no {name}"), |read| format!("{name} {read}"));
                return Err(Unsupported::new(&expected, &value.to_string()));
            }
        }
        match &file.use_bidirectional_attention {
            Value::Null | Value::Bool(false) => Ok(file),
            other => Err(Unsupported::new(
                "attention to what came before",
                &format!("use_bidirectional_attention {other}"),
            )),
        }
    }
}

/// Returns the configuration of the language model in a Gemma 3 with vision. The file leaves out the defaults
/// of Hugging Face's `Gemma3TextConfig`.
fn text_part(json: &Value) -> Value {
    let mut text = json!({
        "model_type": "gemma3_text", "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "rope_theta": 1e6, "rope_local_base_freq": 1e4, "max_position_embeddings": 131_072,
    });
    for (name, value) in json["text_config"].as_object().into_iter().flatten() {
        text[name] = value.clone();
    }
    // How the weights are stored is said once for all parts.
    if let Some(quantization) =
        json.get("quantization_config").filter(|_| text["quantization_config"].is_null())
    {
        text["quantization_config"] = quantization.clone();
    }
    text
}

/// Removes fields that are null, which is another way of leaving them out.
fn drop_nulls(json: &mut Value) {
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

/// A setting that is not supported, before the file's path is known.
#[derive(Debug)]
pub(super) struct Unsupported {
    pub expected: String,
    pub found: String,
    fix: String,
}

impl Unsupported {
    /// Takes the supported values and the one in the file.
    pub fn new(expected: &str, found: &str) -> Self {
        Unsupported {
            expected: expected.into(),
            found: found.into(),
            fix: "choose a model of a supported family".into(),
        }
    }

    /// Replaces the advice.
    pub fn with_fix(self, fix: &str) -> Self {
        Unsupported { fix: fix.into(), ..self }
    }

    /// The error for fields that are not those of a decoder's configuration; names the field.
    fn broken(json: &Value, why: &serde_json::Error) -> Self {
        let why = why.to_string();
        // Without the field at fault something else is wrong, or nothing.
        let is_at_fault = |name: &&String| {
            let mut without = json.clone();
            without.as_object_mut().and_then(|fields| fields.remove(*name));
            ConfigFile::deserialize(&without).err().map(|e| e.to_string()) != Some(why.clone())
        };
        let has_value = !why.starts_with("missing field");
        let field = json.as_object().filter(|_| has_value).and_then(|fields| fields.keys().find(is_at_fault));
        let found = field.map_or(why.clone(), |field| format!("{field}: {why}"));
        let fix = format!("is this the config.json of a language model ({})?", Family::names());
        Unsupported { expected: "a decoder's configuration".into(), found, fix }
    }

    /// Adds the file's path.
    pub fn at(self, path: &Path) -> Error {
        let Unsupported { expected, found, fix } = self;
        Error::model(path.display(), expected, found, fix)
    }
}
