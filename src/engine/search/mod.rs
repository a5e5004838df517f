//! The rules by which each query block keeps key blocks, on the CPU and on the GPU.
//!
//! *Hierarchical* with two means is the default: it reads less than half of the keys and keeps nearly what
//! reading all of them keeps, in O(T log T). *Exhaustive* reads every key, in O(T²): it serves to measure the
//! other searches, and for short prompts. The published estimates (one key for a range, mean and spread) are
//! for comparison, and the baselines (window, random) show the value of a budget without reading any key.
//! Every search gets the same [`budget`] and the same [`Candidates`]: all visible blocks between the sinks
//! and the local blocks, which are always kept. Sliding windows hide blocks before any search. The budget of
//! a layer goes to its heads [`by_head`], as a [`sample`] of query blocks says, or is the same for all.

pub mod baseline;
pub mod budget;
pub mod by_head;
pub mod sample;
pub mod tree;

use std::ops::Range;

use crate::trace::{Blocks, StreamConfig};

/// The key blocks that a query block sees: those always kept, and the candidates for the rest of the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    pub sinks: Range<usize>,
    pub candidates: Range<usize>,
    pub local: Range<usize>,
    /// Number of candidates that are kept.
    pub budget: usize,
}

impl Candidates {
    /// Splits the blocks that `query_block` sees, of which it keeps `top_k`.
    pub fn new(blocks: &Blocks, config: &StreamConfig, query_block: usize, top_k: usize) -> Self {
        let visible = blocks.visible(query_block);
        let sinks = visible.start..config.sink_blocks.clamp(visible.start, visible.end);
        let local_start = visible.end.saturating_sub(config.effective_local_blocks()).max(sinks.end);
        let local = local_start..visible.end;
        let budget = top_k.saturating_sub(sinks.len() + local.len());
        Candidates { candidates: sinks.end..local_start, sinks, local, budget }
    }

    /// Returns the number of keys that the exhaustive search reads.
    pub fn keys_read(&self, block_size_k: usize) -> usize {
        if self.candidates.len() <= self.budget || self.budget == 0 {
            return 0;
        }
        (self.candidates.len() + self.sinks.len() + self.local.len()) * block_size_k
    }

    /// Iterates over the blocks that are always kept.
    pub fn always(&self) -> impl Iterator<Item = usize> + use<> {
        self.sinks.clone().chain(self.local.clone())
    }

    /// Writes sinks, the candidates `chosen` and local blocks to `row` of the mask, in ascending order.
    pub fn write(&self, chosen: impl Iterator<Item = usize>, row: &mut [u32]) {
        let mut n = 0;
        for (slot, block) in row.iter_mut().zip(self.sinks.clone().chain(chosen).chain(self.local.clone())) {
            *slot = block as u32;
            n += 1;
        }
        row[..n].sort_unstable();
    }
}

/// The numbers of ranges that are kept in each round, and of blocks in the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    pub ranges: usize,
    pub survivors: usize,
}

impl Widths {
    /// Derives the numbers for a search that keeps `budget` candidates.
    pub fn new(config: &StreamConfig, budget: usize) -> Self {
        let survivors = if config.rescore { (2 * config.beam).max(budget + budget / 4) } else { budget };
        let ranges = if config.beam == 0 { budget } else { config.beam };
        Widths { ranges: ranges.max(survivors.div_ceil(config.split)), survivors }
    }
}

/// Keeps the `n` items with the highest scores, in any order; ties go to the lower item.
pub fn keep_best(items: &mut Vec<(f32, u32)>, n: usize) {
    if items.len() > n {
        if n > 0 {
            items.select_nth_unstable_by(n - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        items.truncate(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(n_tokens: usize, window: Option<usize>) -> Blocks {
        Blocks { n_tokens, block_size_q: 4, block_size_k: 2, window }
    }

    #[test]
    fn candidates_lie_between_sinks_and_local_blocks() {
        let config = StreamConfig { top_k: 6, sink_blocks: 1, local_blocks: 3, ..StreamConfig::default() };
        let config = StreamConfig { block_size_q: 4, block_size_k: 2, ..config };
        let split = |b: &Blocks, q| Candidates::new(b, &config, q, config.top_k);
        let b = blocks(40, None);
        assert_eq!(split(&b, 0), Candidates { sinks: 0..1, candidates: 1..1, local: 1..2, budget: 4 });
        assert_eq!(split(&b, 9), Candidates { sinks: 0..1, candidates: 1..17, local: 17..20, budget: 2 });
        let windowed = split(&blocks(40, Some(12)), 9);
        assert_eq!(windowed, Candidates { sinks: 12..12, candidates: 12..17, local: 17..20, budget: 3 });
    }

    #[test]
    fn ties_go_to_the_lower_block() {
        let mut items = vec![(1.0, 7), (2.0, 3), (1.0, 2), (1.0, 9), (0.5, 1)];
        keep_best(&mut items, 3);
        let mut kept: Vec<u32> = items.iter().map(|i| i.1).collect();
        kept.sort();
        assert_eq!(kept, [2, 3, 7]);
    }
}
