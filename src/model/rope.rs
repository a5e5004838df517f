//! Rotary positions: the angle of each pair of dimensions at each position.

use std::f64::consts::TAU;

use super::config::{RopeConfig, RopeScaling};

/// Radians per token of each pair of dimensions. `[head_dim / 2]`
pub fn inverse_frequencies(config: &RopeConfig, head_dim: usize) -> Vec<f64> {
    (0..head_dim / 2)
        .map(|i| config.theta.powf(-2.0 * i as f64 / head_dim as f64))
        .map(|frequency| scaled(frequency, &config.scaling))
        .collect()
}

fn scaled(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let turns = original_max_position_embeddings * frequency / TAU;
            let high = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - high) * frequency / factor + high * frequency
        }
    }
}
