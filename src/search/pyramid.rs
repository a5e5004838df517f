//! What the hierarchical search knows about ranges of keys: a pyramid over key blocks, and an estimate of the largest
//! query·key in each of its nodes.
//!
//! Node `i` of level `l` stands for key blocks `i·2^l .. (i+1)·2^l`; level 0 is the blocks themselves. Building it reads
//! every key once; it holds at most two numbers per key and dimension of a block: O(T) time and memory.

use std::ops::Range;

use super::Queries;
use crate::{
    config::Estimate,
    lanes::{LANES, Lanes, largest, lend, products, vectorized},
    trace::Blocks,
};

/// One key-value head's pyramid.
pub struct Pyramid {
    estimate: Estimate,
    blocks: Blocks,
    head_dim: usize,
    /// Empty for the estimates that read single keys.
    levels: Vec<Moments>,
}

/// Mean and variance of the keys of each node of one level, per dimension. `[n_nodes, head_dim]`
struct Moments {
    means: Vec<f32>,
    /// Empty unless the estimate uses them.
    variances: Vec<f32>,
}

impl Pyramid {
    /// `keys` is `[n_tokens, head_dim]`.
    pub fn new(keys: &[f32], head_dim: usize, blocks: Blocks, estimate: Estimate) -> Self {
        let mut pyramid = Pyramid { estimate, blocks, head_dim, levels: Vec::new() };
        if matches!(estimate, Estimate::Mean | Estimate::MeanSpread) {
            pyramid.levels.push(pyramid.leaves(keys));
            while pyramid.n_nodes(pyramid.levels.len() - 1) > 1 {
                pyramid.levels.push(pyramid.parents(pyramid.levels.len()));
            }
        }
        pyramid
    }

    fn n_nodes(&self, level: usize) -> usize {
        self.blocks.n_key_blocks().div_ceil(1 << level)
    }

    /// Tokens below a node.
    fn tokens(&self, level: usize, node: usize) -> Range<usize> {
        let size = self.blocks.block_size_k << level;
        (node * size).min(self.blocks.n_tokens)..((node + 1) * size).min(self.blocks.n_tokens)
    }

    fn leaves(&self, keys: &[f32]) -> Moments {
        let (d, n) = (self.head_dim, self.n_nodes(0));
        let mut level = Moments { means: vec![0.0; n * d], variances: Vec::new() };
        for (block, mean) in level.means.chunks_mut(d).enumerate() {
            let tokens = self.tokens(0, block);
            for key in keys[tokens.start * d..tokens.end * d].chunks(d) {
                mean.iter_mut().zip(key).for_each(|(m, k)| *m += k / tokens.len() as f32);
            }
        }
        if self.estimate == Estimate::MeanSpread {
            level.variances = vec![0.0; n * d];
            for (block, (variance, mean)) in level.variances.chunks_mut(d).zip(level.means.chunks(d)).enumerate() {
                let tokens = self.tokens(0, block);
                for key in keys[tokens.start * d..tokens.end * d].chunks(d) {
                    let squares = key.iter().zip(mean).map(|(k, m)| (k - m) * (k - m));
                    variance.iter_mut().zip(squares).for_each(|(v, s)| *v += s / tokens.len() as f32);
                }
            }
        }
        level
    }

    /// The level above `level - 1`: moments of two groups of keys taken together.
    fn parents(&self, level: usize) -> Moments {
        let (d, below) = (self.head_dim, &self.levels[level - 1]);
        let mut parents = Moments { means: Vec::new(), variances: Vec::new() };
        for node in 0..self.n_nodes(level) {
            let left = 2 * node;
            // A last node without a right child equals its left one.
            let right = (left + 1).min(self.n_nodes(level - 1) - 1);
            let [n_left, n_right] = [left, right].map(|i| self.tokens(level - 1, i).len() as f32);
            let (a, b) = (n_left / (n_left + n_right), n_right / (n_left + n_right));
            let of = |values: &[f32], i: usize| [values[left * d + i], values[right * d + i]];
            parents.means.extend((0..d).map(|i| of(&below.means, i)).map(|[l, r]| a * l + b * r));
            if !below.variances.is_empty() {
                let pooled = |i| {
                    let ([l, r], [vl, vr]) = (of(&below.means, i), of(&below.variances, i));
                    a * vl + b * vr + a * b * (l - r) * (l - r)
                };
                parents.variances.extend((0..d).map(pooled));
            }
        }
        parents
    }

    /// Estimates the largest query·key of each node, over all queries.
    pub fn score(&self, queries: &Queries, keys: &[f32], level: usize, nodes: &[(f32, u32)], scores: &mut [f32]) {
        scores.fill(f32::NEG_INFINITY);
        // All nodes of a level are of one size, but for the last.
        let reach_of = |node: usize| (2.0 * (self.tokens(level, node).len() as f32).ln()).sqrt();
        let last = self.n_nodes(level) - 1;
        let (reach, reach_of_last) = (reach_of(0), reach_of(last));
        lend(2 * nodes.len(), |lanes| {
            let (means, variances) = lanes.split_at_mut(nodes.len());
            for panel in &queries.panels {
                self.products(&panel.values, keys, level, nodes, means, variances);
                vectorized(
                    #[inline(always)]
                    || {
                        for (i, score) in scores.iter_mut().enumerate() {
                            let reach = if nodes[i].1 as usize == last { reach_of_last } else { reach };
                            *score = score.max(largest(&means[i], &variances[i], reach));
                        }
                    },
                );
            }
        });
    }

    /// Mean and variance of the products of each query with a node's keys, as far as the estimate knows them.
    fn products(
        &self,
        queries: &[Lanes],
        keys: &[f32],
        level: usize,
        nodes: &[(f32, u32)],
        means: &mut [Lanes],
        variances: &mut [Lanes],
    ) {
        let (d, node) = (self.head_dim, |i: usize| nodes[i].1 as usize);
        let moments = self.levels.get(level);
        match (self.estimate, moments) {
            (Estimate::MeanSpread, Some(moments)) => {
                let squares: Vec<Lanes> = queries.iter().map(|lanes| lanes.map(|q| q * q)).collect();
                products(queries, |i| &moments.means[node(i) * d..][..d], means);
                products(&squares, |i| &moments.variances[node(i) * d..][..d], variances);
                return;
            }
            (Estimate::Mean, Some(moments)) => products(queries, |i| &moments.means[node(i) * d..][..d], means),
            _ => products(queries, |i| &keys[self.representative(level, node(i)) * d..][..d], means),
        }
        variances.fill([0.0; LANES]);
    }

    /// The key that stands for a node.
    fn representative(&self, level: usize, node: usize) -> usize {
        let tokens = self.tokens(level, node);
        match self.estimate {
            Estimate::First => tokens.start,
            _ => tokens.start + tokens.len() / 2,
        }
    }
}
