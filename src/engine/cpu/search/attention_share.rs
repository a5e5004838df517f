//! The largest share of a query's attention that falls on a key block: what every search ranks blocks by in
//! the end.
//!
//! A product says nothing about what a query looks at without the products beside it: queries that like every
//! key would drown out one that likes a single key very much.

use std::{array, f32::consts::LOG2_E};

use crate::{
    engine::cpu::{
        bf16::{Bf16Rows, products},
        exponentials::{add, exponential, raise, raise_rows, sum_of_exponentials, times, times_and_sum},
        lanes::{LANES, Lanes, lend, soft_cap, vectorized},
        queries::{Queries, QueryPanel, hide_invisible},
    },
    trace::Blocks,
};

/// Key blocks whose products are held at a time.
const GROUP: usize = 16;

/// Less than any product, and finite.
const LEAST: f32 = -1e30;

/// Gives each key block, named by its second number, the largest share, over all queries, of a query's
/// attention that falls on it. That attention is the softmax over the visible keys of these blocks and of
/// `others`.
pub fn score(
    queries: &Queries,
    keys: &Bf16Rows,
    blocks: &Blocks,
    query_block: usize,
    others: impl Iterator<Item = usize>,
    scored: &mut [(f32, u32)],
) {
    let all: Vec<usize> = scored.iter().map(|item| item.1 as usize).chain(others).collect();
    scored.iter_mut().for_each(|item| item.0 = 0.0);
    for panel in &queries.panels {
        let masses = masses(panel, keys, blocks, query_block, &all, None);
        let mut total = [0.0; LANES];
        add(&mut total, &masses);
        let shares = scored.iter_mut().map(|item| &mut item.0);
        raise_rows(shares, &masses, &total.map(|total| 1.0 / total), &[0.0; LANES]);
    }
}

/// Returns the mean, over all queries, of the share of a query's attention that falls on each key block; 0 for
/// those that are not visible. `[n_key_blocks]`
pub fn mean_masses(
    queries: &Queries,
    keys: &Bf16Rows,
    blocks: &Blocks,
    query_block: usize,
    soft_cap: Option<f32>,
) -> Vec<f32> {
    let visible = blocks.visible(query_block);
    let all: Vec<usize> = visible.clone().collect();
    let n = blocks.queries(query_block).len() as f32;
    let mut means = vec![0.0; blocks.n_key_blocks()];
    for panel in &queries.panels {
        let mut masses = masses(panel, keys, blocks, query_block, &all, soft_cap);
        let mut total = [0.0; LANES];
        add(&mut total, &masses);
        let share = |lane| if lane < panel.n { 1.0 / (n * total[lane]) } else { 0.0 };
        times_and_sum(&mut masses, &array::from_fn(share), &mut means[visible.clone()]);
    }
    means
}

/// Σ exp(q·k / √head_dim) over the visible keys of each block, times a factor that each query has for all
/// blocks.
fn masses(
    panel: &QueryPanel,
    keys: &Bf16Rows,
    blocks: &Blocks,
    query_block: usize,
    all: &[usize],
    cap: Option<f32>,
) -> Vec<Lanes> {
    let head_dim = panel.values.len();
    let scale = LOG2_E / (head_dim as f32).sqrt();
    let mut masses = Vec::with_capacity(all.len());
    let mut most = [LEAST; LANES];
    // The largest product of each query when a group's masses were taken, as a power of two.
    let mut references = Vec::with_capacity(all.len().div_ceil(GROUP));
    let mut tokens = Vec::with_capacity(GROUP * blocks.block_size_k);
    for group in all.chunks(GROUP) {
        tokens.clear();
        tokens.extend(group.iter().flat_map(|&block| blocks.keys(block)));
        lend(tokens.len(), |found| {
            products(&panel.in_bf16, |i| keys.row(tokens[i]), found);
            if let Some(cap) = cap {
                let cap = cap * (head_dim as f32).sqrt();
                vectorized(
                    #[inline(always)]
                    || found.iter_mut().for_each(|lanes| soft_cap(lanes, cap)),
                );
            }
            let mut rest = &mut *found;
            for &block in group {
                let keys = blocks.keys(block);
                let (found, others) = rest.split_at_mut(keys.len());
                rest = others;
                if !blocks.is_full(query_block, block) {
                    keys.zip(found).for_each(|(key, products)| hide_invisible(products, panel, key, blocks));
                }
            }
            raise(&mut most, found);
            let reference = most.map(|most| most * scale);
            let mut rest = &*found;
            for &block in group {
                let (found, others) = rest.split_at(blocks.keys(block).len());
                rest = others;
                masses.push(sum_of_exponentials(found, scale, &reference));
            }
            references.push(reference);
        });
    }
    let most = most.map(|most| most * scale);
    for (group, &reference) in masses.chunks_mut(GROUP).zip(&references) {
        times(group, &exponential(reference, &most));
    }
    masses
}
