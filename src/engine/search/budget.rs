//! From a share to prune to a budget of key blocks.

use super::Candidates;
use crate::{
    error::Error,
    trace::{Blocks, StreamConfig},
};

/// The largest `top_k` that prunes at least `share` of the causal pairs, taken over layers with these blocks.
///
/// # Errors
/// [`Error::Setting`] when what is always kept is more than that.
pub fn for_share(layers: &[Blocks], config: &StreamConfig, share: f64) -> Result<usize, Error> {
    let causal: f64 = layers.iter().map(|blocks| blocks.causal_pairs() as f64).sum();
    let pruned = |top_k: usize| {
        1.0 - layers.iter().map(|blocks| most_pairs(blocks, config, top_k) as f64).sum::<f64>() / causal
    };
    let (mut fits, mut too_large) = (config.always_kept(), layers[0].n_key_blocks() + 1);
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
        match pruned(middle) >= share {
            true => fits = middle,
            false => too_large = middle,
        }
    }
    Ok(fits)
}

/// Pairs that are computed when each query block keeps `top_k` blocks, all of them whole but the sinks and local ones.
fn most_pairs(blocks: &Blocks, config: &StreamConfig, top_k: usize) -> u64 {
    let settled = StreamConfig { top_k, ..config.clone() };
    let of = |query_block: usize| {
        let split = Candidates::new(blocks, &settled, query_block);
        let whole = blocks.queries(query_block).len() * blocks.block_size_k;
        let always: usize = split.sinks.chain(split.local).map(|k| blocks.pairs(query_block, k)).sum();
        always + split.budget.min(split.candidates.len()) * whole
    };
    (0..blocks.n_query_blocks()).map(|query_block| of(query_block) as u64).sum()
}
