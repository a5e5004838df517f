//! `config.json` of the supported families, read into one description of a decoder.

use std::path::Path;

use serde_json::Value;

use super::{
    config_file::{ConfigFile, MAX_SIZE, RopeFile, Unsupported},
    experts::{ExpertsConfig, experts},
    family::{Fused, Norms, QkNorm, Rotary},
    json_file,
    layers::{rotates, windows},
    rope::{RopeConfig, RopeScaling},
};
use crate::error::Error;

/// A decoder with rotary positions, RMS norms, grouped keys and a gated feed-forward block. All supported
/// families are such decoders and differ in these settings only.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The name of one of the `FAMILIES` in family.rs.
    pub architecture: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    /// Number added to the weights of the norms: 1 for families that store them less 1.
    pub norm_offset: f32,
    /// The norms of each layer.
    pub norms: Norms,
    pub rope: RopeConfig,
    /// Rotary positions of the layers with a sliding window; `None` if they have those of the other layers.
    pub window_rope: Option<RopeConfig>,
    pub activation: Activation,
    /// Factor of the embeddings.
    pub embedding_scale: f32,
    /// Factor of what attention and feed-forward add to the hidden states.
    pub residual_scale: f32,
    /// Factor of the output logits, before their soft cap.
    pub logit_scale: f32,
    /// Factor of the queries, besides 1/√head_dim.
    pub query_scale: f32,
    /// The `cap` of `cap · tanh(x / cap)`, applied to each attention logit.
    pub attention_soft_cap: Option<f32>,
    /// Whether each head has a sink, a logit beside the keys that has no value.
    pub sinks: bool,
    /// The same cap for each output logit.
    pub logit_soft_cap: Option<f32>,
    /// Whether the output layer is the embedding.
    pub tied_embeddings: bool,
    /// The experts, where some layers have them.
    pub experts: Option<ExpertsConfig>,
    /// Projections that are one tensor.
    pub fused: Fused,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// The RMS norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether the rows of queries and keys have the dimensions that rotate together side by side.
    pub interleaved: bool,
    /// Whether the queries and keys of each layer are rotated. `[n_layers]`
    pub rotates: Vec<bool>,
    /// The sliding window of each layer, in tokens. `[n_layers]`
    pub windows: Vec<Option<usize>>,
    /// Bytes of all layers and the output layer, if some lie in the file in blocks: of blocks as they are, of
    /// other weights in f32. 0 if none do.
    pub in_blocks: u64,
}

/// The function applied to the gate of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
    GeluTanh,
    /// x / (1 + e^−1.702 x) of a gate of at most `limit`; 1 is added to what it multiplies, which is kept between
    /// −`limit` and `limit`.
    Clamped { limit: f32 },
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read, [`Error::Model`] when its architecture or a setting is
    /// not supported.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(json_file::read(path)?).map_err(|unsupported| unsupported.at(path))
    }

    /// Reads the contents of a `config.json`.
    pub(super) fn parse(json: Value) -> Result<Self, Unsupported> {
        let file = ConfigFile::parse(json)?;
        let n_heads = file.num_attention_heads;
        let (n_kv_heads, head_dim) = head_sizes(&file)?;
        let family = file.family;
        let is_gemma = family.is_gemma();
        let (rope, window_rope) = ropes(&file, head_dim)?;
        let scale = |name, value: Option<f64>| Ok(positive(name, value.unwrap_or(1.0))? as f32);
        Ok(ModelConfig {
            architecture: family.name.into(),
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            n_layers: file.num_hidden_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: file.vocab_size,
            rms_norm_eps: file.rms_norm_eps,
            norm_offset: if is_gemma { 1.0 } else { 0.0 },
            norms: family.norms,
            rope,
            window_rope,
            activation: activation(&file)?,
            embedding_scale: match file.embedding_multiplier {
                None if is_gemma => (file.hidden_size as f32).sqrt(),
                given => scale("embedding_multiplier", given)?,
            },
            residual_scale: scale("residual_multiplier", file.residual_multiplier)?,
            logit_scale: 1.0 / scale("logits_scaling", file.logits_scaling)?,
            query_scale: query_scale(&file, head_dim)?,
            attention_soft_cap: soft_cap("attn_logit_softcapping", file.attn_logit_softcapping)?,
            logit_soft_cap: soft_cap("final_logit_softcapping", file.final_logit_softcapping)?,
            sinks: family.sinks,
            tied_embeddings: file.tie_word_embeddings.unwrap_or(family.is_tied),
            experts: experts(&file)?,
            fused: family.fused,
            qkv_bias: family.qkv_bias.is_there(file.attention_bias),
            output_bias: family.output_bias.is_there(file.attention_bias),
            mlp_bias: file.mlp_bias,
            qk_norm: match family.name {
                "glm4_moe" if file.use_qk_norm != Some(true) => QkNorm::None,
                _ => family.qk_norm,
            },
            interleaved: family.rotary == Rotary::Neighbours,
            rotates: rotates(&file)?,
            windows: windows(&file)?,
            in_blocks: 0,
        })
    }
}

