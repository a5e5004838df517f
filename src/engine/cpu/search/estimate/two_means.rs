//! Two clusters of keys, each with its mean and spread: max over both of q·c + |q| s √(2 ln n), for n keys of
//! mean c whose variance, averaged over dimensions, is s².
//!
//! A needle is a few keys unlike the many around them. One mean forgets it; two do not have to, all the way
//! up the tree. Keys are clusters of one; a node's two clusters are its children's four, merged twice, each
//! time the two that are cheapest to merge (Ward 1963: n_a n_b / (n_a + n_b) · |c_a − c_b|²). So the index
//! takes O(T) time and memory.
//!
//! Ranges are ranked by their share of a query's attention: among the queries of a block, those that like
//! every key would drown out one that likes a single key very much.

use std::ops::Range;

use super::{Index, reach, row};
use crate::engine::{
    cpu::{
        bf16::{Bf16Rows, products},
        lanes::{LANES, Lanes, lend, lengths, vectorized},
        queries::QueryPanel,
        sums::square_of_distance,
    },
    search::tree::Tree,
};

pub struct TwoMeans {
    levels: Vec<Level>,
}

/// The nodes of one level, two clusters each.
struct Level {
    /// `[n_nodes, 2, head_dim]`
    means: Bf16Rows,
    /// s √(2 ln n). `[n_nodes, 2]`
    spreads: Vec<f32>,
}

/// Keys that are taken together.
#[derive(Clone)]
struct Cluster {
    n: f32,
    /// `[head_dim]`
    mean: Vec<f32>,
    /// Sum of the keys' squared distances from the mean.
    squares: f32,
}

impl TwoMeans {
    pub fn new(keys: &[f32], head_dim: usize, tree: Tree) -> Self {
        let blocks = 0..tree.n_nodes(0);
        let mut nodes: Vec<Vec<Cluster>> =
            blocks.map(|block| clusters(keys, head_dim, tree.tokens(0, block))).collect();
        let mut levels = vec![Level::new(&nodes, head_dim)];
        for level in tree.levels().skip(1) {
            let parent = |node| {
                let [left, right] = tree.children(level, node);
                if left == right {
                    nodes[left].clone()
                } else {
                    merged([&nodes[left][..], &nodes[right][..]].concat())
                }
            };
            nodes = (0..tree.n_nodes(level)).map(parent).collect();
            levels.push(Level::new(&nodes, head_dim));
        }
        TwoMeans { levels }
    }
}

/// One or two clusters of the keys of a block.
fn clusters(keys: &[f32], head_dim: usize, tokens: Range<usize>) -> Vec<Cluster> {
    match tokens.len() {
        0 => Vec::new(),
        1 => vec![Cluster { n: 1.0, mean: row(keys, head_dim, tokens.start).to_vec(), squares: 0.0 }],
        n => {
            let middle = tokens.start + n / 2;
            let halves =
                [tokens.start..middle, middle..tokens.end].map(|half| clusters(keys, head_dim, half));
            merged(halves.concat())
        }
    }
}

/// Merges clusters until two are left.
fn merged(mut clusters: Vec<Cluster>) -> Vec<Cluster> {
    while clusters.len() > 2 {
        let pairs = (0..clusters.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
        let costs = pairs.map(|(a, b)| (cost(&clusters[a], &clusters[b]), a, b));
        let Some((cost, a, b)) = costs.min_by(|x, y| x.0.total_cmp(&y.0)) else { break };
        let second = clusters.swap_remove(b);
        let first = &mut clusters[a];
        let n = first.n + second.n;
        let share = second.n / n;
        first.mean.iter_mut().zip(&second.mean).for_each(|(mean, other)| *mean += share * (other - *mean));
        (first.n, first.squares) = (n, first.squares + second.squares + cost);
    }
    clusters
}

/// Returns by how much merging raises the sum of squared distances.
fn cost(a: &Cluster, b: &Cluster) -> f32 {
    square_of_distance(&a.mean, &b.mean) * a.n * b.n / (a.n + b.n)
}

impl Level {
    fn new(nodes: &[Vec<Cluster>], head_dim: usize) -> Self {
        let mut level = Level { means: Bf16Rows::new(head_dim), spreads: Vec::new() };
        for clusters in nodes {
            // A node of one key has one cluster, twice.
            for cluster in [clusters.first(), clusters.last()].into_iter().flatten() {
                level.means.extend(&cluster.mean);
                let variance = cluster.squares / cluster.n / head_dim as f32;
                level.spreads.push(variance.sqrt() * reach(cluster.n));
            }
        }
        level
    }
}

impl Index for TwoMeans {
    fn rows_per_node(&self) -> usize {
        2
    }

    fn ranks_shares(&self) -> bool {
        true
    }

    fn estimate(
        &self,
        queries: &QueryPanel,
        _: &Bf16Rows,
        level: usize,
        nodes: &[(f32, u32)],
        out: &mut [Lanes],
    ) {
        let here = &self.levels[level];
        let cluster = |i: usize| 2 * nodes[i / 2].1 as usize + i % 2;
        lend(2 * nodes.len(), |found| {
            products(&queries.in_bf16, |i| here.means.row(cluster(i)), found);
            vectorized(
                #[inline(always)]
                || {
                    let lengths = lengths(&queries.values);
                    for (out, (found, node)) in out.iter_mut().zip(found.as_chunks::<2>().0.iter().zip(nodes))
                    {
                        let [a, b] = found;
                        let spreads = &here.spreads[2 * node.1 as usize..][..2];
                        for lane in 0..LANES {
                            out[lane] = (a[lane] + lengths[lane] * spreads[0])
                                .max(b[lane] + lengths[lane] * spreads[1]);
                        }
                    }
                },
            );
        });
    }
}
