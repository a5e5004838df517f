//! The length of prompts that a model was made for.

use serde_json::Value;

use super::{config::ModelConfig, rope::RopeScaling};

/// Returns the tokens of the longest prompt that a model with this `config.json` was made for; `None` if it does not
/// say.
pub fn of_json(json: &Value, config: &ModelConfig) -> Option<usize> {
    let of = |json: &Value| json["max_position_embeddings"].as_f64();
    length(of(json).or_else(|| of(&json["text_config"])), config)
}

/// Returns the length for `positions` of training. Some ways of stretching the rotary positions extend it; for the
/// others, and for Gemma 3, the file states the extended length.
pub fn length(positions: Option<f64>, config: &ModelConfig) -> Option<usize> {
    let positions = positions.filter(|&n| n >= 1.0)?;
    let extended = match &config.rope.scaling {
        _ if config.architecture.starts_with("gemma3") => positions,
        RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => positions * factor,
        RopeScaling::Yarn { factor, original_max_positions, .. } => {
            positions.max(factor * original_max_positions)
        }
        RopeScaling::None
        | RopeScaling::Divided { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::LongRope { .. } => positions,
    };
    Some(extended as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stretched_positions_extend_the_length() {
        for (changes, expected) in [
            (json!({}), None),
            (json!({ "max_position_embeddings": 0 }), None),
            (json!({ "max_position_embeddings": 4096 }), Some(4096)),
            (
                json!({ "max_position_embeddings": 4096, "rope_scaling": { "type": "linear", "factor": 4.0 } }),
                Some(16384),
            ),
            (
                json!({ "max_position_embeddings": 4096, "rope_scaling": { "type": "dynamic", "factor": 2.0 } }),
                Some(8192),
            ),
            (
                json!({ "max_position_embeddings": 32768, "rope_scaling": { "rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 32768 } }),
                Some(131_072),
            ),
            (
                json!({ "max_position_embeddings": 131_072, "rope_scaling": { "rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 32768 } }),
                Some(131_072),
            ),
            (
                json!({ "max_position_embeddings": 131_072, "rope_scaling": { "rope_type": "llama3", "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 } }),
                Some(131_072),
            ),
        ] {
            let mut json = json!({
                "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
                "num_attention_heads": 4, "vocab_size": 100,
            });
            for (name, value) in changes.as_object().unwrap() {
                json[name] = value.clone();
            }
            let config = ModelConfig::parse(json.clone()).unwrap();
            assert_eq!(of_json(&json, &config), expected, "{changes}");
        }
    }
}
