//! A whole layer on the CPU: query heads that share keys, chunks of rows, and where everything is recorded.

use streamtrace::{
    Search, StreamConfig,
    cpu::Attention,
    device::AttentionShape,
    trace::{Blocks, MIN_DISTANCE, Span},
};

use crate::naive::{Head, assert_close};

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
        capacity: N_TOKENS,
        n_heads: N_HEADS,
        n_kv_heads: N_KV_HEADS,
        head_dim: HEAD_DIM,
        soft_cap: None,
        config,
        focus: Span::from(90..101),
        sentences,
    }
}

/// Query heads of their own, keys and values shared by three of them.
fn heads(blocks: Blocks) -> Vec<Head> {
    let shared: Vec<Head> = (0..N_KV_HEADS).map(|head| Head::random(blocks, HEAD_DIM, 50 + head as u64)).collect();
    let head = |head: usize| Head { queries: Head::random(blocks, HEAD_DIM, head as u64).queries, ..shared[head / 3].clone() };
    (0..N_HEADS).map(head).collect()
}

/// Rows of all heads side by side, `[n_tokens, n_heads · head_dim]`.
fn rows<'a>(heads: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Vec<f32> {
    let row = |token: usize| heads.clone().flat_map(move |head| &head[token * HEAD_DIM..][..HEAD_DIM]).copied();
    (0..N_TOKENS).flat_map(row).collect()
}

/// A layer's attention with all keys and values, and the rows of its queries in chunks of whole blocks.
fn layer(shape: &AttentionShape, heads: &[Head]) -> (Attention, Vec<(usize, Vec<f32>)>) {
    let mut attention = Attention::new(shape.clone());
    let (keys, values) = (rows(heads.iter().step_by(3).map(|h| &h.keys)), rows(heads.iter().step_by(3).map(|h| &h.values)));
    let width = N_KV_HEADS * HEAD_DIM;
    for part in keys.chunks(50 * width) {
        attention.append_keys(part);
    }
    attention.append_values(&values);
    attention.index();
    let queries = rows(heads.iter().map(|h| &h.queries));
    let chunks = queries.chunks(64 * N_HEADS * HEAD_DIM).enumerate().map(|(i, chunk)| (4 * i, chunk.to_vec())).collect();
    (attention, chunks)
}

#[test]
fn each_head_attends_to_its_groups_keys_and_is_recorded_in_its_place() {
    for window in [None, Some(50)] {
        let shape = shape(window, 9);
        let heads = heads(shape.blocks);
        let (mut attention, chunks) = layer(&shape, &heads);
        let mut outputs = Vec::new();
        for (first, queries) in &chunks {
            attention.search(queries, *first);
            outputs.extend(attention.attend(queries, *first));
        }
        let record = attention.into_record();
        let n_sentences = shape.sentences.len();
        for (h, head) in heads.iter().enumerate() {
            let (mut received, mut vertical) = (vec![0.0; N_TOKENS], vec![0.0; n_sentences]);
            for query in 0..N_TOKENS {
                let kept = record.mask.kept(h, query / 16);
                let probabilities = head.probabilities(query, kept);
                assert_close(&outputs[(query * N_HEADS + h) * HEAD_DIM..][..HEAD_DIM], &head.output(&probabilities), 1e-5);
                received.iter_mut().zip(&probabilities).for_each(|(sum, p)| *sum += p);
                for (j, sentence) in shape.sentences.iter().enumerate().take((query / 6 + 1).saturating_sub(MIN_DISTANCE)) {
                    let mean = sentence.range().map(|key| probabilities[key]).sum::<f64>() / sentence.len() as f64;
                    vertical[j] += mean / shape.sentences[query / 6].len() as f64 / (n_sentences - j - MIN_DISTANCE) as f64;
                }
                if shape.focus.range().contains(&query) {
                    let at = (h * shape.focus.len() + query - shape.focus.start) * 9 * 4;
                    let keys = kept.iter().flat_map(|&b| shape.blocks.keys(b as usize));
                    let row: Vec<f64> = keys.map(|key| probabilities[key]).collect();
                    assert_close(&record.focus[at..at + row.len()], &row, 1e-5);
                    assert!(record.focus[at + row.len()..at + 36].iter().all(|&p| p == 0.0));
                }
            }
            assert_close(&record.vertical[h * n_sentences..][..n_sentences], &vertical, 1e-5);
            assert_close(&record.received[h * N_TOKENS..][..N_TOKENS], &received, 1e-4);
            for query_block in 0..shape.blocks.n_query_blocks() {
                let mass: f32 = record.mass[record.mask.row(h, query_block)].iter().sum();
                assert!((mass - 1.0).abs() < 1e-5, "head {h}, block {query_block}: {mass}");
            }
        }
    }
}

