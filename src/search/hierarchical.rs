//! *Stream*: hierarchical pruning (Rosser et al. 2025, arXiv 2510.19875; the descent of HiP attention, Lee et al. 2024).
//!
//! The candidates are cut into ranges, aligned nodes of a [`Pyramid`]. Round by round every range is scored by an estimate
//! of its largest query·key, the best are kept and halved, until the ranges are single blocks. A range that reaches past
//! the candidates is always halved, never scored: keys after the query block cannot influence what it keeps.

use super::{Candidates, Queries, keep_best, pyramid::Pyramid};
use crate::{config::StreamConfig, trace::Blocks};

/// Writes the key blocks that a query block keeps.
///
/// `keys` is `[n_tokens, head_dim]`, what `pyramid` was made of; `row` `[top_k]` as in [`crate::trace::BlockMask`].
/// Returns the number of nodes that were scored.
pub fn search(
    queries: &Queries,
    keys: &[f32],
    pyramid: &Pyramid,
    blocks: &Blocks,
    config: &StreamConfig,
    query_block: usize,
    row: &mut [u32],
) -> usize {
    let split = Candidates::new(blocks, config, query_block);
    let (candidates, budget) = (split.candidates.clone(), split.budget);
    if candidates.len() <= budget {
        split.write(candidates, row);
        return 0;
    }
    let beam = config.beam * budget;
    let nodes_at = |level: usize| (candidates.start >> level)..((candidates.end - 1) >> level) + 1;
    let mut level = (0..).find(|&level| nodes_at(level).len() <= (2 * beam).max(1)).unwrap_or(0);
    let mut frontier: Vec<(f32, u32)> = nodes_at(level).map(|node| (0.0, node as u32)).collect();
    let (mut scores, mut n_scored) = (Vec::new(), 0);
    loop {
        let n = if level == 0 { budget } else { beam };
        if frontier.len() > n {
            scores.resize(frontier.len(), 0.0);
            pyramid.score(queries, keys, level, &frontier, &mut scores);
            n_scored += frontier.len();
            for (item, &score) in frontier.iter_mut().zip(&scores) {
                let (first, last) = ((item.1 as usize) << level, ((item.1 as usize + 1) << level) - 1);
                item.0 = if candidates.contains(&first) && candidates.contains(&last) { score } else { f32::INFINITY };
            }
            keep_best(&mut frontier, n);
        }
        if level == 0 {
            break;
        }
        level -= 1;
        let inside = nodes_at(level);
        let children = frontier.iter().flat_map(|&(_, node)| [2 * node, 2 * node + 1]);
        frontier = children.filter(|&child| inside.contains(&(child as usize))).map(|child| (0.0, child)).collect();
    }
    split.write(frontier.iter().map(|item| item.1 as usize), row);
    n_scored
}