/// Returns the number of key-value heads and the size of a head, if all sizes make a model.
fn head_sizes(file: &ConfigFile) -> Result<(usize, usize), Unsupported> {
    let n_heads = file.num_attention_heads;
    let n_kv_heads = file.num_key_value_heads.unwrap_or(n_heads);
    let of_family = if file.family.name == "gpt_oss" { 64 } else { file.hidden_size / n_heads.max(1) };
    let head_dim = file.head_dim.filter(|&size| size > 0).unwrap_or(of_family);
    let sizes = [
        file.hidden_size,
        file.intermediate_size,
        file.num_hidden_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        file.vocab_size,
    ];
    let are_sizes = sizes.iter().all(|size| (1..=MAX_SIZE).contains(size));
    if are_sizes && n_heads.is_multiple_of(n_kv_heads) && head_dim.is_multiple_of(2) {
        return Ok((n_kv_heads, head_dim));
    }
    let rule = "an even head size, query heads a multiple of key-value heads";
    let found =
        format!("hidden, intermediate, layers, heads, key-value heads, head size, vocabulary {sizes:?}");
    Err(Unsupported::new(&format!("sizes above 0 and at most {MAX_SIZE}, {rule}"), &found))
}

fn activation(file: &ConfigFile) -> Result<Activation, Unsupported> {
    if file.family.name == "gpt_oss" {
        return Ok(Activation::Clamped {
            limit: positive("swiglu_limit", file.swiglu_limit.unwrap_or(7.0))? as f32,
        });
    }
    match file.hidden_activation.as_deref().unwrap_or(&file.hidden_act) {
        "silu" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => Err(Unsupported::new("hidden_act silu or gelu_pytorch_tanh", other)),
    }
}

/// Queries are multiplied by `attention_multiplier`, or divided by √`query_pre_attn_scalar`, in place of √head_dim.
fn query_scale(file: &ConfigFile, head_dim: usize) -> Result<f32, Unsupported> {
    let of_family = (file.family.name == "granite").then_some(1.0);
    if let Some(factor) = file.attention_multiplier.or(of_family) {
        return Ok((positive("attention_multiplier", factor)? * (head_dim as f64).sqrt()) as f32);
    }
    let scalar = positive("query_pre_attn_scalar", file.query_pre_attn_scalar.unwrap_or(head_dim as f64))?;
    Ok((head_dim as f64 / scalar).sqrt() as f32)
}

fn soft_cap(name: &str, value: Option<f64>) -> Result<Option<f32>, Unsupported> {
    value.map(|value| positive(name, value).map(|value| value as f32)).transpose()
}

fn positive(name: &str, value: f64) -> Result<f64, Unsupported> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(Unsupported::new(&format!("{name} above 0"), &value.to_string()))
}

/// Returns the rotary positions of the layers without a sliding window, and those of the layers with one if
/// they differ.
fn ropes(file: &ConfigFile, head_dim: usize) -> Result<(RopeConfig, Option<RopeConfig>), Unsupported> {
    let none = RopeFile::default();
    let settings = file.rope_parameters.as_ref().or(file.rope_scaling.as_ref()).unwrap_or(&none);
    if let (Some(full), Some(sliding)) = (&settings.full_attention, &settings.sliding_attention) {
        return Ok((rope(file, full, head_dim)?, Some(rope(file, sliding, head_dim)?)));
    }
    let theta = match file.family.name {
        // Its windows are never stretched.
        "olmo3" => Some(settings.rope_theta.or(file.rope_theta).unwrap_or(file.family.theta())),
        _ => file.rope_local_base_freq,
    };
    let windowed = RopeFile { rope_theta: theta, ..RopeFile::default() };
    let windowed = theta.map(|_| rope(file, &windowed, head_dim)).transpose()?;
    Ok((rope(file, settings, head_dim)?, windowed))
}

fn rope(file: &ConfigFile, settings: &RopeFile, head_dim: usize) -> Result<RopeConfig, Unsupported> {
    let theta =
        positive("rope_theta", settings.rope_theta.or(file.rope_theta).unwrap_or(file.family.theta()))?;
    let is_half = file.family.rotary == Rotary::Neighbours || file.family.name == "glm4_moe";
    let of_family = if is_half { 0.5 } else { 1.0 };
    let share = settings.partial_rotary_factor.or(file.partial_rotary_factor).unwrap_or(of_family);
    let n_rotated = (share * head_dim as f64) as usize;
    if !(1..=head_dim).contains(&n_rotated) || !n_rotated.is_multiple_of(2) {
        return Err(Unsupported::new(
            "a partial_rotary_factor that rotates an even number of dimensions",
            &format!("{share} of {head_dim}"),
        ));
    }
    Ok(RopeConfig { theta, n_rotated, scaling: scaling(file, settings, n_rotated)? })
}

