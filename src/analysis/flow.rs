//! Flow through the layers of a trace: forward from one place, backward from another.
//!
//! Nodes are stretches of tokens, as long as the smaller of query and key blocks. A node's state after a layer is a mix of its
//! own state before it and of the states of the key blocks that its query block keeps; shares of one mix sum to 1.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    trace::{BlockMask, Blocks, Span, Trace},
};

/// How important what a key block gives to a query block is, among all that the query block's residual stream is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "engine", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum RouteMeasure {
    /// Attention mass × ‖W_O v‖, against ‖x‖ for the residual stream itself. Norms after W_O, as Gemma has, are left out.
    Written,
    /// L1 proximity of what the key block writes to what the query block's residual stream becomes (Ferrando & Voita 2024), on
    /// the means over the query block; for traces with `StreamConfig::proximity`.
    Proximity,
    /// Attention mass alone, mean over heads, and as much for the residual stream: rollout (Abnar & Zuidema 2020).
    Rollout,
}

/// Attention of one head from a key block to a query block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteEdge {
    pub layer: usize,
    pub head: usize,
    pub queries: Span,
    pub keys: Span,
    /// Share of the total flow.
    pub flow: f64,
}

/// One layer's kept blocks with the share that each has in its query block's next state.
pub(super) struct LayerEdges {
    layer: usize,
    mask: BlockMask,
    /// As `mask.kept`.
    share: Vec<f32>,
    /// What stays of the state before. `[n_query_blocks]`
    stays: Vec<f32>,
}

impl LayerEdges {
    pub fn read(trace: &Trace, layer: usize, measure: RouteMeasure) -> Result<Self, Error> {
        let (mask, mut share) = (trace.mask(layer)?, trace.masses(layer)?);
        if measure == RouteMeasure::Proximity {
            return Ok(Self::of_shares(layer, mask, trace.proximity(layer)?));
        }
        let (n_query_blocks, n_heads) = (mask.blocks.n_query_blocks(), mask.n_heads());
        let mut stays = match measure {
            RouteMeasure::Written => trace.residual(layer)?,
            _ => vec![n_heads as f32; n_query_blocks],
        };
        let mut sum: Vec<f32> = stays.clone();
        for head in 0..n_heads {
            let written = match measure {
                RouteMeasure::Written => trace.written(layer, head)?,
                _ => vec![1.0; mask.blocks.n_key_blocks()],
            };
            for (query_block, sum) in sum.iter_mut().enumerate() {
                let row = mask.row(head, query_block);
                for (share, &block) in share[row].iter_mut().zip(mask.kept(head, query_block)) {
                    *share *= written[block as usize];
                    *sum += *share;
                }
            }
        }
        let inverse: Vec<f32> = sum.iter().map(|sum| if *sum > 0.0 { 1.0 / sum } else { 0.0 }).collect();
        stays.iter_mut().zip(&inverse).for_each(|(stays, inverse)| *stays *= inverse);
        for (head, query_block) in mask.rows() {
            share[mask.row(head, query_block)].iter_mut().for_each(|share| *share *= inverse[query_block]);
        }
        Ok(LayerEdges { layer, mask, share, stays })
    }

    /// Edges whose shares are known; the rest stays.
    fn of_shares(layer: usize, mask: BlockMask, share: Vec<f32>) -> Self {
        let n_query_blocks = mask.blocks.n_query_blocks();
        let mut stays = vec![1.0; n_query_blocks];
        for (head, query_block) in mask.rows() {
            stays[query_block] -= share[mask.row(head, query_block)].iter().sum::<f32>();
        }
        // Rounded shares may sum to a little more than 1.
        stays.iter_mut().for_each(|stays| *stays = stays.max(0.0));
        LayerEdges { layer, mask, share, stays }
    }

    /// Kept blocks of a query block in all heads, with their shares: `(head, key block, share)`.
    fn edges(&self, query_block: usize) -> impl Iterator<Item = (usize, usize, f64)> {
        (0..self.mask.n_heads()).flat_map(move |head| {
            let (row, kept) = (self.mask.row(head, query_block), self.mask.kept(head, query_block));
            kept.iter()
                .zip(&self.share[row])
                .map(move |(&block, &share)| (head, block as usize, f64::from(share)))
        })
    }
}

/// States between the layers: how much of each node comes from one place, and how much of another place comes from it.
pub(super) struct Flow {
    nodes: Nodes,
    /// Share of a node that is made of `from`, before each layer and after the last. `[n_layers + 1][n_nodes]`
    reached: Vec<Vec<f64>>,
    /// How much of `to` a node's state becomes. `[n_layers + 1][n_nodes]`
    reaching: Vec<Vec<f64>>,
}

impl Flow {
    pub fn new(trace: &Trace, from: Span, to: Span, measure: RouteMeasure) -> Result<Self, Error> {
        let nodes = Nodes::new(trace.blocks(0)?);
        let n_layers = trace.n_layers();
        let (mut reached, mut reaching) = (vec![nodes.shares(from)], vec![nodes.shares(to)]);
        for layer in 0..n_layers {
            let edges = LayerEdges::read(trace, layer, measure)?;
            reached.push(nodes.forward(&edges, &reached[layer]));
        }
        for layer in (0..n_layers).rev() {
            let edges = LayerEdges::read(trace, layer, measure)?;
            reaching.push(nodes.backward(&edges, &reaching[n_layers - 1 - layer]));
        }
        reaching.reverse();
        Ok(Flow { nodes, reached, reaching })
    }

