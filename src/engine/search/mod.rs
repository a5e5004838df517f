//! Which key blocks each query block keeps: the rules that the CPU and the GPU both obey.
//!
//! *Hierarchical* with two means is the default: it reads less than half of the keys and keeps nearly what reading all of them
//! keeps, in O(T log T). *Exhaustive* reads every key, in O(T²): take it to measure the search itself, or for short prompts. The
//! published estimates (one key for a range, mean and spread) are there for comparison, and the baselines (window, random) show
//! what a budget is worth without looking at any key. Every search gets the same [`budget`] and the same [`Candidates`]: all
//! visible blocks between the sinks and the local blocks, which are always kept. Sliding windows hide blocks before any search.

pub mod baseline;
pub mod budget;
pub mod tree;

use std::ops::Range;

use crate::trace::{Blocks, StreamConfig};

/// The key blocks a query block sees, split into what is always kept and what competes for the rest of the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    pub sinks: Range<usize>,
    pub candidates: Range<usize>,
    pub local: Range<usize>,
    /// Candidates that are kept.
    pub budget: usize,
}

impl Candidates {
    pub fn new(blocks: &Blocks, config: &StreamConfig, query_block: usize) -> Self {
        let visible = blocks.visible(query_block);
        let sinks = visible.start..config.sink_blocks.clamp(visible.start, visible.end);
        let local_start = visible.end.saturating_sub(config.effective_local_blocks()).max(sinks.end);
        let local = local_start..visible.end;
        let budget = config.top_k.saturating_sub(sinks.len() + local.len());
        Candidates { candidates: sinks.end..local_start, sinks, local, budget }
    }

    /// Keys that the exhaustive search reads.
    pub fn keys_read(&self, block_size_k: usize) -> usize {
        if self.candidates.len() <= self.budget || self.budget == 0 {
            return 0;
        }
        (self.candidates.len() + self.sinks.len() + self.local.len()) * block_size_k
    }

    /// Blocks that are kept whatever they hold.
    pub fn always(&self) -> impl Iterator<Item = usize> + use<> {
        self.sinks.clone().chain(self.local.clone())
    }

    /// Writes the row of the mask, ascending: sinks, the chosen candidates, local blocks.
    pub fn write(&self, chosen: impl Iterator<Item = usize>, row: &mut [u32]) {
        let mut n = 0;
        for (slot, block) in row.iter_mut().zip(self.sinks.clone().chain(chosen).chain(self.local.clone())) {
            *slot = block as u32;
            n += 1;
        }
        row[..n].sort_unstable();
    }
}

/// How many ranges are kept in a round, and how many blocks in the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    pub ranges: usize,
    pub survivors: usize,
}

impl Widths {
    pub fn new(config: &StreamConfig, budget: usize) -> Self {
        let survivors = if config.rescore { (2 * config.beam).max(budget + budget / 4) } else { budget };
        let ranges = if config.beam == 0 { budget } else { config.beam };
        Widths { ranges: ranges.max(survivors.div_ceil(config.split)), survivors }
    }
}

/// Keeps the `n` best of scored items, in no order; ties go to the lower item.
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
        let of = |b: &Blocks, q| Candidates::new(b, &config, q);
        let b = blocks(40, None);
        assert_eq!(of(&b, 0), Candidates { sinks: 0..1, candidates: 1..1, local: 1..2, budget: 4 });
        assert_eq!(of(&b, 9), Candidates { sinks: 0..1, candidates: 1..17, local: 17..20, budget: 2 });
        let windowed = of(&blocks(40, Some(12)), 9);
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
