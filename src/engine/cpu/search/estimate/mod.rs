//! Estimates of the largest query·key in a range of keys, one file each. Which to use: `docs/estimates.md`.

mod mean_spread;
mod representative;
mod two_means;

use crate::{
    engine::{
        cpu::{bf16::Bf16Rows, lanes::Lanes, queries::QueryPanel},
        search::tree::Tree,
    },
    trace::Estimate,
};

/// The data of an estimate about the keys of one key-value head. Built in O(T) time and memory.
pub trait Index: Send + Sync {
    /// Rows of `[head_dim]` numbers that an estimate for one node reads.
    fn rows_per_node(&self) -> usize;

    /// Whether ranges are ranked by their share of a query's attention, rather than by their products as they
    /// are.
    fn ranks_shares(&self) -> bool;

    /// Estimates the largest query·key of each query with the keys of each node.
    ///
    /// `keys` are `[n_tokens, head_dim]`, what the index was made of; `nodes` are named by their second
    /// number.
    fn estimate(
        &self,
        queries: &QueryPanel,
        keys: &Bf16Rows,
        level: usize,
        nodes: &[(f32, u32)],
        out: &mut [Lanes],
    );
}

/// Builds the index of an estimate. `keys` is `[n_tokens, head_dim]`.
pub fn index(estimate: Estimate, keys: &[f32], head_dim: usize, tree: Tree) -> Box<dyn Index> {
    match estimate {
        Estimate::First | Estimate::Middle => Box::new(representative::Representative::new(estimate, tree)),
        Estimate::MeanSpread => Box::new(mean_spread::MeanSpread::new(keys, head_dim, tree)),
        Estimate::TwoMeans => Box::new(two_means::TwoMeans::new(keys, head_dim, tree)),
    }
}

/// How many standard deviations above its mean the largest of `n` keys is expected: √(2 ln n).
fn reach(n: f32) -> f32 {
    (2.0 * n.max(1.0).ln()).sqrt()
}

fn row(rows: &[f32], head_dim: usize, i: usize) -> &[f32] {
    &rows[i * head_dim..][..head_dim]
}