fn scaling(file: &ConfigFile, settings: &RopeFile, n_rotated: usize) -> Result<RopeScaling, Unsupported> {
    let required = |value: Option<f64>, name: &str| match value {
        Some(value) => positive(&format!("rope {name}"), value),
        None => Err(Unsupported::new(&format!("rope {name}"), "none")),
    };
    let factor = || required(settings.factor, "factor");
    let given = settings.original_max_position_embeddings.or(file.original_max_position_embeddings);
    let original = || required(given.or(file.max_position_embeddings), "original_max_position_embeddings");
    Ok(match settings.rope_type.as_ref().or(settings.r#type.as_ref()).map_or("default", String::as_str) {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "dynamic" if n_rotated > 2 => RopeScaling::Dynamic {
            factor: factor()?,
            max_positions: required(file.max_position_embeddings, "max_position_embeddings")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: required(settings.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: required(settings.high_freq_factor, "high_freq_factor")?,
            original_max_positions: original()?,
        },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            original_max_positions: original()?,
            beta_fast: required(Some(settings.beta_fast.unwrap_or(32.0)), "beta_fast")?,
            beta_slow: required(Some(settings.beta_slow.unwrap_or(1.0)), "beta_slow")?,
            attention_factor: match settings.attention_factor {
                Some(given) => positive("rope attention_factor", given)?,
                None => yarn_attention_factor(settings, factor()?),
            },
            truncates: settings.truncate.unwrap_or(true),
        },
        "longrope" | "su" => RopeScaling::LongRope {
            short_factors: factors("short_factor", &settings.short_factor, n_rotated / 2)?,
            long_factors: factors("long_factor", &settings.long_factor, n_rotated / 2)?,
            original_max_positions: original()?,
            attention_factor: match (settings.attention_factor, given, file.max_position_embeddings) {
                (Some(given), ..) => positive("rope attention_factor", given)?,
                (None, Some(original), Some(max)) => longrope_attention_factor(max / original, original),
                (None, ..) => longrope_attention_factor(settings.factor.unwrap_or(1.0), original()?),
            },
        },
        other => {
            return Err(Unsupported::new(
                "rope_type default, linear, dynamic, llama3, yarn or longrope",
                other,
            ));
        }
    })
}

fn factors(name: &str, values: &Option<Vec<f64>>, n: usize) -> Result<Vec<f64>, Unsupported> {
    let values = values.clone().unwrap_or_default();
    if values.len() == n && values.iter().all(|&f| f > 0.0) {
        return Ok(values);
    }
    let expected = format!("rope {name}: {n} numbers above 0");
    Err(Unsupported::new(&expected, &format!("{} numbers", values.len())))
}

/// 0.1 m ln(`factor`) + 1, with m = 1 in the YaRN paper.
fn yarn_attention_factor(settings: &RopeFile, factor: f64) -> f64 {
    let with_scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    match (settings.mscale, settings.mscale_all_dim) {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => with_scale(m) / with_scale(all),
        _ => with_scale(1.0),
    }
}

/// √(1 + ln(`factor`) / ln(`original`)), as in Phi-3; `original` is the original length.
fn longrope_attention_factor(factor: f64, original: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
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
        ModelConfig::parse(config).map_err(|e| format!("{} / {}", e.expected, e.found))
    }

    #[test]
    fn both_ways_of_writing_rope_are_the_same() {
        let old = parse(&[("rope_theta", 5e5.into())]).unwrap();
        let new =
            parse(&[("rope_parameters", serde_json::json!({"rope_theta": 5e5, "rope_type": "default"}))])
                .unwrap();
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
        let used =
            [&qwen[..], &[("use_sliding_window", true.into()), ("max_window_layers", 3.into())]].concat();
        assert_eq!(parse(&used).unwrap().windows, [None, None, None, Some(8)]);
        let types =
            serde_json::json!(["full_attention", "sliding_attention", "full_attention", "sliding_attention"]);
        let typed = [&used[..], &[("layer_types", types)]].concat();
        assert_eq!(parse(&typed).unwrap().windows, [None, Some(8), None, Some(8)]);
    }

    #[test]
    fn an_unsupported_setting_is_named() {
        for (field, value, named) in [
            ("model_type", serde_json::json!("gpt2"), "gpt2"),
            ("hidden_act", "gelu".into(), "gelu"),
            ("num_key_value_heads", 3.into(), "multiple"),
            ("num_key_value_heads", 0.into(), "above 0"),
            ("rope_scaling", serde_json::json!({"rope_type": "mrope", "factor": 4.0}), "mrope"),
            ("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 4.0}), "low_freq_factor"),
            ("hidden_size", "x".into(), "expected usize"),
        ] {
            let error = parse(&[(field, value)]).unwrap_err();
            assert!(error.contains(named), "{field}: {error}");
        }
    }
}
