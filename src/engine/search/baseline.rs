//! Baselines for a search at the same budget: choices that read no key.

use super::Candidates;
use crate::trace::{BlockMask, Blocks, Budgets, Search, StreamConfig};

/// Writes sinks and the last blocks to `row`, as long as the budget (StreamingLLM, Xiao et al. 2024, arXiv
/// 2309.17453). Returns the number of keys read: 0.
pub fn window(blocks: &Blocks, config: &StreamConfig, query_block: usize, row: &mut [u32]) -> usize {
    let split = Candidates::new(blocks, config, query_block, row.len());
    split.write(split.candidates.clone().rev().take(split.budget), row);
    0
}

/// Writes sinks, local blocks and random blocks between them, drawn separately for each head and query block.
/// Returns the number of keys read: 0.
pub fn random(
    seed: u64,
    blocks: &Blocks,
    config: &StreamConfig,
    head: usize,
    query_block: usize,
    row: &mut [u32],
) -> usize {
    let split = Candidates::new(blocks, config, query_block, row.len());
    let mut rng = fastrand::Rng::with_seed(mixed(mixed(seed, head as u64), query_block as u64));
    split.write(rng.choose_multiple(split.candidates.clone(), split.budget).into_iter(), row);
    0
}

/// Returns the whole mask of a search that reads no key, `None` for other searches.
pub fn mask(blocks: Blocks, config: &StreamConfig, n_heads: usize) -> Option<BlockMask> {
    let write: &dyn Fn(usize, usize, &mut [u32]) -> usize = match config.search {
        Search::Window => &|_, query_block, row| window(&blocks, config, query_block, row),
        Search::Random { seed } => {
            &move |head, query_block, row| random(seed, &blocks, config, head, query_block, row)
        }
        Search::Exhaustive | Search::Hierarchical(_) => return None,
    };
    let mut mask = BlockMask::empty(blocks, Budgets::uniform(n_heads, config.top_k));
    for (head, query_block) in mask.rows() {
        let row = mask.row(head, query_block);
        write(head, query_block, &mut mask.kept[row]);
    }
    Some(mask)
}

impl Search {
    /// Returns the search for one layer: random blocks differ between layers.
    pub(crate) fn of_layer(self, layer: usize) -> Self {
        match self {
            Search::Random { seed } => Search::Random { seed: mixed(seed, layer as u64) },
            search => search,
        }
    }
}

/// Mixes `seed` and `number` into another seed (with the increment and first multiplier of SplitMix64).
fn mixed(seed: u64, number: u64) -> u64 {
    (seed ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: Blocks = Blocks { n_tokens: 400, block_size_q: 4, block_size_k: 2, window: None };

    fn config(search: Search) -> StreamConfig {
        let sizes = StreamConfig { block_size_q: 4, block_size_k: 2, ..StreamConfig::default() };
        StreamConfig { top_k: 12, sink_blocks: 2, local_blocks: 3, search, ..sizes }
    }

    fn kept(search: Search, query_block: usize) -> Vec<u32> {
        mask(BLOCKS, &config(search), 2).unwrap().kept(1, query_block).to_vec()
    }

    #[test]
    fn a_window_is_sinks_and_the_last_blocks() {
        assert_eq!(kept(Search::Window, 99), (0..2).chain(190..200).collect::<Vec<u32>>());
        assert_eq!(kept(Search::Window, 2), (0..6).collect::<Vec<u32>>());
    }

    #[test]
    fn random_blocks_depend_on_the_seed() {
        let row = |seed| kept(Search::Random { seed }, 99);
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
        assert!(
            row(1).len() == 12 && row(1).starts_with(&[0, 1]) && row(1).ends_with(&[197, 198, 199]),
            "{:?}",
            row(1)
        );
    }

    #[test]
    fn random_blocks_are_drawn_evenly() {
        let mut drawn = [0; 200];
        for seed in 0..3000 {
            let mut row = [BlockMask::NONE; 12];
            random(seed, &BLOCKS, &config(Search::Window), 0, 99, &mut row);
            row.iter().for_each(|&block| drawn[block as usize] += 1);
        }
        let expected = 3000.0 * 7.0 / 195.0;
        assert!(drawn[2..197].iter().all(|&n| (0.5..1.5).contains(&(f64::from(n) / expected))), "{drawn:?}");
    }
}
