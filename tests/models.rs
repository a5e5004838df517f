//! Every family's logits are those of candle-transformers' own model, run densely in f32 on the same weights.
#![cfg(feature = "engine")]

mod common;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::StreamConfig;

/// Not a multiple of any block, and longer than every window below.
const N_TOKENS: usize = 157;

/// A configuration in the older spelling, `rope_theta` and `rope_scaling`.
fn families() -> [Value; 7] {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    [
        json!({ "model_type": "llama", "num_key_value_heads": 4 }),
        json!({ "model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": scaling, "tie_word_embeddings": true }),
        json!({ "model_type": "qwen2", "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 2 }),
        json!({ "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 33, "max_window_layers": 0 }),
        json!({ "model_type": "qwen3", "head_dim": 24, "attention_bias": false, "tie_word_embeddings": true }),
        json!({ "model_type": "qwen3", "head_dim": 16, "attention_bias": true, "num_key_value_heads": 1 }),
        json!({ "model_type": "mistral", "head_dim": 32, "sliding_window": 40 }),
    ]
    .map(common::config)
}

/// The newer spelling: everything about rotary positions in `rope_parameters`.
fn newer_spelling(config: &Value) -> Value {
    let mut config = config.clone();
    let fields = config.as_object_mut().unwrap();
    let theta = fields.remove("rope_theta").unwrap();
    let mut parameters = fields.remove("rope_scaling").unwrap_or_else(|| json!({ "rope_type": "default" }));
    parameters["rope_theta"] = theta;
    config["rope_parameters"] = parameters;
    config
}

/// Logits after the prompt by candle-transformers. `[vocab_size]`
fn candle_logits(config: &Value, folder: &Path, ids: &[u32]) -> Vec<f32> {
    let device = Device::Cpu;
    let ids = Tensor::new(ids, &device).unwrap().unsqueeze(0).unwrap();
    let mut config = config.clone();
    common::set(&mut config, json!({ "max_window_layers": 2, "use_flash_attn": false }));
    // candle's masks keep the keys with i - j <= window, one more than Hugging Face's i - j < window, which is ours.
    if let Some(window) = config["sliding_window"].as_u64() {
        config["sliding_window"] = json!(window - 1);
    }
    // SAFETY: nobody writes the files while the test runs.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&weight_files(folder), DType::F32, &device) }.unwrap();
    let logits = match config["model_type"].as_str().unwrap() {
        "llama" => {
            let config = serde_json::from_value::<llama::LlamaConfig>(config).unwrap().into_config(false);
            let mut cache = llama::Cache::new(false, DType::F32, &config, &device).unwrap();
            llama::Llama::load(weights, &config).unwrap().forward(&ids, 0, &mut cache)
        }
        "qwen2" => {
            let config: qwen2::Config = serde_json::from_value(config).unwrap();
            qwen2::ModelForCausalLM::new(&config, weights).unwrap().forward(&ids, 0)
        }
        "qwen3" => {
            common::set(&mut config, json!({ "use_sliding_window": false }));
            let config: qwen3::Config = serde_json::from_value(config).unwrap();
            qwen3::ModelForCausalLM::new(&config, weights).unwrap().forward(&ids, 0)
        }
        _ => {
            let config: mistral::Config = serde_json::from_value(config).unwrap();
            mistral::Model::new(&config, weights).unwrap().forward(&ids, 0)
        }
    };
    logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect()
}

/// Relative difference of the logits of a trace that keeps everything, max |a − b| / max |b|.
fn difference(config: &Value, written: &Value, dtype: Dtype, n_shards: usize, n_tokens: usize) -> f32 {
    let folder = common::folder(written, &common::random_weights(config, dtype), n_shards);
    let keep_all = StreamConfig { top_k: usize::MAX, ..StreamConfig::default() };
    let trace = common::load(folder.path()).unwrap().with(keep_all).trace(&common::prompt(n_tokens)).unwrap();
    assert_eq!(trace.n_tokens(), n_tokens);
    let (ours, candles) = (trace.logits().unwrap(), candle_logits(config, folder.path(), &trace.tokens().unwrap()));
    assert_eq!(ours.len(), candles.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |most: f32, v| most.max(v.abs()));
    largest(&mut ours.iter().zip(&candles).map(|(a, b)| a - b)) / largest(&mut candles.iter().copied())
}

#[test]
fn logits_are_those_of_candle_in_every_family_type_and_spelling() {
    for config in families() {
        for (dtype, n_shards) in [(Dtype::F32, 1), (Dtype::F16, 3), (Dtype::BF16, 1)] {
            for written in [config.clone(), newer_spelling(&config)] {
                let difference = difference(&config, &written, dtype, n_shards, N_TOKENS);
                assert!(difference < 1e-4, "{difference} in {dtype:?}, {n_shards} shards: {written}");
            }
        }
    }
}

#[test]
fn prompts_of_one_token_and_of_several_chunks() {
    let [llama, .., mistral] = families();
    for (config, n_tokens) in [(&llama, 1), (&mistral, 1), (&mistral, 40), (&mistral, 41), (&llama, 2049), (&mistral, 2101)] {
        let difference = difference(config, config, Dtype::F32, 1, n_tokens);
        assert!(difference < 1e-4, "{difference} with {n_tokens} tokens: {config}");
    }
}

/// Transformers writes the type of rope scaling under both its names.
#[test]
fn rope_type_may_be_written_under_both_names() {
    let [_, llama3, ..] = families();
    let mut written = llama3.clone();
    written["rope_scaling"]["type"] = json!("llama3");
    assert!(difference(&llama3, &written, Dtype::F32, 1, N_TOKENS) < 1e-4);
}
