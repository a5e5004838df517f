//! One key speaks for its range: the published estimates.

use super::Index;
use crate::{
    engine::{
        cpu::{
            bf16::{Bf16Rows, products},
            lanes::Lanes,
            queries::QueryPanel,
        },
        search::tree::Tree,
    },
    trace::Estimate,
};

/// The first key of a range (HiP 1.x) or its middle one (InfiniteHiP). Nothing is built.
pub struct Representative {
    estimate: Estimate,
    tree: Tree,
}

impl Representative {
    pub fn new(estimate: Estimate, tree: Tree) -> Self {
        Representative { estimate, tree }
    }

    fn token(&self, level: usize, node: u32) -> usize {
        let tokens = self.tree.tokens(level, node as usize);
        match self.estimate {
            Estimate::First => tokens.start,
            _ => tokens.start + tokens.len() / 2,
        }
    }
}

impl Index for Representative {
    fn rows_per_node(&self) -> usize {
        1
    }

    fn ranks_shares(&self) -> bool {
        false
    }

    fn estimate(
        &self,
        queries: &QueryPanel,
        keys: &Bf16Rows,
        level: usize,
        nodes: &[(f32, u32)],
        out: &mut [Lanes],
    ) {
        products(&queries.in_bf16, |i| keys.row(self.token(level, nodes[i].1)), out);
    }
}
