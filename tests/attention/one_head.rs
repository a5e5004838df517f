//! `sparse` and `dense`, query block by query block.

use streamtrace::{
    engine::cpu::{
        attend::{KeysValues, Recorded, dense, sparse},
        queries::Queries,
    },
    trace::{Blocks, MIN_DISTANCE, Span},
};

use crate::naive::{Head, assert_close};

/// Makes heads over prompts that are shorter than a block, end inside a block or end with a block; with all
/// block sizes; windows; head sizes; soft caps.
fn heads() -> Vec<Head> {
    let shapes = [
        (1, 32, 8, None, 64),
        (7, 32, 8, None, 5),
        (131, 1, 1, None, 3),
        (100, 16, 4, None, 96),
        (257, 64, 8, None, 64),
        (300, 128, 16, None, 128),
        (192, 32, 8, None, 1),
        (150, 16, 16, Some(37), 64),
        (150, 32, 8, Some(1), 7),
        (201, 64, 8, Some(20), 96),
        (201, 128, 2, Some(130), 9),
        (90, 4, 8, Some(11), 2),
        (90, 8, 64, None, 33),
    ];
    let head = |(i, (n_tokens, block_size_q, block_size_k, window, head_dim))| {
        let head = Head::random(Blocks { n_tokens, block_size_q, block_size_k, window }, head_dim, i as u64);
        Head { soft_cap: [None, Some(1.5)][i % 2], sink: [None, Some(1.2), Some(-30.0)][i % 3], ..head }
    };
    shapes.into_iter().enumerate().map(head).collect()
}

fn queries(head: &Head, query_block: usize) -> Queries {
    let positions = head.blocks.queries(query_block);
    Queries::new(&head.queries[positions.start * head.head_dim..], head.head_dim, head.head_dim, positions)
}

/// Makes sentences of random lengths: each token's sentence, and 1 over each sentence's length.
fn sentences(n_tokens: usize, random: &mut fastrand::Rng) -> Vec<(u32, f32)> {
    let mut of_tokens = Vec::new();
    for sentence in 0.. {
        let n = random.usize(1..12).min(n_tokens - of_tokens.len());
        of_tokens.extend(std::iter::repeat_n((sentence, 1.0 / n as f32), n));
        if of_tokens.len() == n_tokens {
            break;
        }
    }
    of_tokens
}

fn keys_values(head: &Head) -> KeysValues<'_> {
    let Head { head_dim, soft_cap, sink, .. } = *head;
    KeysValues { keys: &head.keys, values: &head.values, head_dim, soft_cap, sink }
}

#[test]
fn sparse_attention_over_random_blocks_is_the_definition() {
    let mut random = fastrand::Rng::with_seed(1);
    for head in heads() {
        for query_block in 0..head.blocks.n_query_blocks() {
            let (positions, kept) =
                (head.blocks.queries(query_block), head.random_blocks(query_block, &mut random));
            let focus = positions.start + positions.len() / 3..positions.end + 1;
            let sentences = sentences(head.blocks.n_tokens, &mut random);
            let recorded = Recorded { focus: Span::from(focus.clone()), sentences: &sentences };
            let found = sparse(
                &queries(&head, query_block),
                keys_values(&head),
                &head.blocks,
                query_block,
                &kept,
                recorded,
            );

            let rows: Vec<Vec<f64>> =
                positions.clone().map(|query| head.probabilities(query, &kept)).collect();
            let outputs: Vec<f64> = rows.iter().flat_map(|row| head.output(row)).collect();
            assert_close(&found.output, &outputs, 1e-5);

            let tokens: Vec<usize> =
                kept.iter().flat_map(|&block| head.blocks.keys(block as usize)).collect();
            let received: Vec<f64> =
                tokens.iter().map(|&key| rows.iter().map(|row| row[key]).sum()).collect();
            assert_close(&found.received, &received, 1e-4);

            let far = |query: usize, key: usize| sentences[query].0 >= sentences[key].0 + MIN_DISTANCE as u32;
            let share = |(query, row): (usize, &Vec<f64>), key| {
                if far(query, key) { row[key] * f64::from(sentences[query].1) } else { 0.0 }
            };
            let from_far = |&key: &usize| positions.clone().zip(&rows).map(|row| share(row, key)).sum();
            assert_close(&found.anchors, &tokens.iter().map(from_far).collect::<Vec<f64>>(), 1e-4);

            let on_block = |block: &u32| {
                rows.iter().map(|row| row[head.blocks.keys(*block as usize)].iter().sum::<f64>()).sum::<f64>()
            };
            let mass: Vec<f64> = kept.iter().map(|block| on_block(block) / positions.len() as f64).collect();
            assert_close(&found.mass, &mass, 1e-5);
            assert_close(&[found.on_sink], &[1.0 - mass.iter().sum::<f64>()], 1e-5);

            let focused: Vec<usize> = positions.filter(|query| focus.contains(query)).collect();
            assert_eq!(found.focus.iter().map(|(query, _)| *query).collect::<Vec<_>>(), focused);
            for (query, probabilities) in &found.focus {
                let row = head.probabilities(*query, &kept);
                assert_close(probabilities, &tokens.iter().map(|&key| row[key]).collect::<Vec<_>>(), 1e-5);
            }
        }
    }
}

