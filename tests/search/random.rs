//! Properties that hold for every head, setting and search.

use proptest::prelude::*;
use streamtrace::{
    Estimate, Search, StreamConfig,
    engine::search::{Candidates, Widths},
    trace::Blocks,
};

use crate::case::{Case, ESTIMATES, block_sizes, cases, named};

/// Returns every search.
pub fn searches() -> impl Strategy<Value = Search> {
    let baselines = [Search::Exhaustive, Search::Window, Search::Random { seed: 1 }];
    prop::sample::select([&baselines[..], &ESTIMATES.map(Search::Hierarchical)].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_causal_ascending_and_as_long_as_the_budget(case in cases(), search in searches()) {
        for query_block in 0..case.blocks.n_query_blocks() {
            let row = case.search_with(search, query_block);
            let (kept, visible) = (named(&row), case.visible(query_block));
            prop_assert_eq!(kept.len(), visible.len().min(case.config.top_k), "all that are seen, or as many as may be");
            prop_assert_eq!(kept.len(), case.blocks.n_kept(query_block, case.config.top_k));
            prop_assert!(row[kept.len()..].iter().all(|&block| block == u32::MAX));
            prop_assert!(kept.is_sorted_by(|a, b| a < b), "{:?}", kept);
            prop_assert!(kept.iter().all(|block| visible.contains(block)), "{:?} of {:?}", kept, visible);
            let always = case.always(query_block);
            prop_assert!(always.iter().all(|block| kept.contains(block)), "{:?} lacks some of {:?}", kept, always);
        }
    }

    #[test]
    fn exhaustive_is_the_definition(case in cases()) {
        for query_block in 0..case.blocks.n_query_blocks() {
            let kept = named(&case.search_with(Search::Exhaustive, query_block));
            prop_assert!(case.is_best(query_block, &kept), "query block {}: {:?}", query_block, kept);
        }
    }

    /// Blocks of one key have exact estimates; when all candidates are scored at once, nothing is lost on the
    /// way.
    #[test]
    fn hierarchical_is_exact_where_estimates_are(case in cases(), bq in 1..20usize, estimate in prop::sample::select(ESTIMATES.to_vec())) {
        // With a window, a block's queries see different keys; one estimate for all of them cannot tell these
        // apart.
        let bq = if case.blocks.window.is_some() { 1 } else { bq };
        let blocks = Blocks { block_size_q: bq, block_size_k: 1, ..case.blocks };
        let mut case = Case { blocks, ..case };
        case.config = StreamConfig { block_size_q: bq, block_size_k: 1, ..case.config };
        case.config.top_k += case.config.always_kept();
        for query_block in 0..blocks.n_query_blocks() {
            let split = Candidates::new(&blocks, &case.config, query_block, case.config.top_k);
            let widths = Widths::new(&case.config, split.budget);
            let all_scored = split.candidates.len() <= case.config.split * widths.ranges;
            // Shares and products rank differently.
            if all_scored && !case.config.rescore && estimate != Estimate::TwoMeans {
                let kept = named(&case.search_with(Search::Hierarchical(estimate), query_block));
                prop_assert_eq!(kept, case.best_by_products(query_block));
            }
        }
    }

    /// Surviving blocks are ranked by their real keys, also with windows.
    #[test]
    fn hierarchical_is_exhaustive_where_all_survive(case in cases(), estimate in prop::sample::select(ESTIMATES.to_vec())) {
        let beam = case.blocks.n_key_blocks().div_ceil(2);
        let case = Case { config: StreamConfig { beam, rescore: true, ..case.config.clone() }, ..case };
        for query_block in 0..case.blocks.n_query_blocks() {
            let kept = named(&case.search_with(Search::Hierarchical(estimate), query_block));
            prop_assert!(case.is_best(query_block, &kept), "query block {}: {:?}", query_block, kept);
        }
    }

    #[test]
    fn keys_after_a_query_block_do_not_change_what_it_keeps(
        case in cases(),
        search in searches(),
        at in any::<prop::sample::Index>(),
        factor in prop::sample::select(vec![-1000.0, f32::NAN, f32::INFINITY]),
    ) {
        let query_block = at.index(case.blocks.n_query_blocks());
        let mut changed = case.clone();
        let end = case.blocks.queries(query_block).end * case.head_dim;
        changed.keys[end..].iter_mut().for_each(|value| *value *= factor);
        changed.queries[end..].fill(7.0);
        prop_assert_eq!(changed.search_with(search, query_block), case.search_with(search, query_block));
    }

    /// A longer prompt keeps the results of its beginning.
    #[test]
    fn a_longer_prompt_keeps_what_the_shorter_one_kept(n_blocks in 1..9usize, more in 0..90usize, (bq, bk) in block_sizes(), seed in any::<u64>()) {
        let n_tokens = n_blocks * bq.max(bk);
        let blocks = |n_tokens| Blocks { n_tokens, block_size_q: bq, block_size_k: bk, window: None };
        let config = StreamConfig { block_size_q: bq, block_size_k: bk, sink_blocks: 1, local_blocks: 1, ..StreamConfig::default() };
        let long = Case::new(blocks(n_tokens + more), StreamConfig { top_k: config.always_kept() + 2, ..config }, 3, seed);
        let mut short = long.clone();
        short.blocks = blocks(n_tokens);
        short.keys.truncate(n_tokens * 3);
        short.queries.truncate(n_tokens * 3);
        for query_block in 0..short.blocks.n_query_blocks() {
            let search = Search::Hierarchical(Estimate::TwoMeans);
            prop_assert_eq!(short.search_with(search, query_block), long.search_with(search, query_block));
        }
    }
}
