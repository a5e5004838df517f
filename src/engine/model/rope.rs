//! Rotary positions: the angle of each pair of dimensions at each position, and its scaling for longer
//! prompts.

use std::f64::consts::TAU;

/// A model's settings of its rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    /// Number of dimensions of each head that are rotated: the first ones.
    pub n_rotated: usize,
    pub scaling: RopeScaling,
}

/// The scaling of rotary frequencies for longer prompts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies are divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Each frequency is divided by its own factor. `[n_rotated / 2]`
    Divided {
        factors: Vec<f64>,
    },
    /// "NTK": the base grows once the prompt is longer than `max_positions`.
    Dynamic {
        factor: f64,
        max_positions: f64,
    },
    /// Llama 3.1: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_positions: f64,
    },
    /// YaRN (Peng et al. 2023): frequencies are blended between `beta_slow` and `beta_fast` turns; queries
    /// and keys are multiplied by `attention_factor`.
    Yarn {
        factor: f64,
        original_max_positions: f64,
        /// Pairs with more turns than this over the original positions keep their frequency.
        beta_fast: f64,
        /// Frequencies of pairs with fewer turns than this are divided by `factor`.
        beta_slow: f64,
        attention_factor: f64,
        /// Whether the blend begins and ends at whole pairs.
        truncates: bool,
    },
    /// LongRoPE (Ding et al. 2024): each frequency is divided by a factor found by search; prompts past the
    /// original length use `long_factors`.
    LongRope {
        short_factors: Vec<f64>,
        long_factors: Vec<f64>,
        original_max_positions: f64,
        attention_factor: f64,
    },
}

/// The rotary positions for one length of prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Radians per token of each pair of dimensions (i, i + n_rotated / 2). `[n_rotated / 2]`
    pub inverse_frequencies: Vec<f64>,
    /// Factor of the rotated dimensions.
    pub scale: f64,
    /// Dimensions of a head; those past the rotated ones stay unchanged.
    pub head_dim: usize,
}

impl Rotary {
    /// Positions that turn nothing.
    pub fn none(head_dim: usize) -> Self {
        Rotary { inverse_frequencies: vec![0.0], scale: 1.0, head_dim }
    }
}

impl RopeConfig {
    /// Returns the angles for up to `n_tokens` positions.
    pub fn rotary(&self, head_dim: usize, n_tokens: usize) -> Rotary {
        let n_pairs = self.n_rotated / 2;
        let frequencies = |theta: f64| (0..n_pairs).map(move |i| theta.powf(-(i as f64) / n_pairs as f64));
        let divided = |factors: &[f64]| {
            frequencies(self.theta).zip(factors).map(|(frequency, f)| frequency / f).collect()
        };
        let n = n_tokens as f64;
        let (inverse_frequencies, scale) = match &self.scaling {
            RopeScaling::None => (frequencies(self.theta).collect(), 1.0),
            RopeScaling::Linear { factor } => {
                (frequencies(self.theta).map(|frequency| frequency / factor).collect(), 1.0)
            }
            RopeScaling::Divided { factors } => (divided(factors), 1.0),
            RopeScaling::Dynamic { factor, max_positions } => {
                let stretch = factor * (n / max_positions).max(1.0) - (factor - 1.0);
                let dims = self.n_rotated as f64;
                (frequencies(self.theta * stretch.powf(dims / (dims - 2.0))).collect(), 1.0)
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let blend = |frequency: f64| {
                    let turns = original_max_positions * frequency / TAU;
                    let kept =
                        ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    blended(frequency, factor, kept)
                };
                (frequencies(self.theta).map(blend).collect(), 1.0)
            }
            &RopeScaling::Yarn {
                factor,
                original_max_positions,
                beta_fast,
                beta_slow,
                attention_factor,
                truncates,
            } => {
                // The index of the pair that turns `turns` times over the original positions.
                let pair = |turns: f64| {
                    n_pairs as f64 * (original_max_positions / (turns * TAU)).ln() / self.theta.ln()
                };
                let (first, last) = (pair(beta_fast), pair(beta_slow));
                let (first, last) = if truncates { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, last) = (first.max(0.0), last.min(self.n_rotated as f64 - 1.0));
                let width = if last == first { 0.001 } else { last - first };
                let kept = |i: usize| 1.0 - ((i as f64 - first) / width).clamp(0.0, 1.0);
                let blend = |(i, frequency)| blended(frequency, factor, kept(i));
                (frequencies(self.theta).enumerate().map(blend).collect(), attention_factor)
            }
            RopeScaling::LongRope {
                short_factors,
                long_factors,
                original_max_positions,
                attention_factor,
            } => {
                let factors = if n > *original_max_positions { long_factors } else { short_factors };
                (divided(factors), *attention_factor)
            }
        };
        Rotary { inverse_frequencies, scale, head_dim }
    }
}

/// Blends the frequency and its quotient by `factor`, with the weight `kept` on the frequency.
fn blended(frequency: f64, factor: f64, kept: f64) -> f64 {
    (1.0 - kept) * frequency / factor + kept * frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(scaling: RopeScaling, n_tokens: usize) -> Rotary {
        RopeConfig { theta: 10_000.0, n_rotated: 8, scaling }.rotary(8, n_tokens)
    }

    #[track_caller]
    fn assert_close(found: &[f64], expected: &[f64]) {
        assert!(
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-12),
            "{found:?}"
        );
    }

    #[test]
    fn dynamic_scaling_starts_past_max_positions() {
        let scaling = RopeScaling::Dynamic { factor: 2.0, max_positions: 100.0 };
        assert_close(&rotary(scaling.clone(), 100).inverse_frequencies, &[1.0, 0.1, 0.01, 0.001]);
        // At twice the length the base grows by (2 · 2 − 1)^(8/6), which divides the last of four frequencies
        // by 3.
        assert_close(&rotary(scaling, 200).inverse_frequencies[3..], &[0.001 / 3.0]);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        // Over 2π · 100 positions the pairs turn 100, 10, 1 and 0.1 times: pair 1 turns 10 times, pair 3 0.1
        // times.
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_max_positions: TAU * 100.0,
            beta_fast: 9.99,
            beta_slow: 0.1001,
            attention_factor: 1.25,
            truncates: true,
        };
        let found = rotary(yarn, 10);
        assert_close(&found.inverse_frequencies, &[1.0, 0.1, 0.01 * (0.5 + 0.5 / 4.0), 0.001 / 4.0]);
        assert_eq!(found.scale, 1.25);
    }

    #[test]
    fn longrope_uses_the_long_factors_past_the_original_length() {
        let scaling = RopeScaling::LongRope {
            short_factors: vec![1.0; 4],
            long_factors: vec![1.0, 2.0, 4.0, 8.0],
            original_max_positions: 64.0,
            attention_factor: 1.5,
        };
        assert_close(&rotary(scaling.clone(), 64).inverse_frequencies, &[1.0, 0.1, 0.01, 0.001]);
        let long = rotary(scaling, 65);
        assert_close(&long.inverse_frequencies, &[1.0, 0.05, 0.0025, 0.000125]);
        assert_eq!(long.scale, 1.5);
    }
}