#[test]
fn dense_attention_is_the_definition_and_measures_recall() {
    let mut random = fastrand::Rng::with_seed(2);
    for head in heads() {
        let all = head.all();
        for query_block in 0..head.blocks.n_query_blocks() {
            let (positions, kept) =
                (head.blocks.queries(query_block), head.random_blocks(query_block, &mut random));
            let (output, kept_mass) =
                dense(&queries(&head, query_block), keys_values(&head), &head.blocks, query_block, &kept);

            let rows: Vec<Vec<f64>> = positions.map(|query| head.probabilities(query, &all)).collect();
            let outputs: Vec<f64> = rows.iter().flat_map(|row| head.output(row)).collect();
            assert_close(&output, &outputs, 1e-5);

            let on_kept = |row: &Vec<f64>| {
                let on_block = |&b: &u32| row[head.blocks.keys(b as usize)].iter().sum::<f64>();
                kept.iter().map(on_block).sum::<f64>() / row.iter().sum::<f64>()
            };
            assert_close(&[kept_mass as f32], &[rows.iter().map(on_kept).sum()], 1e-4);
        }
    }
}

#[test]
fn sparse_is_dense_when_everything_is_kept() {
    for head in heads() {
        for query_block in 0..head.blocks.n_query_blocks() {
            let kept: Vec<u32> = head.blocks.visible(query_block).map(|block| block as u32).collect();
            let sparse = sparse(
                &queries(&head, query_block),
                keys_values(&head),
                &head.blocks,
                query_block,
                &kept,
                Recorded::default(),
            );
            let (dense, kept_mass) =
                dense(&queries(&head, query_block), keys_values(&head), &head.blocks, query_block, &kept);
            assert_close(&sparse.output, &dense.iter().map(|&v| v as f64).collect::<Vec<_>>(), 1e-5);
            assert!((kept_mass - head.blocks.queries(query_block).len() as f64).abs() < 1e-4, "{kept_mass}");
            assert!(sparse.focus.is_empty() && sparse.anchors.is_empty());
        }
    }
}

/// Scores far above and far below the range of `exp`.
#[test]
fn scores_of_any_size_give_probabilities() {
    for size in [1e-30, 1.0, 1e4, 1e15] {
        let blocks = Blocks { n_tokens: 300, block_size_q: 32, block_size_k: 8, window: None };
        let mut head = Head::random(blocks, 16, 5);
        head.keys.iter_mut().for_each(|key| *key *= size);
        let kept = [0, 3, 30, 31];
        let found = sparse(&queries(&head, 7), keys_values(&head), &blocks, 7, &kept, Recorded::default());
        assert!((found.mass.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{size}: {:?}", found.mass);
        let (output, kept_mass) = dense(&queries(&head, 7), keys_values(&head), &blocks, 7, &kept);
        assert!(output.iter().chain(&found.output).all(|v| v.abs() <= 1.0), "{size}");
        assert!((0.0..=32.001).contains(&kept_mass), "{size}: {kept_mass}");
    }
}
