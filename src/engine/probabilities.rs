//! What logits say of the next token.

use rayon::prelude::*;

/// Logits that a thread takes at a time; sums are the same on any number of threads.
const PART: usize = 1 << 12;

/// Logits that are compared at a time.
const LANES: usize = 32;

/// Returns the index of the first of the largest logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let most = largest(logits);
    let has_most = |lanes: &[f32]| lanes.iter().fold(false, |found, &l| found | (l == most));
    let first = logits.chunks(LANES).position(has_most).unwrap_or(0) * LANES;
    let behind = logits[first..].iter().position(|&l| l == most).unwrap_or(0);
    (first + behind) as u32
}

fn largest(logits: &[f32]) -> f32 {
    let (lanes, rest) = logits.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let most = lanes.iter().fold([f32::NEG_INFINITY; LANES], |mut most, lanes| {
        most.iter_mut().zip(lanes).for_each(|(most, &l)| *most = larger(*most, l));
        most
    });
    most.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

/// Returns the natural logarithm of the sum of the logits' exponentials.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(largest(logits));
    let sum = |part: &[f32]| part.iter().map(|&l| (f64::from(l) - most).exp()).sum::<f64>();
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
