//! One head's queries and keys, their search, and the definition of the right result.

use proptest::prelude::*;
use streamtrace::{
    Estimate, Search, StreamConfig,
    engine::{
        cpu::{
            bf16::Bf16Rows,
            queries::Queries,
            search::{
                estimate::index,
                exhaustive,
                hierarchical::{self, Indexed},
            },
        },
        search::{baseline, tree::Tree},
    },
    trace::{BlockMask, Blocks, Budgets},
};

pub const ESTIMATES: [Estimate; 4] =
    [Estimate::First, Estimate::Middle, Estimate::MeanSpread, Estimate::TwoMeans];

/// One head. Its numbers are small integers, so that products are exact and ties are frequent.
#[derive(Clone, Debug)]
pub struct Case {
    pub blocks: Blocks,
    pub config: StreamConfig,
    pub head_dim: usize,
    /// `[n_tokens, head_dim]`
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
}

impl Case {
    /// Returns random numbers for these blocks.
    pub fn new(blocks: Blocks, config: StreamConfig, head_dim: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut numbers =
            || (0..blocks.n_tokens * head_dim).map(|_| random.i32(-3..=3) as f32).collect::<Vec<f32>>();
        let (queries, keys) = (numbers(), numbers());
        let config =
            StreamConfig { block_size_q: blocks.block_size_q, block_size_k: blocks.block_size_k, ..config };
        Case { blocks, config, head_dim, queries, keys }
    }

    pub fn search_with(&self, search: Search, query_block: usize) -> Vec<u32> {
        let config = StreamConfig { search, ..self.config.clone() };
        let positions = self.blocks.queries(query_block);
        let queries = Queries::new(
            &self.queries[positions.start * self.head_dim..],
            self.head_dim,
            self.head_dim,
            positions,
        );
        let mut row = vec![BlockMask::NONE; config.top_k];
        let mut keys = Bf16Rows::new(self.head_dim);
        keys.extend(&self.keys);
        match search {
            Search::Exhaustive => {
                exhaustive::search(&queries, &keys, &self.blocks, &config, query_block, &mut row)
            }
            Search::Hierarchical(estimate) => {
                let index = index(estimate, &self.keys, self.head_dim, Tree::new(&self.blocks));
                let head = Indexed { keys: &keys, index: &*index };
                hierarchical::search(&queries, head, &self.blocks, &config, query_block, &mut row)
            }
            Search::Window => baseline::window(&self.blocks, &config, query_block, &mut row),
            Search::Random { seed } => {
                baseline::random(seed, &self.blocks, &config, 0, query_block, &mut row)
            }
        };
        row
    }

    /// Returns the kept blocks of every query block.
    pub fn mask(&self, search: Search) -> BlockMask {
        let mut mask = BlockMask::empty(self.blocks, Budgets::uniform(1, self.config.top_k));
        for query_block in 0..self.blocks.n_query_blocks() {
            let row = mask.row(0, query_block);
            mask.kept[row].copy_from_slice(&self.search_with(search, query_block));
        }
        mask
    }

    /// Returns whether a query sees a key, from the definition.
    fn sees(&self, query: usize, key: usize) -> bool {
        key <= query && self.blocks.window.is_none_or(|window| query - key < window)
    }

    /// Returns the pairs of a query block and a key block that are visible.
    fn pairs(&self, query_block: usize, key_block: usize) -> Vec<(usize, usize)> {
        let Blocks { n_tokens, block_size_q: bq, block_size_k: bk, .. } = self.blocks;
        let keys = key_block * bk..((key_block + 1) * bk).min(n_tokens);
        let pairs = (query_block * bq..((query_block + 1) * bq).min(n_tokens))
            .flat_map(|q| keys.clone().map(move |k| (q, k)));
        pairs.filter(|&(q, k)| self.sees(q, k)).collect()
    }

    /// Returns the key blocks of which a query block sees at least one key.
    pub fn visible(&self, query_block: usize) -> Vec<usize> {
        let n_blocks = self.blocks.n_tokens.div_ceil(self.blocks.block_size_k);
        (0..n_blocks).filter(|&k| !self.pairs(query_block, k).is_empty()).collect()
    }

    /// Returns the visible key blocks that are always kept.
    pub fn always(&self, query_block: usize) -> Vec<usize> {
        let (visible, Blocks { block_size_q: bq, block_size_k: bk, .. }) =
            (self.visible(query_block), self.blocks);
        let n_local = self.config.local_blocks.max(bq.div_ceil(bk)).min(visible.len());
        let first_local = visible[visible.len() - n_local];
        visible.into_iter().filter(|&k| k < self.config.sink_blocks || k >= first_local).collect()
    }

