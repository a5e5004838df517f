//! One head of a trace.

use super::{BlockMask, Blocks};

/// One head of one layer, read into memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadTrace {
    pub blocks: Blocks,
    pub(super) top_k: usize,
    pub(super) kept: Vec<u32>,
    pub(super) mass: Vec<f32>,
    pub(super) received: Vec<f32>,
}

impl HeadTrace {
    /// Makes a head with the given rows: `kept` and `mass` are `[n_query_blocks, top_k]` as in [`BlockMask`],
    /// `received` `[n_tokens]`.
    pub fn new(blocks: Blocks, top_k: usize, kept: Vec<u32>, mass: Vec<f32>, received: Vec<f32>) -> Self {
        HeadTrace { blocks, top_k, kept, mass, received }
    }

    /// Returns the kept key blocks of a query block, ascending, each with its attention mass: the mean over
    /// the block's queries of the probability on the key block's keys. A block out of range has none.
    pub fn row(&self, query_block: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let start = query_block.saturating_mul(self.top_k);
        let row = start..start.saturating_add(self.top_k);
        let kept =
            self.kept.get(row.clone()).unwrap_or_default().iter().take_while(|&&b| b != BlockMask::NONE);
        let mass = self.mass.get(row).unwrap_or_default();
        kept.zip(mass).map(|(&block, &mass)| (block as usize, mass))
    }

    /// Returns the budget: the key blocks that a query block keeps if it can see as many.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// Returns the attention mass that each key token received, summed over all queries. `[n_tokens]`
    pub fn received(&self) -> &[f32] {
        &self.received
    }
}
