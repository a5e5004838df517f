//! `config.json` of the supported families, read into one plain description of a decoder.

use std::path::Path;

use serde::Deserialize;

use crate::error::Error;

/// A decoder with rotary positions, RMS norms, grouped keys and a gated feed-forward: all supported families.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// "llama", "qwen2", "qwen3" or "mistral".
    pub architecture: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    pub rope: RopeConfig,
    /// The output layer is the embedding.
    pub tied_embeddings: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// An RMS norm on each head's queries and keys.
    pub qk_norm: bool,
    /// Sliding window of each layer, in tokens. `[n_layers]`
    pub windows: Vec<Option<usize>>,
}

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// How the rotary frequencies are stretched for longer prompts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by a factor.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, those between blended.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

/// The file, with Hugging Face's names. Unknown fields are ignored, as there are many.
#[derive(Deserialize)]
struct ConfigFile {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeFile>,
    rope_parameters: Option<RopeFile>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    #[serde(default = "default_act")]
    hidden_act: String,
}

#[derive(Deserialize)]
struct RopeFile {
    rope_type: Option<String>,
    /// The older name of `rope_type`; files may have both.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// No decoder has sizes like this; products of three of them can still be computed.
const MAX_SIZE: usize = 1 << 20;

fn default_eps() -> f64 {
    1e-6
}

fn default_act() -> String {
    "silu".into()
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Model`] for an architecture or a setting that is not supported.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&text).map_err(|Unsupported { expected, found, fix }| Error::Model {
            path: path.display().to_string(),
            expected,
            found,
            fix: fix.into(),
        })
    }

    fn parse(text: &str) -> Result<Self, Unsupported> {
        let file: ConfigFile = serde_json::from_str(text).map_err(|e| Unsupported {
            expected: "a decoder's configuration".into(),
            found: e.to_string(),
            fix: "is this the config.json of a Llama, Qwen2, Qwen3 or Mistral model?",
        })?;
        if !["llama", "qwen2", "qwen3", "mistral"].contains(&file.model_type.as_str()) {
            return Err(Unsupported::new("model_type llama, qwen2, qwen3 or mistral", &file.model_type));
        }
        if file.hidden_act != "silu" {
            return Err(Unsupported::new("hidden_act silu", &file.hidden_act));
        }
        let n_kv_heads = file.num_key_value_heads.unwrap_or(file.num_attention_heads);
        let head_dim = file.head_dim.unwrap_or(file.hidden_size / file.num_attention_heads.max(1));
        let n_heads = file.num_attention_heads;
        let sizes =
            [file.hidden_size, file.intermediate_size, file.num_hidden_layers, n_heads, n_kv_heads, head_dim, file.vocab_size];
        if sizes.iter().any(|size| !(1..=MAX_SIZE).contains(size))
            || !n_heads.is_multiple_of(n_kv_heads)
            || !head_dim.is_multiple_of(2)
        {
            let rule = "an even head size, query heads a multiple of key-value heads";
            let found = format!("hidden, intermediate, layers, heads, key-value heads, head size, vocabulary {sizes:?}");
            return Err(Unsupported::new(&format!("sizes above 0 and at most {MAX_SIZE}, {rule}"), &found));
        }
        let family = file.model_type.as_str();
        Ok(ModelConfig {
            architecture: family.into(),
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            n_layers: file.num_hidden_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: file.vocab_size,
            rms_norm_eps: file.rms_norm_eps,
            rope: rope(&file)?,
            tied_embeddings: file.tie_word_embeddings.unwrap_or(false),
            qkv_bias: family == "qwen2" || file.attention_bias,
            output_bias: family != "qwen2" && file.attention_bias,
            mlp_bias: file.mlp_bias,
            qk_norm: family == "qwen3",
            windows: windows(&file)?,
        })
    }
}

fn rope(file: &ConfigFile) -> Result<RopeConfig, Unsupported> {
    let settings = file.rope_parameters.as_ref().or(file.rope_scaling.as_ref());
    let positive = |name: &str, value: f64| match value > 0.0 {
        true => Ok(value),
        false => Err(Unsupported::new(&format!("{name} above 0"), &value.to_string())),
    };
    let theta = positive("rope_theta", settings.and_then(|s| s.rope_theta).or(file.rope_theta).unwrap_or(10_000.0))?;
    let Some(settings) = settings else {
        return Ok(RopeConfig { theta, scaling: RopeScaling::None });
    };
    let need = |value: Option<f64>, name: &str| match value {
        Some(value) => positive(&format!("rope {name}"), value),
        None => Err(Unsupported::new(&format!("rope {name}"), "none")),
    };
    let scaling = match settings.rope_type.as_ref().or(settings.r#type.as_ref()).map_or("default", String::as_str) {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need(settings.factor, "factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need(settings.factor, "factor")?,
            low_freq_factor: need(settings.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(settings.high_freq_factor, "high_freq_factor")?,
            original_max_position_embeddings: need(
                settings.original_max_position_embeddings,
                "original_max_position_embeddings",
            )?,
        },
        other => return Err(Unsupported::new("rope_type default, linear or llama3", other)),
    };
    Ok(RopeConfig { theta, scaling })
}

/// The sliding window of each layer, by the newer `layer_types` or the older rules of each family.
fn windows(file: &ConfigFile) -> Result<Vec<Option<usize>>, Unsupported> {
    let n_layers = file.num_hidden_layers;
    let window = match (file.model_type.as_str(), file.sliding_window) {
        (_, Some(0)) => return Err(Unsupported::new("a sliding_window above 0, or none", "0")),
        ("llama", _) => None,
        ("mistral", window) => window,
        (_, window) => window.filter(|_| file.use_sliding_window.unwrap_or(false)),
    };
    let Some(types) = &file.layer_types else {
        let first = if file.model_type == "mistral" { 0 } else { file.max_window_layers.unwrap_or(n_layers) };
        return Ok((0..n_layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if types.len() != n_layers {
        return Err(Unsupported::new(&format!("{n_layers} layer_types"), &types.len().to_string()));
    }
    let of = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        other => Err(Unsupported::new("layer_types full_attention or sliding_attention", other)),
    };
    types.iter().map(of).collect()
}

/// What a configuration asks for that is not there.
struct Unsupported {
    expected: String,
    found: String,
    fix: &'static str,
}

impl Unsupported {
    fn new(expected: &str, found: &str) -> Self {
        Unsupported { expected: expected.into(), found: found.into(), fix: "choose a model of a supported family" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(changes: &[(&str, serde_json::Value)]) -> Result<ModelConfig, String> {
        let mut config = serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "rope_theta": 1e4,
        });
        for (name, value) in changes {
            config[*name] = value.clone();
        }
        ModelConfig::parse(&config.to_string()).map_err(|e| format!("{} / {}", e.expected, e.found))
    }

    #[test]
    fn both_ways_of_writing_rope_are_the_same() {
        let old = parse(&[("rope_theta", 5e5.into())]).unwrap();
        let new = parse(&[("rope_parameters", serde_json::json!({"rope_theta": 5e5, "rope_type": "default"}))]).unwrap();
        assert_eq!(old, new);
        assert_eq!(old.rope.theta, 5e5);
    }

    #[test]
    fn windows_follow_each_family() {
        let window = ("sliding_window", serde_json::json!(8));
        assert_eq!(parse(std::slice::from_ref(&window)).unwrap().windows, [None; 4]);
        assert_eq!(parse(&[("model_type", "mistral".into()), window.clone()]).unwrap().windows, [Some(8); 4]);
        let qwen = [("model_type", "qwen2".into()), window.clone()];
        assert_eq!(parse(&qwen).unwrap().windows, [None; 4]);
        let used = [&qwen[..], &[("use_sliding_window", true.into()), ("max_window_layers", 3.into())]].concat();
        assert_eq!(parse(&used).unwrap().windows, [None, None, None, Some(8)]);
        let types = serde_json::json!(["full_attention", "sliding_attention", "full_attention", "sliding_attention"]);
        let typed = [&used[..], &[("layer_types", types)]].concat();
        assert_eq!(parse(&typed).unwrap().windows, [None, Some(8), None, Some(8)]);
    }

    #[test]
    fn what_is_not_supported_says_so() {
        for (field, value, named) in [
            ("model_type", serde_json::json!("gpt2"), "gpt2"),
            ("hidden_act", "gelu".into(), "gelu"),
            ("num_key_value_heads", 3.into(), "multiple"),
            ("num_key_value_heads", 0.into(), "above 0"),
            ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
            ("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 4.0}), "low_freq_factor"),
            ("hidden_size", "x".into(), "expected usize"),
        ] {
            let error = parse(&[(field, value)]).unwrap_err();
            assert!(error.contains(named), "{field}: {error}");
        }
    }
}
