//! The record of a layer's attention: what each block adds to it, and what is computed once the layer is done.

use rayon::prelude::*;

use super::{
    Layer,
    attend::SparseBlock,
    lanes::{LANES, panel, products, vectorized},
};
use crate::{
    engine::device::AttentionShape,
    trace::{Blocks, MIN_DISTANCE},
};

impl AttentionShape {
    /// For each token its sentence and 1 / tokens of that sentence, which is 0 between sentences: what looks
    /// from there does not count. Nothing if no sentences are recorded. `[n_tokens]`
    pub(super) fn token_sentences(&self) -> Vec<(u32, f32)> {
        let mut of = vec![(0, 0.0); if self.sentences.is_empty() { 0 } else { self.capacity }];
        for (i, sentence) in self.sentences.iter().enumerate() {
            of[sentence.range()].fill((i as u32, 1.0 / sentence.len() as f32));
        }
        of
    }

    /// Returns what the keys of each block write, weighted by what they received; both are `[n_heads,
    /// n_tokens]`, the result `[n_heads, n_key_blocks]`. Nothing if nothing was weighed.
    pub(super) fn written(&self, lengths: &[f32], received: &[f32]) -> Vec<f32> {
        let mean_length = |(lengths, received): (&[f32], &[f32])| {
            // Keys that nobody looks at count a little, so that there is a mean.
            let weights = || received.iter().map(|mass| mass + 1e-9);
            lengths.iter().zip(weights()).map(|(l, w)| l * w).sum::<f32>() / weights().sum::<f32>()
        };
        let t = self.blocks.n_tokens;
        let bk = self.blocks.block_size_k;
        let heads = lengths.par_chunks(t).zip(received.par_chunks(t));
        heads.flat_map_iter(|(l, r)| l.chunks(bk).zip(r.chunks(bk)).map(mean_length)).collect()
    }

    /// Vertical scores from what each token received of its share. `anchors` is `[n_heads, n_tokens]`;
    /// `[n_heads, n_sentences]`
    pub(super) fn vertical(&self, anchors: &[f32]) -> Vec<f32> {
        let n = self.sentences.len();
        let mean = |row: &[f32], i: usize| {
            let after = n.saturating_sub(i + MIN_DISTANCE);
            let sum: f32 = row[self.sentences[i].range()].iter().sum();
            if after == 0 { 0.0 } else { sum / (self.sentences[i].len() * after) as f32 }
        };
        let rows = anchors.par_chunks(self.blocks.n_tokens).take(if n > 0 { self.n_heads } else { 0 });
        rows.flat_map_iter(|row| (0..n).map(move |i| mean(row, i))).collect()
    }
}

impl Layer {
    /// Returns the share of each head's mass on keys that is on the kept blocks: in an exact run of all queries,
    /// else of the sampled query blocks; nothing if there are none. `[n_heads]`
    pub(super) fn recall(&self) -> Vec<f32> {
        if self.shape.config.exact {
            return self.record.share_on_kept();
        }
        let on_kept = |head: usize, (query_block, masses): &(usize, Vec<Vec<f32>>)| {
            let kept = self.record.mask.kept(head, *query_block).iter();
            kept.map(|&block| masses[head][block as usize]).sum::<f32>()
        };
        let n = self.sampled.len();
        let mean = |head| self.sampled.iter().map(|block| on_kept(head, block)).sum::<f32>() / n as f32;
        (0..if n == 0 { 0 } else { self.shape.n_heads }).map(mean).collect()
    }

    /// Adds what a block recorded of the key blocks that it attended to to the layer's record; returns it with
    /// the kept ones alone.
    pub(super) fn note(&mut self, head: usize, query_block: usize, block: SparseBlock) -> SparseBlock {
        let blocks = self.shape.blocks;
        let all = self.attended(&self.record.mask, head, query_block).into_owned();
        let focus = self.shape.focus;
        let record = &mut self.record;
        let first = head * self.shape.capacity;
        add_to_blocks(&mut record.received[first..], &block.received, &blocks, &all);
        if !self.anchors.is_empty() {
            add_to_blocks(&mut self.anchors[first..], &block.anchors, &blocks, &all);
        }
        if let Some(on_sink) =
            record.on_sink.get_mut(head * record.mask.blocks.n_query_blocks() + query_block)
        {
            *on_sink = block.on_sink;
        }
        let block = block.of(&blocks, &all, record.mask.kept(head, query_block));
        let row = record.mask.row(head, query_block);
        record.mass[row][..block.mass.len()].copy_from_slice(&block.mass);
        for (query, probabilities) in &block.focus {
            let row = record.mask.budgets.row(head, query - focus.start, focus.len());
            let at = row.start * blocks.block_size_k;
            record.focus[at..at + probabilities.len()].copy_from_slice(probabilities);
        }
        block
    }
}

/// Adds what keys of some blocks got to what all keys have. `sums` is `[n_tokens]` or longer, `more` `[n_keys]`
fn add_to_blocks(sums: &mut [f32], more: &[f32], blocks: &Blocks, of: &[u32]) {
    let mut rest = more;
    for &block in of {
        let keys = blocks.keys(block as usize);
        let (more, others) = rest.split_at(keys.len());
        sums[keys].iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        rest = others;
    }
}

/// W_Oᵀ W_O of one head, whose columns of the rows of `weight` start at `first`. `[head_dim, head_dim]`
pub(super) fn gram(weight: &[f32], width: usize, first: usize, head_dim: usize) -> Vec<f32> {
    let mut gram = vec![0.0; head_dim * head_dim];
    vectorized(
        #[inline(always)]
        || {
            for row in weight.chunks_exact(width) {
                let row = &row[first..][..head_dim];
                for (&a, to) in row.iter().zip(gram.chunks_exact_mut(head_dim)) {
                    to.iter_mut().zip(row).for_each(|(to, &b)| *to += a * b);
                }
            }
        },
    );
    gram
}

/// √(vᵀ G v) of each row of `values` `[n_rows, head_dim]`.
pub(super) fn lengths(gram: &[f32], values: &[f32], head_dim: usize) -> Vec<f32> {
    let mut lengths = Vec::with_capacity(values.len() / head_dim);
    let mut mapped = vec![[0.0; LANES]; head_dim];
    for rows in values.chunks(LANES * head_dim) {
        let n_rows = rows.len() / head_dim;
        let panel = panel(rows, head_dim, n_rows, head_dim);
        products(&panel, |i| &gram[i * head_dim..][..head_dim], &mut mapped);
        let mut squares = [0.0; LANES];
        vectorized(
            #[inline(always)]
            || {
                for (a, b) in panel.iter().zip(&mapped) {
                    for lane in 0..LANES {
                        squares[lane] += a[lane] * b[lane];
                    }
                }
            },
        );
        lengths.extend(squares[..n_rows].iter().map(|square| square.max(0.0).sqrt()));
    }
    lengths
}