/// A matrix of random numbers.
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
    let (heads, weight, before) = (heads(shape.blocks), random(HIDDEN * N_HEADS * HEAD_DIM, 0.3), random(N_TOKENS * HIDDEN, 1.0));
    let (mut attention, chunks) = layer(&shape, &heads);
    let (mut after, mut row) = (before.clone(), 0);
    for (first, queries) in &chunks {
        attention.search(queries, *first);
        let start = row * HIDDEN;
        for attended in attention.attend(queries, *first).chunks(N_HEADS * HEAD_DIM) {
            for (r, weights) in weight.chunks(N_HEADS * HEAD_DIM).enumerate() {
                after[row * HIDDEN + r] += weights.iter().zip(attended).map(|(w, a)| w * a).sum::<f32>();
            }
            row += 1;
        }
        attention.proximity(&weight, &before[start..row * HIDDEN], &after[start..row * HIDDEN], *first);
    }
    let record = attention.into_record();
    for query_block in 0..shape.blocks.n_query_blocks() {
        let queries = shape.blocks.queries(query_block);
        let mean =
            |rows: &[f32], r: usize| queries.clone().map(|q| f64::from(rows[q * HIDDEN + r])).sum::<f64>() / queries.len() as f64;
        let becomes: Vec<f64> = (0..HIDDEN).map(|r| mean(&after, r)).collect();
        let near =
            |part: &[f64]| (l1(&becomes) - l1(&becomes.iter().zip(part).map(|(y, part)| y - part).collect::<Vec<_>>())).max(0.0);
        let stays: Vec<f64> = (0..HIDDEN).map(|r| mean(&before, r)).collect();
        let (mut all, mut sum) = (Vec::new(), near(&stays));
        for (h, head) in heads.iter().enumerate() {
            for (slot, &block) in record.mask.kept(h, query_block).iter().enumerate() {
                let mut part = vec![0.0; HIDDEN];
                for query in queries.clone() {
                    let mut probabilities = head.probabilities(query, record.mask.kept(h, query_block));
                    let keys = shape.blocks.keys(block as usize);
                    probabilities.iter_mut().enumerate().filter(|(key, _)| !keys.contains(key)).for_each(|(_, p)| *p = 0.0);
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
    let shape = shape(Some(77), N_TOKENS.div_ceil(4));
    let heads = heads(shape.blocks);
    let (mut attention, chunks) = layer(&shape, &heads);
    let mut sparse = Vec::new();
    for (first, queries) in &chunks {
        attention.search(queries, *first);
        sparse.push(attention.attend(queries, *first));
    }
    let mask = attention.into_record().mask;
    let (attention, _) = layer(&shape, &heads);
    let mut kept_mass = vec![0.0; N_HEADS];
    for ((first, queries), sparse) in chunks.iter().zip(&sparse) {
        let dense = attention.attend_dense(queries, *first, &mask, &mut kept_mass);
        assert_close(&dense, &sparse.iter().map(|&v| v as f64).collect::<Vec<_>>(), 1e-5);
    }
    assert!(kept_mass.iter().all(|mass| (mass / N_TOKENS as f64 - 1.0).abs() < 1e-5), "{kept_mass:?}");
}
