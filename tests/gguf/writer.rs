//! Writes a model in the way of llama.cpp's converter.

#[path = "experts.rs"]
mod experts;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{
    DType, Device, Tensor,
    quantized::{
        GgmlDType, QStorage, QTensor,
        gguf_file::{self, Value},
    },
};
use serde_json::Value as Json;

use crate::common::Weight;

pub struct Writer {
    metadata: BTreeMap<String, Value>,
    tensors: Vec<(String, QTensor)>,
}

impl Writer {
    /// Returns a model without a tokenizer.
    pub fn of(architecture: &str, config: &Json, weights: &[Weight], dtype: GgmlDType) -> Self {
        let tensors = weights.iter().map(|weight| {
            let tensor =
                Tensor::from_raw_buffer(&weight.bytes, DType::F32, &weight.shape, &Device::Cpu).unwrap();
            (weight.name.clone(), tensor)
        });
        Self::of_tensors(architecture, config, tensors, dtype)
    }

    /// Returns a model folder with a byte-level tokenizer.
    pub fn of_folder(architecture: &str, folder: &Path, dtype: GgmlDType) -> Self {
        let json =
            |name: &str| -> Json { serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap() };
        let weights = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let mut writer = Self::of_tensors(architecture, &json("config.json"), weights, dtype);
        let tokenizer = json("tokenizer.json");
        let vocabulary: BTreeMap<u64, &String> = tokenizer["model"]["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(token, id)| (id.as_u64().unwrap(), token))
            .collect();
        let merge = |merge: &Json| match merge {
            Json::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            text => text.as_str().unwrap().into(),
        };
        let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge);
        let kinds = (0..vocabulary.len()).map(|id| Value::I32(if id == 0 { 3 } else { 1 }));
        writer.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        writer.set("tokenizer.ggml.pre", Value::String("smollm".into()));
        writer.set("tokenizer.ggml.token_type", Value::Array(kinds.collect()));
        writer.set("tokenizer.ggml.merges", Value::Array(merges.map(Value::String).collect()));
        writer.set(
            "tokenizer.ggml.tokens",
            Value::Array(vocabulary.into_values().cloned().map(Value::String).collect()),
        );
        writer.set("tokenizer.ggml.eos_token_id", Value::U32(0));
        writer
    }

    fn of_tensors(
        architecture: &str,
        config: &Json,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        dtype: GgmlDType,
    ) -> Self {
        let mut writer = Writer { metadata: metadata(architecture, config), tensors: Vec::new() };
        let size = |name: &str| config[name].as_u64().unwrap() as usize;
        for (name, tensor) in experts::stacked(tensors) {
            let mut tensor = tensor.to_dtype(DType::F32).unwrap();
            if ["llama", "granite", "smollm3"].contains(&architecture)
                && (name.contains("q_proj") || name.contains("k_proj"))
            {
                let (n_rows, width) = tensor.dims2().unwrap();
                let heads =
                    tensor.reshape((n_rows / size("head_dim"), 2, size("head_dim") / 2, width)).unwrap();
                tensor =
                    heads.transpose(1, 2).unwrap().contiguous().unwrap().reshape((n_rows, width)).unwrap();
            }
            if name.contains("shared_expert_gate") {
                tensor = tensor.flatten_all().unwrap();
            }
            if architecture.starts_with("gemma") && name.contains("norm") {
                tensor = (tensor + 1.0).unwrap();
            }
            writer.add(
                &renamed(architecture, &name),
                &tensor,
                if tensor.rank() > 1 { dtype } else { GgmlDType::F32 },
            );
        }
        writer.rope_factors(config);
        writer
    }

    /// Writes Llama 3's scaling as factors, and LongRoPE's factors.
    fn rope_factors(&mut self, config: &Json) {
        let (scaling, number) = (&config["rope_scaling"], |value: &Json| value.as_f64().unwrap());
        let mut add = |name: &str, factors: Vec<f32>| {
            let n = factors.len();
            self.add(
                &format!("{name}.weight"),
                &Tensor::from_vec(factors, n, &Device::Cpu).unwrap(),
                GgmlDType::F32,
            );
        };
        if scaling["rope_type"] == "llama3" {
            let n = config["head_dim"].as_u64().unwrap() / 2;
            let [factor, low, high, original] =
                ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
                    .map(|name| number(&scaling[name]));
            let of = |i: u64| {
                let wavelength =
                    std::f64::consts::TAU * number(&config["rope_theta"]).powf(i as f64 / n as f64);
                let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            };
            add("rope_freqs", (0..n).map(of).collect());
        }
        for (name, key) in [("rope_factors_long", "long_factor"), ("rope_factors_short", "short_factor")] {
            if let Some(factors) = scaling[key].as_array() {
                add(name, factors.iter().map(|factor| number(factor) as f32).collect());
            }
        }
    }

