//! Queries of one head side by side in panels, and which of their scores are hidden.

use std::ops::Range;

use super::{
    bf16,
    lanes::{LANES, Lanes, panel},
};
use crate::trace::Blocks;

/// One head's queries of one query block: panels of 32 with the number of queries in each.
pub struct Queries {
    pub panels: Vec<QueryPanel>,
}

pub struct QueryPanel {
    /// `[head_dim][LANES]`
    pub values: Vec<Lanes>,
    /// In bf16, for the search.
    pub in_bf16: bf16::Panel,
    /// The prompt's position of the first lane.
    pub first: usize,
    pub n: usize,
}

impl Queries {
    /// Queries that lie `stride` apart in `rows`, of which the first is at position `first` of the prompt.
    pub fn new(rows: &[f32], stride: usize, head_dim: usize, positions: Range<usize>) -> Self {
        let panels = positions.clone().step_by(LANES).map(|first| {
            let n = (positions.end - first).min(LANES);
            let values = panel(&rows[(first - positions.start) * stride..], stride, n, head_dim);
            QueryPanel { in_bf16: bf16::Panel::new(&values), values, first, n }
        });
        Queries { panels: panels.collect() }
    }
}

/// Sets the scores of the queries that do not see a key to −∞.
pub(super) fn hide_invisible(scores: &mut Lanes, panel: &QueryPanel, key: usize, blocks: &Blocks) {
    hide(scores, panel, |query| !blocks.visible_keys(query).contains(&key));
}

/// Sets the scores of some queries to −∞.
pub(super) fn hide(scores: &mut Lanes, panel: &QueryPanel, is_hidden: impl Fn(usize) -> bool) {
    for (lane, score) in scores.iter_mut().enumerate() {
        if is_hidden(panel.first + lane.min(panel.n - 1)) {
            *score = f32::NEG_INFINITY;
        }
    }
}
