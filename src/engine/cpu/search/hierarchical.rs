//! *Stream*: hierarchical pruning (Rosser et al. 2025, arXiv 2510.19875; the descent of HiP attention, Lee et
//! al. 2024).
//!
//! The candidates are cut into ranges, aligned nodes of a [`Tree`](crate::engine::search::tree::Tree). Round
//! by round every range is scored by an estimate of its largest query·key, the best are kept and split, until
//! the ranges are single blocks. A range that reaches past the candidates stays without a score: keys after
//! the query block cannot influence what it keeps. The blocks of the last round may then be ranked by their
//! real keys: the result is what the exhaustive search would choose among them.

use super::{attention_share, contested, estimate::Index};
use crate::{
    engine::{
        cpu::{
            bf16::Bf16Rows,
            exponentials::{raise, raise_rows, sum_of_exponentials},
            lanes::{LANES, Lanes},
            queries::Queries,
        },
        search::{Candidates, Widths, keep_best},
    },
    trace::{Blocks, StreamConfig},
};

/// One head's keys `[n_tokens, head_dim]` and what is known about them.
#[derive(Clone, Copy)]
pub struct Indexed<'a> {
    pub keys: &'a Bf16Rows,
    pub index: &'a dyn Index,
}

/// Writes the key blocks that a query block keeps; `row` is as long as its head's budget, and filled as in
/// [`crate::trace::BlockMask`].
///
/// Returns the number of rows of `[head_dim]` numbers that were read: keys, and what stands for several of
/// them.
pub fn search(
    queries: &Queries,
    head: Indexed,
    blocks: &Blocks,
    config: &StreamConfig,
    query_block: usize,
    row: &mut [u32],
) -> usize {
    let Some(split) = contested(blocks, config, query_block, row) else { return 0 };
    let (mut survivors, mut n_read) = descend(queries, head, config, &split);
    if survivors.len() > split.budget {
        attention_share::score(queries, head.keys, blocks, query_block, split.always(), &mut survivors);
        n_read += (survivors.len() + split.always().count()) * blocks.block_size_k;
        keep_best(&mut survivors, split.budget);
    }
    split.write(survivors.iter().map(|item| item.1 as usize), row);
    n_read
}

/// The blocks that are left after the last round, and the number of rows read.
fn descend(
    queries: &Queries,
    head: Indexed,
    config: &StreamConfig,
    split: &Candidates,
) -> (Vec<(f32, u32)>, usize) {
    let candidates = &split.candidates;
    let widths = Widths::new(config, split.budget);
    let nodes_at = |level: usize| candidates.start >> level..((candidates.end - 1) >> level) + 1;
    // Whole rounds from the last one up: the first level has as many nodes as a round, or fewer.
    let down = config.split.ilog2() as usize;
    let is_start = |&level: &usize| nodes_at(level).len() <= config.split * widths.ranges;
    let mut level = (0..).step_by(down).find(is_start).unwrap_or(0);
    let mut frontier: Vec<(f32, u32)> = nodes_at(level).map(|node| (0.0, node as u32)).collect();
    let mut scores = Scores::default();
    let mut n_read = 0;
    loop {
        let n = if level == 0 { widths.survivors } else { widths.ranges };
        let inside = |node: usize| candidates.start <= node << level && (node + 1) << level <= candidates.end;
        let (mut ranked, past): (Vec<_>, Vec<_>) =
            frontier.into_iter().partition(|item| inside(item.1 as usize));
        if ranked.len() > n {
            scores.score(queries, head, level, &mut ranked);
            n_read += ranked.len() * head.index.rows_per_node();
            keep_best(&mut ranked, n);
        }
        frontier = ranked;
        frontier.extend(past);
        if level == 0 {
            return (frontier, n_read);
        }
        level -= down;
        let inside = nodes_at(level);
        let children = frontier.iter().flat_map(|&(_, node)| node << down..(node + 1) << down);
        frontier =
            children.filter(|&child| inside.contains(&(child as usize))).map(|child| (0.0, child)).collect();
    }
}

/// What the rounds of a descent score with.
#[derive(Default)]
struct Scores {
    /// One for each panel, of the first round that is scored.
    norms: Vec<Lanes>,
    /// Of the nodes of a round.
    estimates: Vec<Lanes>,
}

impl Scores {
    /// Scores nodes: the largest estimate over all queries, less each query's norm where shares are ranked.
    fn score(&mut self, queries: &Queries, head: Indexed, level: usize, nodes: &mut [(f32, u32)]) {
        if nodes.is_empty() {
            return;
        }
        let first = self.norms.is_empty();
        self.estimates.resize(nodes.len(), [0.0; LANES]);
        nodes.iter_mut().for_each(|node| node.0 = f32::NEG_INFINITY);
        for (i, panel) in queries.panels.iter().enumerate() {
            head.index.estimate(panel, head.keys, level, nodes, &mut self.estimates);
            if first {
                self.norms.push(match head.index.ranks_shares() {
                    true => norm(&self.estimates, (panel.values.len() as f32).sqrt()),
                    false => [0.0; LANES],
                });
            }
            let scores = nodes.iter_mut().map(|node| &mut node.0);
            raise_rows(scores, &self.estimates, &[1.0; LANES], &self.norms[i]);
        }
    }
}

/// Returns the norm of each query's attention: `temperature` times the log-sum-exp of its products over
/// `temperature`.
fn norm(products: &[Lanes], temperature: f32) -> Lanes {
    let mut most = [f32::NEG_INFINITY; LANES];
    raise(&mut most, products);
    let scale = std::f32::consts::LOG2_E / temperature;
    let sum = sum_of_exponentials(products, scale, &most.map(|most| most * scale));
    std::array::from_fn(|lane| most[lane] + temperature * sum[lane].ln())
}
