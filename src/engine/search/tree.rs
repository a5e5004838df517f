//! A binary tree over key blocks: node `i` of level `l` stands for blocks `i·2^l .. (i+1)·2^l`; level 0 is the blocks.

use std::ops::Range;

use crate::trace::Blocks;

/// Where the nodes of each level lie.
#[derive(Clone, Copy)]
pub struct Tree {
    n_tokens: usize,
    block_size_k: usize,
}

impl Tree {
    pub fn new(blocks: &Blocks) -> Self {
        Tree { n_tokens: blocks.n_tokens, block_size_k: blocks.block_size_k }
    }

    pub fn n_nodes(&self, level: usize) -> usize {
        self.n_tokens.div_ceil(self.block_size_k << level)
    }

    /// From the blocks to the level of one node.
    pub fn levels(&self) -> Range<usize> {
        0..self.n_nodes(0).next_power_of_two().ilog2() as usize + 1
    }

    /// Tokens below a node; only a level's last node can hold fewer than the others.
    pub fn tokens(&self, level: usize, node: usize) -> Range<usize> {
        let size = self.block_size_k << level;
        (node * size).min(self.n_tokens)..((node + 1) * size).min(self.n_tokens)
    }

    /// The two nodes below a node of level 1 or above; the left one twice where there is no right one.
    pub fn children(&self, level: usize, node: usize) -> [usize; 2] {
        [2 * node, (2 * node + 1).min(self.n_nodes(level - 1) - 1)]
    }
}