    /// Adds a tensor; rows that are not a multiple of the block size are stored in smaller blocks.
    fn add(&mut self, name: &str, tensor: &Tensor, dtype: GgmlDType) {
        let is_whole = tensor.dims().last().is_some_and(|width| width.is_multiple_of(dtype.block_size()));
        let dtype = if is_whole { dtype } else { GgmlDType::Q8_0 };
        self.tensors.push((name.into(), QTensor::quantize(tensor, dtype).unwrap()));
    }

    /// Adds bytes as a tensor of f16 with three dimensions.
    pub fn add_bytes(&mut self, name: &str, bytes: &[u8]) {
        let storage = QStorage::from_data(bytes.into(), &Device::Cpu, GgmlDType::F16).unwrap();
        self.tensors.push((name.into(), QTensor::new(storage, (1, 1, bytes.len() / 2)).unwrap()));
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.into(), value);
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.remove(key);
    }

    pub fn drop_tensor(&mut self, name: &str) {
        self.tensors.retain(|(other, _)| other != name);
    }

    /// Writes the model in three parts, the metadata in the first; returns their paths.
    pub fn write_parts(&self, folder: &Path, stem: &str) -> Vec<PathBuf> {
        let n_parts = 3;
        let write = |(i, tensors): (usize, &[(String, QTensor)])| {
            let path = folder.join(format!("{stem}-{:05}-of-{n_parts:05}.gguf", i + 1));
            let (number, count) = (Value::U16(i as u16), Value::U16(n_parts as u16));
            let mut metadata = vec![("split.no", &number), ("split.count", &count)];
            metadata
                .extend(self.metadata.iter().map(|(key, value)| (key.as_str(), value)).filter(|_| i == 0));
            let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            gguf_file::write(&mut fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
            path
        };
        self.tensors.chunks(self.tensors.len().div_ceil(n_parts)).enumerate().map(write).collect()
    }

    pub fn write(&self, path: &Path) {
        let metadata: Vec<(&str, &Value)> =
            self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
}

fn metadata(architecture: &str, config: &Json) -> BTreeMap<String, Value> {
    let mut metadata =
        BTreeMap::from([("general.architecture".to_string(), Value::String(architecture.into()))]);
    let mut set = |key: &str, value| metadata.insert(format!("{architecture}.{key}"), value);
    for (key, name) in [
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("block_count", "num_hidden_layers"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("context_length", "max_position_embeddings"),
        ("attention.sliding_window", "sliding_window"),
    ] {
        config[name].as_u64().map(|n| set(key, Value::U32(n as u32)));
    }
    let is_drafting = config["model_type"] == "glm4_moe";
    config["num_hidden_layers"]
        .as_u64()
        .map(|n| set("block_count", Value::U32(n as u32 + u32::from(is_drafting))));
    experts::metadata(config).into_iter().for_each(|(key, value)| drop(set(key, value)));
    for (key, name) in [
        ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("rope.freq_base", "rope_theta"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("attention.scale", "attention_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        config[name].as_f64().map(|n| set(key, Value::F32(n as f32)));
    }
    if let Some(share) = config["partial_rotary_factor"].as_f64() {
        set("rope.dimension_count", Value::U32((share * config["head_dim"].as_f64().unwrap()) as u32));
    }
    if let Some(original) = config["original_max_position_embeddings"].as_u64() {
        set("rope.scaling.original_context_length", Value::U32(original as u32));
    }
    let scaling = &config["rope_scaling"];
    if let Some(kind @ ("linear" | "yarn")) = scaling["rope_type"].as_str() {
        set("rope.scaling.type", Value::String(kind.into()));
        set("rope.scaling.factor", Value::F32(scaling["factor"].as_f64().unwrap() as f32));
        scaling["original_max_position_embeddings"]
            .as_u64()
            .map(|n| set("rope.scaling.original_context_length", Value::U32(n as u32)));
    }
    metadata
}

fn renamed(architecture: &str, name: &str) -> String {
    let is_after =
        architecture.starts_with("gemma") || ["olmo2", "glm4moe", "gpt-oss"].contains(&architecture);
    let after_attention = if is_after { "post_attention_norm" } else { "ffn_norm" };
    [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", after_attention),
        ("post_self_attn_layernorm", "post_attention_norm"),
        ("post_mlp_layernorm", "post_ffw_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.sinks", "attn_sinks.weight"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .chain(&experts::NAMES)
    .fold(name.to_string(), |name, (from, to)| name.replace(from, to))
}
