//! Model folders with random weights, small enough to be written and run in milliseconds.
// Each test file compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod experts;
pub mod messages;

use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use streamtrace::{DeviceChoice, Error, LoadOptions, Tracer};
use tempfile::TempDir;

/// Number of words in the tokenizer: `w0`, `w1`, …, and the unknown word.
pub const VOCABULARY: usize = 97;

/// One tensor of a weights file.
#[derive(Clone)]
pub struct Weight {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub bytes: Vec<u8>,
}

/// Returns the `config.json` of a small decoder; `changes` are added or replace its fields.
pub fn config(changes: Value) -> Value {
    let mut config = json!({
        "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "max_position_embeddings": 4096,
        "hidden_act": "silu", "tie_word_embeddings": false,
    });
    set(&mut config, changes);
    config
}

/// Adds fields to an object, replacing those of the same name.
pub fn set(object: &mut Value, changes: Value) {
    for (name, value) in changes.as_object().expect("an object of changes") {
        object[name] = value.clone();
    }
}

/// Returns random values for every weight of a decoder with this configuration.
pub fn random_weights(config: &Value, dtype: Dtype) -> Vec<Weight> {
    let mut random = fastrand::Rng::with_seed(7);
    let norms = if is_gemma(config) { 0.0 } else { 1.0 };
    shapes(config)
        .into_iter()
        .map(|(name, shape)| random_weight(&mut random, name, shape, dtype, norms))
        .collect()
}

/// Returns whether norms are stored minus 1, and a layer has four of them.
fn is_gemma(config: &Value) -> bool {
    config["model_type"].as_str().is_some_and(|family| family.starts_with("gemma"))
}

/// Draws norms' weights, which vary around `norms`.
fn random_weight(
    random: &mut fastrand::Rng,
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    norms: f32,
) -> Weight {
    let centre = if name.contains("norm") { norms } else { 0.0 };
    if let Some(weight) = in_blocks(&name, &shape, || random.f32().into()) {
        return weight;
    }
    // Products keep the magnitude of their inputs; embeddings and biases have magnitude 1.
    let is_matrix = shape.len() > 1 && !name.contains("embed");
    let spread = if is_matrix { (3.0 / shape[shape.len() - 1] as f32).sqrt() } else { 0.7 };
    let values = (0..shape.iter().product()).map(|_| centre + spread * (2.0 * random.f32() - 1.0));
    let bytes = match dtype {
        Dtype::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.flat_map(|v| v.to_le_bytes()).collect(),
    };
    Weight { name, shape, dtype, bytes }
}

/// Draws MXFP4 blocks or their exponents, if a tensor of this name holds them; `random` gives numbers from 0 to 1.
pub fn in_blocks(name: &str, shape: &[usize], mut random: impl FnMut() -> f64) -> Option<Weight> {
    let byte: fn(f64) -> u8 = match () {
        () if name.ends_with("_blocks") => |x| (x * 256.0) as u8,
        () if name.ends_with("_scales") => |x| 122 + (x * 3.0) as u8,
        () => return None,
    };
    let bytes = (0..shape.iter().product()).map(|_| byte(random())).collect();
    Some(Weight { name: name.into(), shape: shape.into(), dtype: Dtype::U8, bytes })
}

