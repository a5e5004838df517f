//! What differs from layer to layer of one model.

use super::config_file::{ConfigFile, Unsupported};

/// Returns the sliding window of each layer, by the newer `layer_types` or the older rules of each family.
pub fn windows(file: &ConfigFile) -> Result<Vec<Option<usize>>, Unsupported> {
    let n_layers = file.num_hidden_layers;
    let family = file.family.name;
    let window = match (family, file.sliding_window.filter(|&window| window > 0)) {
        ("llama" | "granite" | "olmo2" | "olmoe" | "glm" | "glm4" | "glm4_moe", _) => None,
        ("gpt_oss", window) => Some(window.unwrap_or(128)),
        ("qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "smollm3", window) => {
            window.filter(|_| file.use_sliding_window.unwrap_or(false))
        }
        (_, window) => window,
    };
    let Some(types) = &file.layer_types else {
        let rotates = rotates(file)?;
        let slides = |layer: usize| match family {
            "smollm3" => !rotates[layer],
            "olmo3" => !(layer + 1).is_multiple_of(4),
            "gemma2" | "gpt_oss" => layer.is_multiple_of(2),
            "qwen2_moe" => layer.is_multiple_of(2) && layer < file.max_window_layers.unwrap_or(28),
            "gemma3_text" => !(layer + 1).is_multiple_of(
                file.sliding_window_pattern.or(file.hidden_sliding_window_pattern).unwrap_or(6).max(1),
            ),
            "qwen2" | "qwen3" => layer >= file.max_window_layers.unwrap_or(n_layers),
            _ => true,
        };
        return Ok((0..n_layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    if types.len() != n_layers {
        return Err(Unsupported::new(&format!("{n_layers} layer_types"), &types.len().to_string()));
    }
    let window_by_type = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        other => Err(Unsupported::new("layer_types full_attention or sliding_attention", other)),
    };
    types.iter().map(window_by_type).collect()
}

/// Returns whether each layer rotates its queries and keys, by `no_rope_layers`, where 1 means that it does, or by the
/// older rule of SmolLM3.
pub fn rotates(file: &ConfigFile) -> Result<Vec<bool>, Unsupported> {
    let n_layers = file.num_hidden_layers;
    if file.family.name != "smollm3" {
        return Ok(vec![true; n_layers]);
    }
    match &file.no_rope_layers {
        Some(layers) if layers.len() < n_layers => {
            Err(Unsupported::new(&format!("{n_layers} no_rope_layers"), &layers.len().to_string()))
        }
        Some(layers) => Ok(layers[..n_layers].iter().map(|&rotates| rotates != 0).collect()),
        None => {
            let step = file.no_rope_layer_interval.unwrap_or(4).max(1);
            Ok((0..n_layers).map(|layer| !(layer + 1).is_multiple_of(step)).collect())
        }
    }
}
