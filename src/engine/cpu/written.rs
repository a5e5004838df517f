//! What attention writes, and what later sentences look at: the parts of a record that are computed once a
//! layer is done.

use rayon::prelude::*;

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
