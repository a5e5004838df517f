//! What logits say of the next token.

/// Returns the index of the first of the largest logits.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a))).unwrap_or(0) as u32
}

/// Returns the natural logarithm of the probability of one token.
pub fn log_probability(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let total = logits.iter().map(|&l| (l as f64 - most).exp()).sum::<f64>().ln();
    logits[id as usize] as f64 - most - total
}

/// Returns the natural logarithms of the probabilities.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let total = logits.iter().map(|&l| (l as f64 - most).exp()).sum::<f64>().ln();
    logits.iter().map(|&l| l as f64 - most - total).collect()
}
