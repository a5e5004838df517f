//! What logits say of the next token.

use rayon::prelude::*;

/// Logits that a thread takes at a time; sums are the same on any number of threads.
const PART: usize = 1 << 13;

/// Returns the index of the first of the largest logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&l| l == most).unwrap_or(0) as u32
}

/// Returns the natural logarithm of the sum of the logits' exponentials.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum = |part: &[f32]| part.iter().map(|&l| (l as f64 - most).exp()).sum::<f64>();
    most + logits.par_chunks(PART).map(sum).collect::<Vec<_>>().into_iter().sum::<f64>().ln()
}

/// Returns the natural logarithm of the probability of one token.
pub fn log_probability(logits: &[f32], id: u32) -> f64 {
    logits[id as usize] as f64 - log_sum_exp(logits)
}

/// Returns the natural logarithms of the probabilities.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let total = log_sum_exp(logits);
    logits.iter().map(|&l| l as f64 - total).collect()
}
