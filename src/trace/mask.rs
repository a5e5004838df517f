//! The key blocks that each query block of one layer keeps.

use super::Blocks;

/// Kept key blocks of every head and query block of one layer, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMask {
    pub blocks: Blocks,
    pub n_heads: usize,
    pub top_k: usize,
    /// `[n_heads, n_query_blocks, top_k]`; a row that sees fewer blocks ends in [`BlockMask::NONE`].
    pub kept: Vec<u32>,
}

impl BlockMask {
    /// Fills a row that has fewer than `top_k` blocks.
    pub const NONE: u32 = u32::MAX;

    /// Returns a mask that keeps nothing yet.
    pub fn empty(blocks: Blocks, n_heads: usize, top_k: usize) -> Self {
        let kept = vec![Self::NONE; n_heads * blocks.n_query_blocks() * top_k];
        BlockMask { blocks, n_heads, top_k, kept }
    }

    /// Returns the key blocks that a query block keeps, ascending.
    pub fn kept(&self, head: usize, query_block: usize) -> &[u32] {
        let row = &self.kept[self.row(head, query_block)];
        &row[..row.partition_point(|&b| b != Self::NONE)]
    }

    /// Returns whether a row holds blocks that its queries see, ascending, then nothing.
    pub(super) fn is_row(blocks: &Blocks, query_block: usize, row: &[u32]) -> bool {
        let (kept, rest) = row.split_at(row.iter().position(|&b| b == Self::NONE).unwrap_or(row.len()));
        let visible = blocks.visible(query_block);
        kept.is_sorted_by(|a, b| a < b)
            && kept.iter().all(|&b| visible.contains(&(b as usize)))
            && rest.iter().all(|&b| b == Self::NONE)
    }

    /// Returns the range of a query block's row in `kept`.
    pub fn row(&self, head: usize, query_block: usize) -> std::ops::Range<usize> {
        let start = (head * self.blocks.n_query_blocks() + query_block) * self.top_k;
        start..start + self.top_k
    }

    /// Counts the visible (query, key) pairs that all heads keep.
    pub fn kept_pairs(&self) -> u64 {
        (0..self.n_heads)
            .flat_map(|h| (0..self.blocks.n_query_blocks()).map(move |q| (h, q)))
            .map(|(h, q)| {
                self.kept(h, q).iter().map(|&k| self.blocks.pairs(q, k as usize) as u64).sum::<u64>()
            })
            .sum()
    }
}
