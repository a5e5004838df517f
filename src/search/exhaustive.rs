//! Exact top-k blocks, so simple that it is unlikely to be wrong: the reference that every search is measured against.

use super::{Candidates, Queries, keep_best};
use crate::{
    config::StreamConfig,
    lanes::{LANES, products},
    trace::Blocks,
};

/// Writes the key blocks that a query block keeps: those that hold the largest query·key of a visible pair.
///
/// `keys` is `[n_tokens, head_dim]`; `row` `[top_k]` as in [`crate::trace::BlockMask`]. Returns the number of keys read.
pub fn search(
    queries: &Queries,
    keys: &[f32],
    blocks: &Blocks,
    config: &StreamConfig,
    query_block: usize,
    row: &mut [u32],
) -> usize {
    let split = Candidates::new(blocks, config, query_block);
    if split.candidates.len() <= split.budget {
        split.write(split.candidates.clone(), row);
        return 0;
    }
    let mut scored: Vec<(f32, u32)> = split
        .candidates
        .clone()
        .map(|block| (largest_product(queries, keys, blocks, query_block, block), block as u32))
        .collect();
    keep_best(&mut scored, split.budget);
    split.write(scored.iter().map(|s| s.1 as usize), row);
    split.candidates.len() * blocks.block_size_k
}

/// The largest query·key of a query block and a key block, over the pairs that are visible.
fn largest_product(queries: &Queries, keys: &[f32], blocks: &Blocks, query_block: usize, key_block: usize) -> f32 {
    let (tokens, full) = (blocks.keys(key_block), blocks.is_full(query_block, key_block));
    let (mut most, mut scores) = (f32::NEG_INFINITY, vec![[0.0; LANES]; tokens.len()]);
    for panel in &queries.panels {
        let head_dim = panel.values.len();
        products(&panel.values, |i| &keys[(tokens.start + i) * head_dim..][..head_dim], &mut scores);
        for (key, scores) in tokens.clone().zip(&scores) {
            let sees = |lane: usize| full || blocks.visible_keys(panel.first + lane).contains(&key);
            let visible = scores[..panel.n].iter().enumerate().filter(|(lane, _)| sees(*lane));
            most = visible.fold(most, |most, (_, &score)| most.max(score));
        }
    }
    most
}
