//! A binary tree over key blocks: node `i` of level `l` covers blocks `i·2^l .. (i+1)·2^l`; level 0 is the
//! blocks.

use std::ops::Range;

use crate::trace::Blocks;

/// The shape of the tree: its levels, and the tokens of each node.
#[derive(Clone, Copy)]
pub struct Tree {
    n_tokens: usize,
    block_size_k: usize,
}

impl Tree {
    /// The tree over the key blocks of `blocks`.
    pub fn new(blocks: &Blocks) -> Self {
        Tree { n_tokens: blocks.n_tokens, block_size_k: blocks.block_size_k }
    }

    /// Returns the number of nodes of `level`.
    pub fn n_nodes(&self, level: usize) -> usize {
        self.n_tokens.div_ceil(self.block_size_k << level)
    }

    /// Returns the levels, from 0 to the level with one node.
    pub fn levels(&self) -> Range<usize> {
        0..self.n_nodes(0).next_power_of_two().ilog2() as usize + 1
    }

    /// Returns the tokens of a node; only the last node of a level can have fewer than the others.
    pub fn tokens(&self, level: usize, node: usize) -> Range<usize> {
        let size = self.block_size_k << level;
        (node * size).min(self.n_tokens)..((node + 1) * size).min(self.n_tokens)
    }

    /// Returns the children of a node of level 1 or above; the left one twice if it has no right one.
    pub fn children(&self, level: usize, node: usize) -> [usize; 2] {
        [2 * node, (2 * node + 1).min(self.n_nodes(level - 1) - 1)]
    }
}
