//! The key blocks that each query block of one layer keeps.

use super::{Blocks, Budgets};

/// Kept key blocks of every head and query block of one layer, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMask {
    pub blocks: Blocks,
    pub budgets: Budgets,
    /// The rows of all query blocks, head by head, as long as the head's budget; a row that sees fewer blocks
    /// ends in [`BlockMask::NONE`].
    pub kept: Vec<u32>,
}

impl BlockMask {
    /// Fills a row that has fewer blocks than its head's budget.
    pub const NONE: u32 = u32::MAX;

    /// Returns a mask that keeps nothing yet.
    pub fn empty(blocks: Blocks, budgets: Budgets) -> Self {
        let kept = vec![Self::NONE; blocks.n_query_blocks() * budgets.sum()];
        BlockMask { blocks, budgets, kept }
    }

    pub fn n_heads(&self) -> usize {
        self.budgets.n_heads()
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
        self.budgets.row(head, query_block, self.blocks.n_query_blocks())
    }

    /// Iterates over heads and query blocks, in the order of their rows.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let n_query_blocks = self.blocks.n_query_blocks();
        (0..self.n_heads())
            .flat_map(move |head| (0..n_query_blocks).map(move |query_block| (head, query_block)))
    }

    /// Returns the mean over all queries of the mass on their kept blocks, of masses in the order of `kept`.
    /// `[n_heads]`
    pub fn mean_mass(&self, mass: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0; self.n_heads()];
        for (head, query_block) in self.rows() {
            let n = self.kept(head, query_block).len();
            let on_kept: f32 = mass[self.row(head, query_block)][..n].iter().sum();
            sums[head] += f64::from(on_kept) * self.blocks.queries(query_block).len() as f64;
        }
        sums.into_iter().map(|sum| (sum / self.blocks.n_tokens.max(1) as f64) as f32).collect()
    }

    /// Counts the visible (query, key) pairs that all heads keep.
    pub fn kept_pairs(&self) -> u64 {
        (0..self.n_heads()).map(|head| self.kept_pairs_of(head)).sum()
    }

    /// Counts the visible (query, key) pairs that a head keeps.
    pub fn kept_pairs_of(&self, head: usize) -> u64 {
        let pairs = |query_block| {
            let kept = self.kept(head, query_block);
            // Rows ascend: blocks that every query sees whole lie between those at either end, of which the last
            // block of the prompt may be shorter.
            let is_full = |&block: &u32| self.blocks.is_full(query_block, block as usize);
            let first = kept.iter().position(is_full).unwrap_or(kept.len());
            let end = kept.iter().rposition(is_full).unwrap_or(first);
            let at_ends = kept[..first].iter().chain(&kept[end..]);
            let at_ends: usize = at_ends.map(|&block| self.blocks.pairs(query_block, block as usize)).sum();
            let of_full = self.blocks.queries(query_block).len() * self.blocks.block_size_k;
            ((end - first) * of_full + at_ends) as u64
        };
        (0..self.blocks.n_query_blocks()).map(pairs).sum()
    }
}
