//! How the CPU finds the key blocks that a query block keeps, one head and query block at a time.

pub mod attention_share;
pub mod estimate;
pub mod exhaustive;
pub mod hierarchical;

use crate::{
    engine::search::Candidates,
    trace::{Blocks, StreamConfig},
};

/// Returns the candidates of a query block if they must be ranked; otherwise writes the row and returns
/// `None`.
fn contested(
    blocks: &Blocks,
    config: &StreamConfig,
    query_block: usize,
    row: &mut [u32],
) -> Option<Candidates> {
    let split = Candidates::new(blocks, config, query_block, row.len());
    if split.candidates.len() > split.budget && split.budget > 0 {
        return Some(split);
    }
    split.write(split.candidates.clone().take(split.budget), row);
    None
}
