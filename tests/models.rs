//! Every family's logits equal those of candle-transformers' own model, run densely in f32 on the same
//! weights.
#![cfg(feature = "engine")]

mod common;
#[path = "models/experts.rs"]
mod experts;
#[path = "models/golden.rs"]
mod golden;
#[path = "models/shapes.rs"]
mod shapes;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3};
use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::{StreamConfig, Trace};

/// Not a multiple of any block, and longer than every window below.
const N_TOKENS: usize = 157;

/// Returns a configuration in the older spelling, `rope_theta` and `rope_scaling`.
fn families() -> [Value; 13] {
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
        json!({ "model_type": "phi3" }),
        json!({ "model_type": "phi3", "head_dim": 16, "partial_rotary_factor": 0.75, "tie_word_embeddings": true }),
        gemma(json!({ "model_type": "gemma2", "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0 })),
        gemma(json!({ "model_type": "gemma2", "sliding_window": 40, "layer_types": ["sliding_attention", "sliding_attention"] })),
        gemma(json!({ "model_type": "gemma3_text", "rope_local_base_freq": 100.0, "sliding_window": 40, "num_hidden_layers": 4,
            "sliding_window_pattern": 2, "num_key_value_heads": 1 })),
        gemma(json!({ "model_type": "gemma3_text", "rope_local_base_freq": 50.0, "sliding_window": 33,
            "sliding_window_pattern": 9, "attn_logit_softcapping": 5.0 })),
        json!({ "model_type": "mistral", "head_dim": 32, "sliding_window": 40 }),
    ]
    .map(common::config)
}

/// Returns the fields that all Gemmas have.
fn gemma(changes: Value) -> Value {
    let mut config = json!({ "head_dim": 24, "query_pre_attn_scalar": 24, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": false, "tie_word_embeddings": true });
    common::set(&mut config, changes);
    config
}

/// Returns a configuration in the newer spelling: everything about rotary positions in `rope_parameters`.
fn newer_spelling(config: &Value) -> Value {
    let mut config = config.clone();
    let fields = config.as_object_mut().unwrap();
    let theta = fields.remove("rope_theta").unwrap();
    let mut parameters = fields.remove("rope_scaling").unwrap_or_else(|| json!({ "rope_type": "default" }));
    parameters["rope_theta"] = theta;
    if let Some(theta) = fields.remove("rope_local_base_freq") {
        let windowed = json!({ "rope_type": "default", "rope_theta": theta });
        parameters = json!({ "full_attention": parameters, "sliding_attention": windowed });
    }
    config["rope_parameters"] = parameters;
    config
}

/// Returns the logits after the prompt, computed by candle-transformers. `[vocab_size]`
#[expect(unsafe_code, reason = "weights are mapped")]
fn candle_logits(config: &Value, folder: &Path, ids: &[u32]) -> Vec<f32> {
    let device = Device::Cpu;
    let ids = Tensor::new(ids, &device).unwrap().unsqueeze(0).unwrap();
    let mut config = config.clone();
    common::set(&mut config, json!({ "max_window_layers": 2, "use_flash_attn": false }));
    // candle's masks keep the keys with i - j <= window, one more than Hugging Face's i - j < window, which
    // is ours.
    if let Some(window) = config["sliding_window"].as_u64() {
        config["sliding_window"] = json!(window - 1);
    }
    // SAFETY: nobody writes the files while the test runs.
    let weights =
        unsafe { VarBuilder::from_mmaped_safetensors(&weight_files(folder), DType::F32, &device) }.unwrap();
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
        "phi3" => {
            let config: phi3::Config = serde_json::from_value(config).unwrap();
            phi3::Model::new(&config, weights).unwrap().forward(&ids, 0)
        }
        "gemma2" => {
            let config: gemma2::Config = serde_json::from_value(config).unwrap();
            gemma2::Model::new(false, &config, weights).unwrap().forward(&ids, 0)
        }
        "gemma3_text" => {
            let config: gemma3::Config = serde_json::from_value(config).unwrap();
            gemma3::Model::new(false, &config, weights).unwrap().forward(&ids, 0)
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

/// Returns a trace that keeps everything.
fn whole_trace(folder: &Path, n_tokens: usize) -> Trace {
    let keep_all = StreamConfig { top_k: usize::MAX, ..StreamConfig::default() };
    let trace = common::load(folder).unwrap().with(keep_all).trace(&common::prompt(n_tokens)).unwrap();
    assert_eq!(trace.n_tokens(), n_tokens);
    trace
}

/// Returns max |a − b| / max |b|
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |most: f32, v| most.max(v.abs()));
    largest(&mut a.iter().zip(b).map(|(a, b)| a - b)) / largest(&mut b.iter().copied())
}

/// Returns the relative difference of our logits from candle's.
fn difference(config: &Value, written: &Value, dtype: Dtype, n_shards: usize, n_tokens: usize) -> f32 {
    let folder = common::folder(written, &common::random_weights(config, dtype), n_shards);
    let trace = whole_trace(folder.path(), n_tokens);
    apart(&trace.logits().unwrap(), &candle_logits(config, folder.path(), &trace.tokens().unwrap()))
}

/// Returns the relative difference of our logits from candle's for another configuration, whose first
/// `n_rows` rows of each layer's `tensor` are multiplied.
fn difference_from(ours: &Value, candles: &Value, tensor: &str, n_rows: usize, factor: f64) -> f32 {
    let mut weights = common::random_weights(ours, Dtype::F32);
    let trace = whole_trace(common::folder(ours, &weights, 1).path(), N_TOKENS);
    for weight in weights.iter_mut().filter(|weight| weight.name.ends_with(tensor)) {
        for bytes in weight.bytes.as_chunks_mut().0.iter_mut().take(n_rows * weight.shape[1]) {
            *bytes = (f32::from_le_bytes(*bytes) * factor as f32).to_le_bytes();
        }
    }
    let folder = common::folder(candles, &weights, 1);
    apart(&trace.logits().unwrap(), &candle_logits(candles, folder.path(), &trace.tokens().unwrap()))
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
    for (config, n_tokens) in
        [(&llama, 1), (&mistral, 1), (&mistral, 40), (&mistral, 41), (&llama, 2049), (&mistral, 2101)]
    {
        let difference = difference(config, config, Dtype::F32, 1, n_tokens);
        assert!(difference < 1e-4, "{difference} with {n_tokens} tokens: {config}");
    }
}

/// Transformers writes the type of rope scaling under both of its names.
#[test]
fn rope_type_may_be_written_under_both_names() {
    let [_, llama3, ..] = families();
    let mut written = llama3.clone();
    written["rope_scaling"]["type"] = json!("llama3");
    assert!(difference(&llama3, &written, Dtype::F32, 1, N_TOKENS) < 1e-4);
}

/// candle takes 1/√head_dim, whatever the configuration says.
#[test]
fn attention_is_scaled_by_query_pre_attn_scalar() {
    let candles = gemma(json!({ "model_type": "gemma2", "attn_logit_softcapping": 3.0 }));
    let candles = common::config(candles);
    let mut ours = candles.clone();
    ours["query_pre_attn_scalar"] = json!(7);
    assert!(
        difference_from(&ours, &candles, "q_proj.weight", usize::MAX >> 8, (24.0f64 / 7.0).sqrt()) < 1e-4
    );
}

/// candle multiplies frequencies by the factors, switches to the long ones in the middle of a prompt, and
/// does not scale queries and keys.
#[test]
fn longrope_is_that_of_the_paper() {
    let [short, long] =
        [[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]];
    for (original, factors) in [(512, short), (64, long)] {
        let inverse: Vec<f64> = factors.iter().map(|f| 1.0 / f).collect();
        let scaling = |short: &[f64], long: &[f64]| json!({ "type": "longrope", "short_factor": short, "long_factor": long });
        let config = |scaling| {
            common::config(json!({ "model_type": "phi3", "head_dim": 16, "rope_scaling": scaling }))
        };
        let candles = config(scaling(&inverse, &inverse));
        let mut ours = config(scaling(&short, &long));
        ours["original_max_position_embeddings"] = json!(original);
        let original = f64::from(original);
        let of_both = 1.0 + (4096.0 / original).ln() / original.ln();
        assert!(difference_from(&ours, &candles, "qkv_proj.weight", 4 * 16, of_both) < 1e-4, "{original}");
    }
}

#[test]
fn a_gemma_that_also_sees_is_run_on_text() {
    let text = common::config(gemma(
        json!({ "model_type": "gemma3_text", "rope_local_base_freq": 1e4, "sliding_window": 40 }),
    ));
    let mut weights = common::random_weights(&text, Dtype::BF16);
    let alone = whole_trace(common::folder(&text, &weights, 1).path(), N_TOKENS).logits().unwrap();
    let config =
        json!({ "model_type": "gemma3", "text_config": text, "vision_config": { "hidden_size": 1152 } });
    for prefix in ["language_model.model.", "model.language_model."] {
        let renamed = |name: &str| format!("{prefix}{}", name.strip_prefix("model.").unwrap());
        weights.iter_mut().for_each(|weight| weight.name = renamed(&weight.name));
        let both = whole_trace(common::folder(&config, &weights, 1).path(), N_TOKENS).logits().unwrap();
        assert_eq!(alone, both, "{prefix}");
        weights
            .iter_mut()
            .for_each(|weight| weight.name = format!("model.{}", weight.name.strip_prefix(prefix).unwrap()));
    }
}

/// A sparse file of 8 billion weights, which takes no disk space.
#[test]
fn a_large_folder_is_ready_before_its_weights_are_read() {
    let (hidden, inner, vocabulary, n_layers) = (4096, 14_336, 128_256, 32);
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": n_layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": vocabulary,
    });
    let folder = common::folder(&config, &[], 1);
    let (mut header, mut n_bytes) = (serde_json::Map::new(), 0);
    for (name, shape) in common::shapes(&config) {
        let end = n_bytes + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [n_bytes, end] }));
        n_bytes = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = std::fs::File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + n_bytes) as u64).unwrap();
    assert!(n_bytes > 16_000_000_000);
    // The other tests share the processor, so the quickest of three counts; whoever reads 16 GB is slow each time.
    let load = || {
        let start = Instant::now();
        let tracer = common::load(folder.path()).unwrap();
        assert_eq!(tracer.model().n_parameters, n_bytes as u64 / 2);
        start.elapsed()
    };
    let took = [load(), load(), load()];
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "{took:?}");
}
