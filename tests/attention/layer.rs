//! A whole layer on the CPU, and the expected records by the definition of its heads.

use streamtrace::{
    engine::{
        cpu::{self, Tensor},
        device::{AttentionShape, Device, LayerAttention},
    },
    trace::{Budgets, LayerRecord, MIN_DISTANCE},
};

use crate::naive::{Head, assert_close};

/// Approximate number of rows that are searched and attended together.
const CHUNK: usize = 64;

/// Copies rows to the CPU, `[n_rows, width]`.
pub fn tensor(rows: &[f32], width: usize) -> Tensor {
    Tensor::of_rows(rows.into(), width).unwrap()
}

/// Returns all numbers of a tensor, row by row.
pub fn numbers(x: &Tensor) -> Vec<f32> {
    cpu::Cpu.to_host(x).unwrap()
}

/// A layer's heads: each has its own queries; groups share keys and values.
pub struct Layer {
    pub shape: AttentionShape,
    pub heads: Vec<Head>,
}

impl Layer {
    pub fn random(shape: AttentionShape) -> Self {
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, soft_cap, .. } = shape;
        let one = |seed| Head { soft_cap, ..Head::random(blocks, head_dim, seed) };
        let shared: Vec<Head> = (0..n_kv_heads).map(|head| one(50 + head as u64)).collect();
        let of = |head: usize| Head {
            sink: shape.sinks.get(head).copied(),
            queries: one(head as u64).queries,
            ..shared[head / (n_heads / n_kv_heads)].clone()
        };
        Layer { heads: (0..n_heads).map(of).collect(), shape }
    }

    /// Returns the rows of heads side by side, `[n_tokens, n · head_dim]`.
    fn rows<'a>(&self, heads: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Vec<f32> {
        let dim = self.shape.head_dim;
        let row = |token: usize| heads.clone().flat_map(move |head| &head[token * dim..][..dim]).copied();
        (0..self.shape.blocks.n_tokens).flat_map(row).collect()
    }

    /// Returns the layer's attention with all keys and values, and its query rows in chunks of whole blocks.
    pub fn start(&self) -> (cpu::Layer, Vec<(usize, Tensor)>) {
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, .. } = self.shape;
        let mut attention = cpu::Layer::new(self.shape.clone());
        let shared = || self.heads.iter().step_by(n_heads / n_kv_heads);
        let width = n_kv_heads * head_dim;
        let keys = self.rows(shared().map(|h| &h.keys));
        let values = self.rows(shared().map(|h| &h.values));
        for (keys, values) in keys.chunks(50 * width).zip(values.chunks(50 * width)) {
            attention.append(&tensor(keys, width), &tensor(values, width)).unwrap();
        }
        attention.index().unwrap();
        attention.share_out(Budgets::uniform(n_heads, self.shape.config.top_k)).unwrap();
        let n_rows = CHUNK.next_multiple_of(blocks.block_size_q);
        let width = n_heads * head_dim;
        let queries = self.rows(self.heads.iter().map(|h| &h.queries));
        let chunks = queries.chunks(n_rows * width).enumerate();
        let chunks = chunks.map(|(i, chunk)| (i * n_rows / blocks.block_size_q, tensor(chunk, width)));
        (attention, chunks.collect())
    }

    /// Searches and attends; returns outputs `[n_tokens, n_heads · head_dim]` and the record.
    pub fn run(&self) -> (Vec<f32>, LayerRecord) {
        let (mut attention, chunks) = self.start();
        let mut outputs = Vec::new();
        for (first, queries) in &chunks {
            attention.search(queries, *first).unwrap();
            outputs.extend(numbers(&attention.attend(queries, *first).unwrap()));
        }
        (outputs, attention.into_record().and_then(|record| record()).unwrap().0)
    }

    /// Runs the layer and compares every output and record of every head with its definition over the kept
    /// blocks.
    #[track_caller]
    pub fn assert_is_the_definition(&self) {
        let (outputs, record) = self.run();
        for h in 0..self.heads.len() {
            self.assert_head(h, &outputs, &record);
        }
    }

    #[track_caller]
    fn assert_head(&self, h: usize, outputs: &[f32], record: &LayerRecord) {
        let (AttentionShape { blocks, n_heads, head_dim, sentences, focus, .. }, head) =
            (&self.shape, &self.heads[h]);
        let n_focus_keys = record.mask.budgets.top_k(h) * blocks.block_size_k;
        let (mut received, mut vertical) = (vec![0.0; blocks.n_tokens], vec![0.0; sentences.len()]);
        for query in 0..blocks.n_tokens {
            let kept = record.mask.kept(h, query / blocks.block_size_q);
            let probabilities = head.probabilities(query, kept);
            assert_close(
                &outputs[(query * n_heads + h) * head_dim..][..*head_dim],
                &head.output(&probabilities),
                1e-5,
            );
            received.iter_mut().zip(&probabilities).for_each(|(sum, p)| *sum += p);
            let own =
                sentences.iter().position(|sentence| sentence.range().contains(&query)).expect("a sentence");
            for (j, sentence) in sentences.iter().enumerate().take((own + 1).saturating_sub(MIN_DISTANCE)) {
                let mean =
                    sentence.range().map(|key| probabilities[key]).sum::<f64>() / sentence.len() as f64;
                vertical[j] +=
                    mean / sentences[own].len() as f64 / (sentences.len() - j - MIN_DISTANCE) as f64;
            }
            if focus.range().contains(&query) {
                let at = (h * focus.len() + query - focus.start) * n_focus_keys;
                let keys = kept.iter().flat_map(|&b| blocks.keys(b as usize));
                let row: Vec<f64> = keys.map(|key| probabilities[key]).collect();
                assert_close(&record.focus[at..at + row.len()], &row, 1e-5);
                assert!(record.focus[at + row.len()..at + n_focus_keys].iter().all(|&p| p == 0.0));
            }
        }
        assert_close(&record.vertical[h * sentences.len()..][..sentences.len()], &vertical, 1e-5);
        assert_close(&record.received[h * blocks.n_tokens..][..blocks.n_tokens], &received, 1e-4);
        for query_block in 0..blocks.n_query_blocks() {
            let mass: f32 = record.mass[record.mask.row(h, query_block)].iter().sum();
            let on_sink = record.on_sink.get(h * blocks.n_query_blocks() + query_block);
            assert_eq!(on_sink.is_some(), head.sink.is_some());
            let on_sink = on_sink.copied().unwrap_or(0.0);
            assert!(
                (mass + on_sink - 1.0).abs() < 1e-5,
                "head {h}, block {query_block}: {mass} and {on_sink}"
            );
            let kept = record.mask.kept(h, query_block);
            let on_keys = |query| head.probabilities(query, kept).iter().sum::<f64>();
            let queries = blocks.queries(query_block);
            let expected = 1.0 - queries.clone().map(on_keys).sum::<f64>() / queries.len() as f64;
            assert_close(&[on_sink], &[expected], 1e-5);
        }
    }
}