    /// What arrives.
    pub fn total(&self) -> f64 {
        let last = self.reached.last().into_iter().flatten();
        last.zip(self.reaching.last().into_iter().flatten()).map(|(a, b)| a * b).sum()
    }

    /// Calls `with` for every edge of a layer that has flow.
    pub fn for_each_edge(&self, edges: &LayerEdges, mut with: impl FnMut(RouteEdge)) {
        let (before, after) = (Sums::new(&self.reached[edges.layer]), &self.reaching[edges.layer + 1]);
        for query_block in 0..edges.mask.blocks.n_query_blocks() {
            let queries = self.nodes.of_queries(query_block);
            if after[queries.clone()].iter().all(|&reach| reach == 0.0) {
                continue;
            }
            for (head, key_block, share) in edges.edges(query_block) {
                let keys = self.nodes.of_keys(key_block);
                let flow =
                    share * queries.clone().map(|n| after[n] * before.mean(keys.clone(), n)).sum::<f64>();
                if flow > 0.0 {
                    let blocks = edges.mask.blocks;
                    let (queries, keys) = (blocks.queries(query_block).into(), blocks.keys(key_block).into());
                    with(RouteEdge { layer: edges.layer, head, queries, keys, flow });
                }
            }
        }
    }
}

/// Stretches of tokens that query and key blocks are made of.
struct Nodes {
    blocks: Blocks,
    size: usize,
    n: usize,
}

type Range = std::ops::Range<usize>;

impl Nodes {
    fn new(blocks: Blocks) -> Self {
        let size = blocks.block_size_q.min(blocks.block_size_k);
        Nodes { blocks, size, n: blocks.n_tokens.div_ceil(size) }
    }

    fn of(&self, tokens: Range) -> Range {
        tokens.start / self.size..tokens.end.div_ceil(self.size)
    }

    fn of_queries(&self, block: usize) -> Range {
        self.of(self.blocks.queries(block))
    }

    fn of_keys(&self, block: usize) -> Range {
        self.of(self.blocks.keys(block))
    }

    /// The share of a span's tokens that each node holds.
    fn shares(&self, span: Span) -> Vec<f64> {
        let mut shares = vec![0.0; self.n];
        for node in self.of(span.range()) {
            let tokens = (node * self.size).max(span.start)..((node + 1) * self.size).min(span.end);
            shares[node] = tokens.len() as f64 / span.len() as f64;
        }
        shares
    }

    /// States after a layer, from those before it.
    fn forward(&self, edges: &LayerEdges, before: &[f64]) -> Vec<f64> {
        let (mut after, sums) = (vec![0.0; self.n], Sums::new(before));
        for query_block in 0..self.blocks.n_query_blocks() {
            let queries = self.of_queries(query_block);
            let stays = f64::from(edges.stays[query_block]);
            queries.clone().for_each(|n| after[n] = stays * before[n]);
            for (_, key_block, share) in edges.edges(query_block) {
                let keys = self.of_keys(key_block);
                match keys.end <= queries.start {
                    true => {
                        let mean = share * sums.mean(keys.clone(), queries.start);
                        after[queries.clone()].iter_mut().for_each(|state| *state += mean);
                    }
                    false => queries.clone().for_each(|n| after[n] += share * sums.mean(keys.clone(), n)),
                }
            }
        }
        after
    }

    /// How much of the end the states before a layer become, from how much those after it do.
    fn backward(&self, edges: &LayerEdges, after: &[f64]) -> Vec<f64> {
        let mut before = vec![0.0; self.n];
        for query_block in 0..self.blocks.n_query_blocks() {
            let queries = self.of_queries(query_block);
            if after[queries.clone()].iter().all(|&reach| reach == 0.0) {
                continue;
            }
            let stays = f64::from(edges.stays[query_block]);
            queries.clone().for_each(|n| before[n] += stays * after[n]);
            for (_, key_block, share) in edges.edges(query_block) {
                let keys = self.of_keys(key_block);
                for m in keys.clone() {
                    // A node takes from the keys up to itself, from all of them alike.
                    let reach: f64 = queries
                        .clone()
                        .filter(|&n| n >= m)
                        .map(|n| after[n] / (keys.end.min(n + 1) - keys.start) as f64)
                        .sum();
                    before[m] += share * reach;
                }
            }
        }
        before
    }
}

/// Sums of the states up to each node.
struct Sums(Vec<f64>);

impl Sums {
    fn new(states: &[f64]) -> Self {
        let add = |sum: &mut f64, state: &f64| {
            *sum += state;
            Some(*sum)
        };
        Sums([0.0].into_iter().chain(states.iter().scan(0.0, add)).collect())
    }

    /// The mean state of the key nodes that come no later than node `n`; 0 if none does.
    fn mean(&self, keys: Range, n: usize) -> f64 {
        let end = keys.end.min(n + 1);
        if end <= keys.start {
            0.0
        } else {
            (self.0[end] - self.0[keys.start]).max(0.0) / (end - keys.start) as f64
        }
    }
}
