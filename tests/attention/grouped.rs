//! A whole layer on the CPU: query heads that share keys, chunks of rows, and the places of all records.

use streamtrace::{
    Search, StreamConfig,
    engine::{
        device::{AttentionShape, LayerAttention},
        peers::Parts,
    },
    trace::{Blocks, Span},
};

use crate::{
    layer::{Layer, numbers, tensor},
    naive::assert_close,
};

const N_TOKENS: usize = 141;
const N_HEADS: usize = 6;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 10;

fn shape(window: Option<usize>, top_k: usize) -> AttentionShape {
    let config = StreamConfig {
        block_size_q: 16,
        block_size_k: 4,
        top_k,
        sink_blocks: 1,
        local_blocks: 4,
        search: Search::Exhaustive,
        ..StreamConfig::default()
    };
    let blocks = Blocks { n_tokens: N_TOKENS, block_size_q: 16, block_size_k: 4, window };
    let sentences = (0..N_TOKENS).step_by(6).map(|t| Span::from(t..(t + 6).min(N_TOKENS))).collect();
    AttentionShape {
        blocks,
        parts: Parts::default(),
        capacity: N_TOKENS,
        n_heads: N_HEADS,
        n_kv_heads: N_KV_HEADS,
        head_dim: HEAD_DIM,
        soft_cap: None,
        sinks: [].into(),
        config,
        focus: Span::from(90..101),
        sentences,
    }
}

#[test]
fn each_head_attends_to_its_groups_keys_and_is_recorded_in_its_place() {
    for window in [None, Some(50)] {
        Layer::random(shape(window, 9)).assert_is_the_definition();
    }
}

/// Returns a matrix of random numbers.
fn random(n: usize, size: f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(n as u64);
    (0..n).map(|_| size * (2.0 * random.f32() - 1.0)).collect()
}

fn l1(values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).sum()
}

#[test]
fn proximity_is_the_published_measure_of_the_blocks_means() {
    const HIDDEN: usize = 7;
    let mut shape = shape(Some(50), 9);
    shape.config.proximity = true;
    let layer = Layer::random(shape);
    let Layer { shape, heads } = &layer;
    let (weight, before) = (random(HIDDEN * N_HEADS * HEAD_DIM, 0.3), random(N_TOKENS * HIDDEN, 1.0));
    let (mut attention, chunks) = layer.start();
    let (mut after, mut row) = (before.clone(), 0);
    for (first, queries) in &chunks {
        attention.search(queries, *first).unwrap();
        let start = row * HIDDEN;
        for attended in numbers(&attention.attend(queries, *first).unwrap()).chunks(N_HEADS * HEAD_DIM) {
            for (r, weights) in weight.chunks(N_HEADS * HEAD_DIM).enumerate() {
                after[row * HIDDEN + r] += weights.iter().zip(attended).map(|(w, a)| w * a).sum::<f32>();
            }
            row += 1;
        }
        let around = [&before, &after].map(|x| tensor(&x[start..row * HIDDEN], HIDDEN));
        attention.proximity(&tensor(&weight, N_HEADS * HEAD_DIM), &around[0], &around[1], *first).unwrap();
    }
    let record = attention.into_record().and_then(|record| record()).unwrap().0;
    for query_block in 0..shape.blocks.n_query_blocks() {
        let queries = shape.blocks.queries(query_block);
        let mean = |rows: &[f32], r: usize| {
            queries.clone().map(|q| f64::from(rows[q * HIDDEN + r])).sum::<f64>() / queries.len() as f64
        };
        let becomes: Vec<f64> = (0..HIDDEN).map(|r| mean(&after, r)).collect();
        let near = |part: &[f64]| {
            (l1(&becomes) - l1(&becomes.iter().zip(part).map(|(y, part)| y - part).collect::<Vec<_>>()))
                .max(0.0)
        };
        let stays: Vec<f64> = (0..HIDDEN).map(|r| mean(&before, r)).collect();
        let (mut all, mut sum) = (Vec::new(), near(&stays));
        for (h, head) in heads.iter().enumerate() {
            for (slot, &block) in record.mask.kept(h, query_block).iter().enumerate() {
                let mut part = vec![0.0; HIDDEN];
                for query in queries.clone() {
                    let mut probabilities = head.probabilities(query, record.mask.kept(h, query_block));
                    let keys = shape.blocks.keys(block as usize);
                    probabilities
                        .iter_mut()
                        .enumerate()
                        .filter(|(key, _)| !keys.contains(key))
                        .for_each(|(_, p)| *p = 0.0);
                    let value = head.output(&probabilities);
                    for (part, weights) in part.iter_mut().zip(weight.chunks(N_HEADS * HEAD_DIM)) {
                        let of_head = weights[h * HEAD_DIM..].iter().zip(&value);
                        *part += of_head.map(|(&w, v)| f64::from(w) * v).sum::<f64>() / queries.len() as f64;
                    }
                }
                all.push((record.mask.row(h, query_block).start + slot, near(&part)));
                sum += near(&part);
            }
        }
        for (at, near) in all {
            assert_close(&record.proximity[at..=at], &[near / sum], 1e-5);
        }
    }
}

#[test]
fn dense_chunks_are_sparse_ones_when_everything_is_kept() {
    let layer = Layer::random(shape(Some(77), N_TOKENS.div_ceil(4)));
    let (mut attention, chunks) = layer.start();
    let mut sparse = Vec::new();
    for (first, queries) in &chunks {
        attention.search(queries, *first).unwrap();
        sparse.push(numbers(&attention.attend(queries, *first).unwrap()));
    }
    let mask = attention.into_record().and_then(|record| record()).unwrap().0.mask;
    let (mut attention, _) = layer.start();
    let mut kept_mass = vec![0.0; N_HEADS];
    for ((first, queries), sparse) in chunks.iter().zip(&sparse) {
        let dense = attention.attend_dense(queries, *first, Some((&mask, &mut kept_mass))).unwrap();
        assert_close(&numbers(&dense), &sparse.iter().map(|&v| v as f64).collect::<Vec<_>>(), 1e-5);
    }
    assert!(kept_mass.iter().all(|mass| (mass / N_TOKENS as f64 - 1.0).abs() < 1e-5), "{kept_mass:?}");
}
