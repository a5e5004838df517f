//! Exact top-k blocks, every key read: the reference that every search is measured against.

use super::{attention_share, contested};
use crate::{
    engine::{
        cpu::{bf16::Bf16Rows, queries::Queries},
        search::keep_best,
    },
    trace::{Blocks, StreamConfig},
};

/// Writes the key blocks that a query block keeps: those that get the largest share of a query's attention.
///
/// `keys` are `[n_tokens, head_dim]`; `row` is as long as the head's budget, and filled as in
/// [`crate::trace::BlockMask`]. Returns the number of keys read.
pub fn search(
    queries: &Queries,
    keys: &Bf16Rows,
    blocks: &Blocks,
    config: &StreamConfig,
    query_block: usize,
    row: &mut [u32],
) -> usize {
    let Some(split) = contested(blocks, config, query_block, row) else { return 0 };
    let mut scored: Vec<(f32, u32)> = split.candidates.clone().map(|block| (0.0, block as u32)).collect();
    attention_share::score(queries, keys, blocks, query_block, split.always(), &mut scored);
    keep_best(&mut scored, split.budget);
    split.write(scored.iter().map(|s| s.1 as usize), row);
    split.keys_read(blocks.block_size_k)
}
