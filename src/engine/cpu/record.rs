//! The record of a layer's attention: what each block adds to it, and what is computed once the layer is done.

use rayon::prelude::*;

use super::{Layer, attend::SparseBlock};
use crate::{engine::device::AttentionShape, trace::MIN_DISTANCE};

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
        let keys = all.iter().flat_map(|&b| blocks.keys(b as usize));
        let capacity = self.shape.capacity;
        let received = &mut record.received[head * capacity..][..capacity];
        keys.clone().zip(&block.received).for_each(|(key, mass)| received[key] += mass);
        if let Some(anchors) = self.anchors.get_mut(head * capacity..) {
            keys.zip(&block.anchors).for_each(|(key, mass)| anchors[key] += mass);
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

/// W_Oᵀ W_O of one head, whose columns of the rows of `weight` start at `first`. `[head_dim, head_dim]`
pub(super) fn gram(weight: &[f32], width: usize, first: usize, head_dim: usize) -> Vec<f32> {
    let mut gram = vec![0.0; head_dim * head_dim];
    for row in weight.chunks(width) {
        let row = &row[first..][..head_dim];
        for (&a, to) in row.iter().zip(gram.chunks_mut(head_dim)) {
            to.iter_mut().zip(row).for_each(|(to, &b)| *to += a * b);
        }
    }
    gram
}

/// √(vᵀ G v)
pub(super) fn length(gram: &[f32], v: &[f32]) -> f32 {
    let product = |(row, &a): (&[f32], &f32)| a * row.iter().zip(v).map(|(g, b)| g * b).sum::<f32>();
    gram.chunks(v.len()).zip(v).map(product).sum::<f32>().max(0.0).sqrt()
}