    /// Returns whether a row is a right result of the exhaustive search: up to rounding, no block that it
    /// leaves out gets a larger share of a query's attention than a block that it chose.
    pub fn is_best(&self, query_block: usize, kept: &[usize]) -> bool {
        let (visible, always) = (self.visible(query_block), self.always(query_block));
        let shares = self.shares(query_block, &visible);
        let competing = || visible.iter().zip(&shares).filter(|(block, _)| !always.contains(block));
        let (chosen, left): (Vec<_>, Vec<_>) = competing().partition(|(block, _)| kept.contains(block));
        let least = chosen.iter().map(|(_, share)| **share).fold(f64::INFINITY, f64::min);
        let most = left.iter().map(|(_, share)| **share).fold(0.0, f64::max);
        kept.len() == visible.len().min(self.config.top_k) && most <= least * (1.0 + 1e-4) + 1e-30
    }

    /// Returns the largest share of a query's attention that falls on each block, from the definition.
    fn shares(&self, query_block: usize, visible: &[usize]) -> Vec<f64> {
        let logit = |q, k| self.product(q, k) as f64 / (self.head_dim as f64).sqrt();
        let mut masses = vec![std::collections::BTreeMap::<usize, f64>::new(); visible.len()];
        for (mass, &block) in masses.iter_mut().zip(visible) {
            self.pairs(query_block, block)
                .into_iter()
                .for_each(|(q, k)| *mass.entry(q).or_default() += logit(q, k).exp());
        }
        let total = |q: &usize| masses.iter().filter_map(|mass| mass.get(q)).sum::<f64>();
        masses.iter().map(|mass| mass.iter().map(|(q, mass)| mass / total(q)).fold(0.0, f64::max)).collect()
    }

    /// Returns the blocks kept by the largest product with their keys.
    pub fn best_by_products(&self, query_block: usize) -> Vec<usize> {
        let mut kept = self.always(query_block);
        let mut others: Vec<usize> =
            self.visible(query_block).into_iter().filter(|k| !kept.contains(k)).collect();
        let largest =
            |&k: &usize| self.pairs(query_block, k).into_iter().map(|(q, k)| self.product(q, k)).max();
        others.sort_by_key(|k| (std::cmp::Reverse(largest(k)), *k));
        others.truncate(self.config.top_k - kept.len());
        kept.extend(others);
        kept.sort_unstable();
        kept
    }

    fn product(&self, query: usize, key: usize) -> i64 {
        let row = |rows: &[f32], i: usize| rows[i * self.head_dim..][..self.head_dim].to_vec();
        row(&self.queries, query).iter().zip(row(&self.keys, key)).map(|(a, b)| (a * b) as i64).sum()
    }
}

/// Returns the part of a row that names blocks.
pub fn named(row: &[u32]) -> Vec<usize> {
    row.iter().take_while(|&&block| block != BlockMask::NONE).map(|&block| block as usize).collect()
}

/// Picks two block sizes, one of which divides the other.
pub fn block_sizes() -> impl Strategy<Value = (usize, usize)> {
    prop::sample::select(vec![
        (1, 1),
        (4, 2),
        (2, 8),
        (32, 8),
        (64, 16),
        (9, 3),
        (5, 5),
        (1, 7),
        (40, 4),
        (16, 1),
        (3, 1),
    ])
}

/// Picks head sizes: mostly small and quick, sometimes those of real models or odd ones.
fn head_dims() -> impl Strategy<Value = usize> {
    prop_oneof![7 => 1..8usize, 1 => prop::sample::select(vec![64, 67, 80, 96, 128, 129, 192, 256])]
}

/// Returns any head, with budgets from no blocks to more than all.
pub fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..260usize, block_sizes(), head_dims(), prop::option::of(1..300usize));
    let descent = (0..24usize, prop::sample::select(vec![2, 4, 8]), any::<bool>());
    let settings = (0..4usize, 0..5usize, prop_oneof![0..4usize, 0..24usize], descent);
    (sizes, settings, any::<u64>()).prop_map(
        |((n_tokens, (bq, bk), head_dim, window), (sink, local, extra, descent), seed)| {
            let (beam, split, rescore) = descent;
            let blocks = Blocks { n_tokens, block_size_q: bq, block_size_k: bk, window };
            let config = StreamConfig {
                block_size_q: bq,
                block_size_k: bk,
                sink_blocks: sink,
                local_blocks: local,
                beam,
                split,
                rescore,
                ..Default::default()
            };
            let top_k = config.always_kept() + extra;
            Case::new(blocks, StreamConfig { top_k, ..config }, head_dim, seed)
        },
    )
}
