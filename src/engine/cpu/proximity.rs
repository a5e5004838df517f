//! How near what each kept block writes comes to what a query block's residual stream becomes, on the CPU.

use rayon::prelude::*;

use super::{Layer, lanes::vectorized};
use crate::engine::device::{AttentionShape, near};

/// The attention that a query block's queries gave to the keys of its kept blocks: head, query block and sums
/// over queries. `[n_keys]`
pub(super) type Shares = (usize, usize, Vec<f32>);

impl Layer {
    /// Records the proximity of every kept block of the rows that were attended last. `weight` is
    /// `[hidden_size, n_heads · head_dim]`; `before` and `after` are those rows of the residual stream around
    /// attention, `[n_rows, hidden_size]`.
    pub(super) fn add_proximity(
        &mut self,
        weight: &[f32],
        before: &[f32],
        after: &[f32],
        first_query_block: usize,
    ) {
        let AttentionShape { blocks, n_heads, head_dim, .. } = self.shape;
        let hidden = weight.len() / (n_heads * head_dim);
        let first = blocks.queries(first_query_block).start;
        let mean = |rows: &[f32], query_block: usize| {
            let queries = blocks.queries(query_block);
            let rows = &rows[(queries.start - first) * hidden..(queries.end - first) * hidden];
            mean_row(rows, hidden, queries.len())
        };
        let weights: Vec<Vec<f32>> =
            (0..n_heads).map(|head| columns(weight, n_heads * head_dim, head * head_dim, head_dim)).collect();
        let shares = std::mem::take(&mut self.shares);
        let proximities = |(head, query_block, shares): &Shares| {
            let becomes = mean(after, *query_block);
            let n_queries = blocks.queries(*query_block).len();
            let mut shares = &shares[..];
            let part = |&block: &u32| {
                let keys = blocks.keys(block as usize);
                let (on_block, rest) = shares.split_at(keys.len());
                shares = rest;
                let values = keys.flat_map(|key| self.value(*head, key)).copied();
                let sum = weighted_sum(on_block, &values.collect::<Vec<f32>>(), head_dim);
                let scaled: Vec<f32> = sum.iter().map(|v| v / n_queries as f32).collect();
                near(&becomes, &weighted_sum(&scaled, &weights[*head], hidden))
            };
            (
                *head,
                *query_block,
                self.record.mask.kept(*head, *query_block).iter().map(part).collect::<Vec<f32>>(),
            )
        };
        let found: Vec<Shares> = shares.par_iter().map(proximities).collect();
        for (head, query_block, proximity) in found {
            let row = self.record.mask.row(head, query_block);
            self.record.proximity[row][..proximity.len()].copy_from_slice(&proximity);
        }
        for query_block in self.shape.query_blocks(first_query_block, before.len() / hidden) {
            self.stays[query_block] = near(&mean(after, query_block), &mean(before, query_block));
        }
    }
}

/// Sums rows by their weights. `rows` is `[n, width]`
fn weighted_sum(weights: &[f32], rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    vectorized(
        #[inline(always)]
        || {
            for (&weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
        },
    );
    sum
}

fn mean_row(rows: &[f32], width: usize, n: usize) -> Vec<f32> {
    weighted_sum(&vec![1.0 / n as f32; n], rows, width)
}

/// Some columns of a matrix of rows of `n_columns`, one after the other. `[n, n_rows]`
fn columns(matrix: &[f32], n_columns: usize, first: usize, n: usize) -> Vec<f32> {
    (first..first + n).flat_map(|column| matrix.iter().skip(column).step_by(n_columns)).copied().collect()
}
