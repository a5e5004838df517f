//! Small cases with known answers.

use streamtrace::{Estimate, Search, StreamConfig, trace::Blocks};

use crate::case::{Case, ESTIMATES, named};

fn all_searches() -> Vec<Search> {
    [&[Search::Exhaustive][..], &ESTIMATES.map(Search::Hierarchical)].concat()
}

/// Makes a case of 64 tokens in query blocks of 4 and key blocks of 2, one sink and two local blocks; all
/// queries 1, all keys 0.
fn flat(top_k: usize, window: Option<usize>) -> Case {
    let blocks = Blocks { n_tokens: 64, block_size_q: 4, block_size_k: 2, window };
    let config = StreamConfig { top_k, sink_blocks: 1, local_blocks: 2, ..StreamConfig::default() };
    let mut case = Case::new(blocks, config, 1, 0);
    case.queries.fill(1.0);
    case.keys.fill(0.0);
    case
}

#[test]
fn a_lone_strong_key_is_found_wherever_it_is() {
    for (top_k, beam, split) in [(4, 0, 2), (4, 1, 4), (4, 3, 8), (5, 2, 4), (6, 0, 4), (8, 5, 2)] {
        for key in 2..60 {
            let mut case = flat(top_k, None);
            (case.config.beam, case.config.split, case.config.rescore) = (beam, split, false);
            case.keys[key] = 10.0;
            let hierarchical = [Estimate::MeanSpread, Estimate::TwoMeans].map(Search::Hierarchical);
            for search in [Search::Exhaustive].into_iter().chain(hierarchical) {
                let kept = named(&case.search_with(search, 15));
                assert!(
                    kept.contains(&(key / 2)),
                    "key {key}, top_k {top_k}, beam {beam}, {search:?}: {kept:?}"
                );
            }
        }
    }
}

#[test]
fn a_strong_key_that_only_one_query_asks_for_is_found() {
    let mut case = flat(4, None);
    case.queries.fill(0.0);
    case.queries[62] = 1.0;
    case.keys[21] = 10.0;
    assert_eq!(named(&case.search_with(Search::Exhaustive, 15)), [0, 10, 30, 31]);
    case.config.rescore = false;
    for estimate in [Estimate::MeanSpread, Estimate::TwoMeans] {
        assert_eq!(
            named(&case.search_with(Search::Hierarchical(estimate), 15)),
            [0, 10, 30, 31],
            "{estimate:?}"
        );
    }
}

#[test]
fn ties_go_to_the_lower_blocks() {
    for top_k in [4, 6, 9] {
        for search in all_searches() {
            let mut case = flat(top_k, None);
            // This beam loses nothing; with a narrower one, halving would depend on ties between ranges.
            case.config.beam = 16;
            let lowest: Vec<usize> = (0..top_k - 2).chain([30, 31]).collect();
            assert_eq!(named(&case.search_with(search, 15)), lowest, "{search:?}");
        }
    }
    let mut case = flat(5, None);
    case.keys.iter_mut().skip(20).for_each(|key| *key = 3.0);
    assert_eq!(named(&case.search_with(Search::Exhaustive, 15)), [0, 10, 11, 30, 31]);
}

#[test]
fn sinks_and_local_blocks_are_kept_though_they_are_worst() {
    for search in all_searches() {
        let mut case = flat(5, None);
        case.keys.fill(5.0);
        case.keys[..2].fill(-100.0);
        case.keys[60..].fill(-100.0);
        let kept = named(&case.search_with(search, 15));
        assert_eq!((kept[0], &kept[3..]), (0, &[30, 31][..]), "{search:?}");
    }
}

#[test]
fn a_budget_of_sinks_and_local_blocks_leaves_no_room() {
    for search in all_searches() {
        let mut case = flat(3, None);
        case.keys[30] = 100.0;
        assert_eq!(named(&case.search_with(search, 15)), [0, 30, 31], "{search:?}");
    }
}

#[test]
fn the_first_blocks_keep_all_they_see() {
    for search in all_searches() {
        let case = flat(8, None);
        assert_eq!(named(&case.search_with(search, 0)), [0, 1]);
        assert_eq!(named(&case.search_with(search, 3)), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn a_window_hides_sinks_and_what_is_before_it() {
    for search in all_searches() {
        let mut case = flat(4, Some(16));
        case.config.beam = 16;
        case.keys[..44].fill(100.0);
        // Query 60 sees keys 45 to 60, so the block sees key blocks 22 to 31; key 44 is in block 22 but is
        // not visible, so that block gets half as much as the others.
        let kept = named(&case.search_with(search, 15));
        assert_eq!(kept, [23, 24, 30, 31], "{search:?}");
        assert_eq!(case.visible(15), (22..32).collect::<Vec<_>>());
    }
}

/// Key 44 is in a visible block, but no query of the block sees it.
#[test]
fn exhaustive_does_not_score_keys_that_no_query_sees() {
    let mut case = flat(4, Some(16));
    case.keys[44] = 100.0;
    case.keys[50] = 1.0;
    case.keys[54] = 2.0;
    assert_eq!(named(&case.search_with(Search::Exhaustive, 15)), [25, 27, 30, 31]);
}

/// A prompt of one token, the smallest case.
#[test]
fn one_token_keeps_itself() {
    for search in all_searches() {
        let blocks = Blocks { n_tokens: 1, block_size_q: 32, block_size_k: 8, window: None };
        let case =
            Case::new(blocks, StreamConfig { top_k: 1, sink_blocks: 0, ..StreamConfig::default() }, 3, 1);
        assert_eq!(case.search_with(search, 0), [0], "{search:?}");
    }
}
