//! Converts a share of pairs to prune to a budget of key blocks.

use super::Candidates;
use crate::{
    error::Error,
    trace::{Blocks, StreamConfig},
};

/// Returns the largest `top_k` that prunes at least `share` of the causal pairs of all `layers`.
///
/// # Errors
/// [`Error::Setting`] when the blocks that are always kept leave less than `share` to prune.
pub fn for_share(layers: &[Blocks], config: &StreamConfig, share: f64) -> Result<usize, Error> {
    // Layers differ in their windows alone: most are alike.
    let mut kinds: Vec<(Blocks, f64)> = Vec::new();
    for blocks in layers {
        match kinds.iter_mut().find(|(kind, _)| kind == blocks) {
            Some((_, n)) => *n += 1.0,
            None => kinds.push((*blocks, 1.0)),
        }
    }
    let causal: f64 = kinds.iter().map(|(blocks, n)| n * blocks.causal_pairs() as f64).sum();
    let pruned = |top_k: usize| {
        let computed = |(blocks, n): &(Blocks, f64)| n * most_pairs(blocks, config, top_k) as f64;
        1.0 - kinds.iter().map(computed).sum::<f64>() / causal
    };
    let mut fits = config.always_kept();
    let mut too_large = layers[0].n_key_blocks() + 1;
    if pruned(fits) < share {
        return Err(Error::setting(
            "pruned",
            format!(
                "at most {:.3}, as sink and local blocks stay for {} tokens",
                pruned(fits),
                layers[0].n_tokens
            ),
            share.to_string(),
            "prune less, trace a longer prompt, or lower sink_blocks and local_blocks",
        ));
    }
    while fits < too_large - 1 {
        let middle = (fits + too_large) / 2;
        if pruned(middle) >= share {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    Ok(fits)
}

/// Counts the pairs that are computed when each query block keeps `top_k` blocks; counts candidates as whole
/// blocks.
fn most_pairs(blocks: &Blocks, config: &StreamConfig, top_k: usize) -> u64 {
    let pairs = |query_block: usize| {
        let split = Candidates::new(blocks, config, query_block, top_k);
        let whole = blocks.queries(query_block).len() * blocks.block_size_k;
        let always: usize = split.sinks.chain(split.local).map(|k| blocks.pairs(query_block, k)).sum();
        always + split.budget.min(split.candidates.len()) * whole
    };
    (0..blocks.n_query_blocks()).map(|query_block| pairs(query_block) as u64).sum()
}
