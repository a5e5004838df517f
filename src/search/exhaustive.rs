//! Exact top-k blocks, so simple that it is unlikely to be wrong: the reference that every search is measured against.

use super::{Candidates, Queries, QueryPanel, keep_best};
use crate::{
    attention::hide_invisible,
    config::StreamConfig,
    lanes::{LANES, Lanes, largest, lend, max_into, products, vectorized},
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
    let mut scored: Vec<(f32, u32)> = split.candidates.clone().map(|block| (0.0, block as u32)).collect();
    score(queries, keys, blocks, query_block, &mut scored);
    keep_best(&mut scored, split.budget);
    split.write(scored.iter().map(|s| s.1 as usize), row);
    split.candidates.len() * blocks.block_size_k
}

/// Key blocks whose products are held at a time.
const GROUP: usize = 16;

/// Gives each key block, named by its second number, the largest query·key over the pairs that are visible.
pub fn score(queries: &Queries, keys: &[f32], blocks: &Blocks, query_block: usize, scored: &mut [(f32, u32)]) {
    let mut tokens: Vec<usize> = Vec::with_capacity(GROUP * blocks.block_size_k);
    for group in scored.chunks_mut(GROUP) {
        tokens.clear();
        tokens.extend(group.iter().flat_map(|item| blocks.keys(item.1 as usize)));
        group.iter_mut().for_each(|item| item.0 = f32::NEG_INFINITY);
        lend(tokens.len(), |found| {
            for panel in &queries.panels {
                let head_dim = panel.values.len();
                products(&panel.values, |i| &keys[tokens[i] * head_dim..][..head_dim], found);
                raise(group, panel, blocks, query_block, found);
            }
        });
    }
}

/// Raises each block's score to the largest of its products with a panel of queries. `found` is `[n_keys][LANES]`, changed
/// where a query does not see a key.
fn raise(scored: &mut [(f32, u32)], panel: &QueryPanel, blocks: &Blocks, query_block: usize, found: &mut [Lanes]) {
    let mut rest = found;
    for (score, block) in scored {
        let keys = blocks.keys(*block as usize);
        let (found, others) = rest.split_at_mut(keys.len());
        rest = others;
        if !blocks.is_full(query_block, *block as usize) {
            keys.zip(&mut *found).for_each(|(key, products)| hide_invisible(products, panel, key, blocks));
        }
        vectorized(
            #[inline(always)]
            || {
                let mut most = [*score; LANES];
                found.iter().for_each(|products| max_into(&mut most, products));
                *score = largest(&most);
            },
        );
    }
}
