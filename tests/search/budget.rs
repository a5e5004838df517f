//! The budget for a share to prune: the largest that prunes at least that share, counted on real masks.

use proptest::prelude::*;
use streamtrace::{Error, Search, StreamConfig, engine::search::budget::for_share, trace::Blocks};

use crate::case::{Case, block_sizes};

/// Returns the share of the causal pairs, over all layers, that a real mask with this budget prunes.
fn pruned(layers: &[Blocks], config: &StreamConfig, top_k: usize) -> f64 {
    let kept = |blocks: &Blocks| {
        let config = StreamConfig { top_k, ..config.clone() };
        Case::new(*blocks, config, 1, 3).mask(Search::Exhaustive).kept_pairs() as f64
    };
    let causal: f64 = layers.iter().map(|blocks| blocks.causal_pairs() as f64).sum();
    1.0 - layers.iter().map(kept).sum::<f64>() / causal
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_budget_is_the_largest_that_prunes_enough(
        n_tokens in 1..500usize,
        (bq, bk) in block_sizes(),
        (sink, local) in (0..3usize, 0..4usize),
        share in 0.0..1.0f64,
        window in prop::option::of(1..400usize),
    ) {
        let blocks = Blocks { n_tokens, block_size_q: bq, block_size_k: bk, window: None };
        let layers = [blocks, Blocks { window, ..blocks }];
        let config = StreamConfig { block_size_q: bq, block_size_k: bk, sink_blocks: sink, local_blocks: local, ..Default::default() };
        match for_share(&layers, &config, share) {
            Ok(top_k) => {
                prop_assert!(top_k >= config.always_kept());
                prop_assert!(pruned(&layers, &config, top_k) >= share);
                // Blocks at a window's edge count in full, because a search might choose others.
                if window.is_none() && top_k < blocks.n_key_blocks() {
                    prop_assert!(pruned(&layers, &config, top_k + 1) < share, "{} would do too", top_k + 1);
                }
            }
            Err(error) => {
                let is_setting = matches!(error, Error::Setting { .. });
                prop_assert!(is_setting, "{}", error);
                prop_assert!(window.is_some() || pruned(&layers, &config, config.always_kept()) < share);
            }
        }
    }
}

#[test]
fn nothing_to_prune_keeps_every_block() {
    let blocks = Blocks { n_tokens: 1000, block_size_q: 32, block_size_k: 8, window: None };
    assert_eq!(for_share(&[blocks], &StreamConfig::default(), 0.0).unwrap(), 125);
}
