//! Attention of one query to some keys.

use super::{
    attend::KeysValues,
    lanes::{exp2, soft_cap, vectorized},
    sums::product,
};

/// Softmax and value sum over `tokens`, which the query sees; `query` and `output` are `[head_dim]`.
pub fn attend_one(query: &[f32], kv: KeysValues, tokens: &[usize], output: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            let mut weights: Vec<f32> = tokens.iter().map(|&token| product(query, kv.key(token))).collect();
            if let Some(cap) = kv.soft_cap {
                let cap = cap * (kv.head_dim as f32).sqrt();
                weights.iter_mut().for_each(|weight| soft_cap(std::slice::from_mut(weight), cap));
            }
            softmax(&mut weights, kv.scale(), kv.sink());
            output.fill(0.0);
            for (&weight, &token) in weights.iter().zip(tokens) {
                output.iter_mut().zip(kv.value(token)).for_each(|(sum, value)| *sum += weight * value);
            }
        },
    );
}

/// Softmax in base 2 of scores times `scale` and a sink, which takes its part.
#[inline(always)]
fn softmax(scores: &mut [f32], scale: f32, sink: f32) {
    let most = (scores.iter().copied().fold(f32::NEG_INFINITY, f32::max) * scale).max(sink);
    scores.iter_mut().for_each(|score| *score = exp2(*score * scale - most));
    let inverse = 1.0 / (scores.iter().sum::<f32>() + exp2(sink - most));
    scores.iter_mut().for_each(|weight| *weight *= inverse);
}
