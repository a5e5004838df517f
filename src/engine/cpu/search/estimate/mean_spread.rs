//! Mean plus spread, the expected maximum of keys that lie normally around their mean:
//! q·μ + √(Σ q_d² σ_d²) · √(2 ln m) for m keys of mean μ and variance σ² in each dimension.

use super::{Index, reach, row};
use crate::engine::{
    cpu::{
        bf16::Bf16Rows,
        lanes::{LANES, Lanes, lend, products, vectorized},
        queries::QueryPanel,
    },
    search::tree::Tree,
};

pub struct MeanSpread {
    head_dim: usize,
    tree: Tree,
    levels: Vec<Level>,
}

/// Moments of the keys of each node of one level. `[n_nodes, head_dim]`
#[derive(Default)]
struct Level {
    means: Vec<f32>,
    variances: Vec<f32>,
}

impl MeanSpread {
    pub fn new(keys: &[f32], head_dim: usize, tree: Tree) -> Self {
        let mut levels: Vec<Level> = Vec::new();
        for level in tree.levels() {
            levels.push(match levels.last() {
                None => Level::block_moments(keys, head_dim, tree),
                Some(below) => below.parents(head_dim, tree, level),
            });
        }
        MeanSpread { head_dim, tree, levels }
    }
}

impl Level {
    fn block_moments(keys: &[f32], head_dim: usize, tree: Tree) -> Self {
        let len = tree.n_nodes(0) * head_dim;
        let mut level = Level { means: vec![0.0; len], variances: vec![0.0; len] };
        let moments = level.means.chunks_mut(head_dim).zip(level.variances.chunks_mut(head_dim));
        for (block, (mean, variance)) in moments.enumerate() {
            let tokens = tree.tokens(0, block);
            let n = tokens.len() as f32;
            let keys = &keys[tokens.start * head_dim..tokens.end * head_dim];
            for key in keys.chunks(head_dim) {
                mean.iter_mut().zip(key).for_each(|(mean, k)| *mean += k / n);
            }
            for key in keys.chunks(head_dim) {
                let squares = key.iter().zip(&*mean).map(|(k, mean)| (k - mean) * (k - mean));
                variance.iter_mut().zip(squares).for_each(|(variance, square)| *variance += square / n);
            }
        }
        level
    }

    /// Returns the moments of the level above: two groups of keys taken together.
    fn parents(&self, head_dim: usize, tree: Tree, level: usize) -> Self {
        let mut parents = Level::default();
        for node in 0..tree.n_nodes(level) {
            let [left, right] = tree.children(level, node);
            let [n_left, n_right] = [left, right].map(|child| tree.tokens(level - 1, child).len() as f32);
            let a = n_left / (n_left + n_right);
            let b = n_right / (n_left + n_right);
            let child_values = |rows: &[f32], d: usize| [left, right].map(|child| rows[child * head_dim + d]);
            for d in 0..head_dim {
                let [l, r] = child_values(&self.means, d);
                let [v_l, v_r] = child_values(&self.variances, d);
                parents.means.push(a * l + b * r);
                parents.variances.push(a * v_l + b * v_r + a * b * (l - r) * (l - r));
            }
        }
        parents
    }
}

impl Index for MeanSpread {
    fn rows_per_node(&self) -> usize {
        2
    }

    fn ranks_shares(&self) -> bool {
        false
    }

    fn estimate(
        &self,
        queries: &QueryPanel,
        _: &Bf16Rows,
        level: usize,
        nodes: &[(f32, u32)],
        out: &mut [Lanes],
    ) {
        let d = self.head_dim;
        let node = |i: usize| nodes[i].1 as usize;
        let moments = &self.levels[level];
        let reaches = |i: usize| reach(self.tree.tokens(level, node(i)).len() as f32);
        let squares: Vec<Lanes> = queries.values.iter().map(|lanes| lanes.map(|q| q * q)).collect();
        products(&queries.values, |i| row(&moments.means, d, node(i)), out);
        lend(nodes.len(), |variances| {
            products(&squares, |i| row(&moments.variances, d, node(i)), variances);
            vectorized(
                #[inline(always)]
                || {
                    for (i, (out, variance)) in out.iter_mut().zip(variances).enumerate() {
                        let reach = reaches(i);
                        for lane in 0..LANES {
                            out[lane] += variance[lane].max(0.0).sqrt() * reach;
                        }
                    }
                },
            );
        });
    }
}
