//! Numbers at the limits of a model's types, equal numbers, and NaN.

use half::{bf16, f16};
use proptest::prelude::*;
use streamtrace::Search;

use crate::case::{Case, cases, named};
use crate::random::searches;

/// The largest and smallest numbers of f16, bf16 and f32.
const EXTREMES: [f32; 8] = [
    f16::MAX.to_f32_const(),
    f16::MIN_POSITIVE.to_f32_const(),
    f16::MIN_POSITIVE_SUBNORMAL.to_f32_const(),
    bf16::MAX.to_f32_const(),
    bf16::MIN_POSITIVE.to_f32_const(),
    bf16::MIN_POSITIVE_SUBNORMAL.to_f32_const(),
    f32::MAX,
    0.0,
];

/// Replaces a quarter of the numbers.
fn replaced(numbers: &mut [f32], by: &[f32], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for number in numbers {
        if random.u8(..4) == 0 {
            *number = random.choice(by).expect("some") * if random.bool() { 1.0 } else { -1.0 };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// A run reports such numbers where they are summed; the search must still return a valid mask.
    #[test]
    fn rows_are_whole_whatever_the_numbers(case in cases(), search in searches(), seed in any::<u64>(), are_numbers in any::<bool>()) {
        let mut case = case;
        let by = if are_numbers { EXTREMES.to_vec() } else { [&EXTREMES[..], &[f32::NAN, f32::INFINITY]].concat() };
        replaced(&mut case.keys, &by, seed);
        replaced(&mut case.queries, &by, !seed);
        for query_block in 0..case.blocks.n_query_blocks() {
            let row = case.search_with(search, query_block);
            let (kept, visible, always) = (named(&row), case.visible(query_block), case.always(query_block));
            prop_assert_eq!(kept.len(), visible.len().min(case.config.top_k));
            prop_assert!(kept.is_sorted_by(|a, b| a < b) && kept.iter().all(|block| visible.contains(block)), "{:?}", kept);
            prop_assert!(always.iter().all(|block| kept.contains(block)), "{:?} lacks some of {:?}", kept, always);
        }
    }

    /// If all blocks are equal, ties go to the lower blocks.
    #[test]
    fn of_equal_keys_the_first_are_kept(case in cases(), value in prop::sample::select(EXTREMES.to_vec()), are_random in any::<bool>()) {
        // Only some queries see a window's first block, so it gets less attention.
        let mut case = Case { blocks: streamtrace::trace::Blocks { window: None, ..case.blocks }, ..case };
        case.keys.fill(value / case.head_dim as f32);
        if !are_random {
            case.queries.fill(1.0);
        }
        for query_block in 0..case.blocks.n_query_blocks() {
            let (visible, always) = (case.visible(query_block), case.always(query_block));
            let others = visible.into_iter().filter(|block| !always.contains(block)).take(case.config.top_k - always.len());
            let mut lowest: Vec<usize> = others.chain(always.iter().copied()).collect();
            lowest.sort_unstable();
            prop_assert_eq!(named(&case.search_with(Search::Exhaustive, query_block)), lowest);
        }
    }

    /// However far apart keys are, a key that a query likes far more than all others is kept.
    #[test]
    fn a_key_of_f16s_largest_is_kept(case in cases(), at in any::<prop::sample::Index>()) {
        let mut case = case;
        let query_block = case.blocks.n_query_blocks() - 1;
        let key_block = *at.get(&case.visible(query_block));
        let seen_by_all = case.blocks.visible_keys(case.blocks.n_tokens - 1);
        let Some(key) = case.blocks.keys(key_block).find(|key| seen_by_all.contains(key)) else { return Ok(()) };
        let room = case.config.top_k > case.always(query_block).len();
        case.queries.fill(1.0);
        case.keys[key * case.head_dim..][..case.head_dim].fill(f16::MAX.to_f32());
        let kept = named(&case.search_with(Search::Exhaustive, query_block));
        prop_assert!(!room || kept.contains(&key_block), "{} of {:?}", key_block, kept);
    }
}