/// Returns the names and shapes, in the layout of Hugging Face.
pub fn shapes(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |name: &str| config[name].as_u64().map(|n| n as usize);
    let need = |name: &str| size(name).expect(name);
    let (hidden, inner, n_heads, n_kv_heads) = (
        need("hidden_size"),
        need("intermediate_size"),
        need("num_attention_heads"),
        need("num_key_value_heads"),
    );
    let head_dim = size("head_dim").unwrap_or(hidden / n_heads);
    let (family, is) = (&config["model_type"], |name: &str| config[name] == true);
    let one_of = |names: &[&str]| names.iter().any(|name| family == *name);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![need("vocab_size"), hidden]),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    if !is("tie_word_embeddings") {
        shapes.push(("lm_head.weight".into(), vec![need("vocab_size"), hidden]));
    }
    for layer in 0..need("num_hidden_layers") {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()))
        };
        // gpt-oss has biases if nothing is said.
        let has_bias = is("attention_bias") || (family == "gpt_oss" && config["attention_bias"].is_null());
        let (is_olmo, is_glm) = (one_of(&["olmo2", "olmo3"]), one_of(&["glm", "glm4"]));
        if !is_olmo {
            add("input_layernorm.weight", &[hidden]);
        }
        add("post_attention_layernorm.weight", &[hidden]);
        if is_gemma(config) {
            add("pre_feedforward_layernorm.weight", &[hidden]);
        }
        if is_gemma(config) || is_olmo {
            add("post_feedforward_layernorm.weight", &[hidden]);
        }
        if family == "glm4" {
            add("post_self_attn_layernorm.weight", &[hidden]);
            add("post_mlp_layernorm.weight", &[hidden]);
        }
        if family == "phi3" {
            add("self_attn.qkv_proj.weight", &[(n_heads + 2 * n_kv_heads) * head_dim, hidden]);
        }
        if family == "phi3" || is_glm {
            add("mlp.gate_up_proj.weight", &[2 * inner, hidden]);
        }
        let apart = if family == "phi3" { 0..0 } else { 0..3 };
        for (name, n_out) in [("q", n_heads), ("k", n_kv_heads), ("v", n_kv_heads)][apart].iter().copied() {
            add(&format!("self_attn.{name}_proj.weight"), &[n_out * head_dim, hidden]);
            if one_of(&["qwen2", "qwen2_moe"]) || has_bias {
                add(&format!("self_attn.{name}_proj.bias"), &[n_out * head_dim]);
            }
        }
        add("self_attn.o_proj.weight", &[hidden, n_heads * head_dim]);
        if has_bias && !is_glm && family != "glm4_moe" {
            add("self_attn.o_proj.bias", &[hidden]);
        }
        if is_olmo || family == "olmoe" {
            add("self_attn.q_norm.weight", &[n_heads * head_dim]);
            add("self_attn.k_norm.weight", &[n_kv_heads * head_dim]);
        }
        if one_of(&["qwen3", "qwen3_moe", "gemma3_text"]) || is("use_qk_norm") {
            add("self_attn.q_norm.weight", &[head_dim]);
            add("self_attn.k_norm.weight", &[head_dim]);
        }
        if family == "gpt_oss" {
            add("self_attn.sinks", &[n_heads]);
        }
        if let Some(experts) = experts::shapes(config, layer) {
            experts.iter().for_each(|(name, shape)| add(name, shape));
            continue;
        }
        let parts = if family == "phi3" || is_glm { 0..0 } else { 0..2 };
        for (name, shape) in [
            [("gate", [inner, hidden]), ("up", [inner, hidden])][parts].to_vec(),
            vec![("down", [hidden, inner])],
        ]
        .concat()
        {
            add(&format!("mlp.{name}_proj.weight"), &shape);
            if is("mlp_bias") {
                add(&format!("mlp.{name}_proj.bias"), &shape[..1]);
            }
        }
    }
    shapes
}

/// Returns a model folder with all its files; the weights in one file, or in shards with an index.
pub fn folder(config: &Value, weights: &[Weight], n_shards: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    let write =
        |name: &str, json: &Value| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    write("config.json", config);
    write("tokenizer.json", &tokenizer(VOCABULARY));
    if n_shards == 1 {
        write_weights(&folder.path().join("model.safetensors"), weights);
        return folder;
    }
    let mut files = serde_json::Map::new();
    for (i, shard) in weights.chunks(weights.len().div_ceil(n_shards)).enumerate() {
        let name = format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1);
        write_weights(&folder.path().join(&name), shard);
        files.extend(shard.iter().map(|weight| (weight.name.clone(), json!(name))));
    }
    write("model.safetensors.index.json", &json!({ "metadata": {}, "weight_map": files }));
    folder
}

/// Returns a folder of a model with random weights in f32.
pub fn random_model(changes: Value) -> TempDir {
    let config = config(changes);
    folder(&config, &random_weights(&config, Dtype::F32), 1)
}

/// Opens a model folder on the CPU.
///
/// # Errors
/// As [`Tracer::load_with`].
pub fn load(folder: &Path) -> Result<Tracer, Error> {
    Tracer::load_with(cpu(folder))
}

/// Returns the options for a model folder on the CPU.
pub fn cpu(folder: &Path) -> LoadOptions {
    LoadOptions { model: folder.into(), device: DeviceChoice::Cpu, ..LoadOptions::default() }
}

pub fn write_weights(path: &Path, weights: &[Weight]) {
    let views =
        weights.iter().map(|w| (&w.name, TensorView::new(w.dtype, w.shape.clone(), &w.bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Returns the `tokenizer.json` of a tokenizer that splits text at white space.
pub fn tokenizer(n_words: usize) -> Value {
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..n_words - 1).map(|i| (format!("w{i}"), json!(i))).collect();
    vocabulary.insert("[UNK]".into(), json!(n_words - 1));
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    })
}

/// Returns random words.
pub fn prompt(n_tokens: usize) -> String {
    let mut random = fastrand::Rng::with_seed(11);
    let words: Vec<_> = (0..n_tokens).map(|_| format!("w{}", random.usize(..VOCABULARY - 1))).collect();
    words.join(" ")
}
