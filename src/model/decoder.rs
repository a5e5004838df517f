//! The decoder, written once for all families and devices: the whole prompt through one layer after the other.
//!
//! Only the hidden states, one layer's keys and values, and chunks of everything else exist at a time: no key-value cache
//! over layers, and nothing of size T × T.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use safetensors::tensor::TensorView;

use super::{LayerWeights, Linear, Model, rope::inverse_frequencies};
use crate::{
    config::StreamConfig,
    device::{AttentionShape, Device},
    error::Error,
    trace::{BlockMask, Blocks, LayerRecord, Span},
};

/// Rows of the output layer that are on the device together.
pub const VOCABULARY_CHUNK: usize = 16_384;

/// A model on a device, about to read a prompt.
pub struct Decoder<'a, D: Device> {
    pub model: &'a Model,
    pub device: &'a D,
    pub tokens: &'a [u32],
    pub config: StreamConfig,
    pub focus: Span,
    /// Stretches of tokens whose vertical scores are recorded, with what attention writes; nothing of it if there are none.
    pub sentences: Arc<[Span]>,
    /// Rows that are worked on together: whole query blocks, as the device's plan chose them.
    pub chunk: usize,
}

/// Time spent in the two stages that this crate is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageTimes {
    pub search: Duration,
    pub attention: Duration,
}

/// What happens to each layer's attention: the one thing in which a sparse and a dense run differ.
trait Visitor<D: Device> {
    /// Attention of a chunk of queries that starts at a query block.
    fn attend(
        &mut self,
        device: &D,
        layer: usize,
        attention: &mut D::Attention,
        queries: &D::Tensor,
        first: usize,
    ) -> Result<D::Tensor, Error>;

    /// Takes the attention once all chunks are through, and the mean lengths of the residual stream before it. `[n_query_blocks]`
    fn finish(&mut self, device: &D, layer: usize, attention: D::Attention, residual: Vec<f32>) -> Result<(), Error>;
}

/// Searches, attends to what was kept, and records it.
struct Sparse<'a, F> {
    times: &'a mut StageTimes,
    on_layer: F,
}

impl<D: Device, F: FnMut(usize, LayerRecord) -> Result<(), Error>> Visitor<D> for Sparse<'_, F> {
    fn attend(
        &mut self,
        device: &D,
        _: usize,
        attention: &mut D::Attention,
        queries: &D::Tensor,
        first: usize,
    ) -> Result<D::Tensor, Error> {
        let start = Instant::now();
        device.search(attention, queries, first)?;
        self.times.search += start.elapsed();
        let start = Instant::now();
        let output = device.attend(attention, queries, first)?;
        self.times.attention += start.elapsed();
        Ok(output)
    }

    fn finish(&mut self, device: &D, layer: usize, attention: D::Attention, residual: Vec<f32>) -> Result<(), Error> {
        (self.on_layer)(layer, LayerRecord { residual, ..device.record(attention)? })
    }
}

/// Attends to everything and measures how much of it falls on a mask.
struct Dense<M, F> {
    mask: M,
    current: Option<(BlockMask, Vec<f64>)>,
    on_layer: F,
}

impl<D: Device, M, F> Visitor<D> for Dense<M, F>
where
    M: FnMut(usize) -> Result<BlockMask, Error>,
    F: FnMut(usize, Vec<f64>),
{
    fn attend(
        &mut self,
        device: &D,
        layer: usize,
        attention: &mut D::Attention,
        queries: &D::Tensor,
        first: usize,
    ) -> Result<D::Tensor, Error> {
        let (mask, kept_mass) = match &mut self.current {
            Some(current) => current,
            none => {
                let mask = (self.mask)(layer)?;
                let kept_mass = vec![0.0; mask.n_heads];
                none.insert((mask, kept_mass))
            }
        };
        device.attend_dense(attention, queries, first, mask, kept_mass)
    }

    fn finish(&mut self, _: &D, layer: usize, _: D::Attention, _: Vec<f32>) -> Result<(), Error> {
        if let Some((_, kept_mass)) = self.current.take() {
            (self.on_layer)(layer, kept_mass);
        }
        Ok(())
    }
}

impl<D: Device> Decoder<'_, D> {
    /// Runs the model on kept key blocks alone; hands each layer's record to `on_layer`. Returns the logits that follow the
    /// last `n_logits` tokens. `[n_logits][vocab_size]`
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the layer, [`Error::Device`], and what `on_layer` returns.
    pub fn sparse(
        &self,
        n_logits: usize,
        times: &mut StageTimes,
        on_layer: impl FnMut(usize, LayerRecord) -> Result<(), Error>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.run(n_logits, &mut Sparse { times, on_layer })
    }

    /// Runs the model densely; `mask` gives the blocks of a layer whose share of the dense attention mass is measured, and
    /// `on_layer` gets it, summed over all queries, by head. Returns logits as [`Decoder::sparse`].
    ///
    /// # Errors
    /// As [`Decoder::sparse`].
    pub fn dense(
        &self,
        n_logits: usize,
        mask: impl FnMut(usize) -> Result<BlockMask, Error>,
        on_layer: impl FnMut(usize, Vec<f64>),
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.run(n_logits, &mut Dense { mask, current: None, on_layer })
    }

    fn run(&self, n_logits: usize, visitor: &mut impl Visitor<D>) -> Result<Vec<Vec<f32>>, Error> {
        let config = &self.model.config;
        let angles = self.angles()?;
        let mut hidden = self.embed(0)?;
        for layer in 0..config.n_layers {
            let weights = self.model.layer(layer)?.try_map(|w| self.device.weight(w))?;
            let mut attention = self.device.attention(self.shape(layer))?;
            for (i, x) in hidden.iter().enumerate() {
                self.append(&weights, &mut attention, x, i * self.chunk, &angles)?;
            }
            self.device.index(&mut attention)?;
            let mut residual = Vec::new();
            if !self.sentences.is_empty() {
                self.device.weigh(&mut attention, &weights.output.weight)?;
                residual = self.mean_lengths(&hidden)?;
            }
            for (i, x) in hidden.iter_mut().enumerate() {
                let queries = self.queries(&weights, x, i * self.chunk, &angles)?;
                let first_query_block = i * self.chunk / self.config.block_size_q;
                let attended = visitor.attend(self.device, layer, &mut attention, &queries, first_query_block)?;
                *x = self.write(layer, &weights, x, &attended)?;
            }
            visitor.finish(self.device, layer, attention, residual)?;
        }
        let n = self.tokens.len();
        self.logits(&hidden, 0, n - n_logits.min(n)..n)
    }

    pub(super) fn angles(&self) -> Result<D::Angles, Error> {
        let config = &self.model.config;
        self.device.angles(self.tokens.len(), &inverse_frequencies(&config.rope, config.head_dim))
    }

    /// Embedded tokens from a position on, in chunks.
    pub(super) fn embed(&self, position: usize) -> Result<Vec<D::Tensor>, Error> {
        let embedding = self.model.embedding()?;
        self.tokens[position..].chunks(self.chunk).map(|ids| self.device.embed(&embedding, ids)).collect()
    }

    /// The hidden states after a layer, from those before it and its attention.
    pub(super) fn write(
        &self,
        layer: usize,
        weights: &LayerWeights<D::Tensor>,
        x: &D::Tensor,
        attended: &D::Tensor,
    ) -> Result<D::Tensor, Error> {
        let x = self.device.add(x, &self.linear(attended, &weights.output)?)?;
        let x = self.device.add(&x, &self.mlp(weights, &x)?)?;
        match self.device.is_finite(&x)? {
            true => Ok(x),
            false => Err(self.not_finite(format!("the output of layer {layer}"))),
        }
    }

    /// Mean length of the rows of each query block. `[n_query_blocks]`
    fn mean_lengths(&self, hidden: &[D::Tensor]) -> Result<Vec<f32>, Error> {
        let mut means = Vec::new();
        for x in hidden {
            let lengths = self.device.lengths(x)?;
            means.extend(lengths.chunks(self.config.block_size_q).map(|block| block.iter().sum::<f32>() / block.len() as f32));
        }
        Ok(means)
    }

    pub(super) fn shape(&self, layer: usize) -> AttentionShape {
        let config = &self.model.config;
        AttentionShape {
            blocks: Blocks {
                n_tokens: self.tokens.len(),
                block_size_q: self.config.block_size_q,
                block_size_k: self.config.block_size_k,
                window: config.windows[layer],
            },
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            config: self.config.clone(),
            focus: self.focus,
            sentences: self.sentences.clone(),
        }
    }

    /// Adds the keys and values of a chunk to the layer's attention.
    pub(super) fn append(
        &self,
        weights: &LayerWeights<D::Tensor>,
        attention: &mut D::Attention,
        x: &D::Tensor,
        position: usize,
        angles: &D::Angles,
    ) -> Result<(), Error> {
        let x = self.norm(x, &weights.attention_norm)?;
        let norm = weights.key_norm.as_ref().map(|norm| (norm, self.model.config.rms_norm_eps));
        let keys = self.device.rope(&self.linear(&x, &weights.key)?, norm, position, angles)?;
        self.device.append(attention, &keys, &self.linear(&x, &weights.value)?)
    }

    pub(super) fn queries(
        &self,
        weights: &LayerWeights<D::Tensor>,
        x: &D::Tensor,
        position: usize,
        angles: &D::Angles,
    ) -> Result<D::Tensor, Error> {
        let x = self.norm(x, &weights.attention_norm)?;
        let norm = weights.query_norm.as_ref().map(|norm| (norm, self.model.config.rms_norm_eps));
        self.device.rope(&self.linear(&x, &weights.query)?, norm, position, angles)
    }

    pub(super) fn mlp(&self, weights: &LayerWeights<D::Tensor>, x: &D::Tensor) -> Result<D::Tensor, Error> {
        let x = self.norm(x, &weights.mlp_norm)?;
        let activated = self.device.swiglu(&self.linear(&x, &weights.gate)?, &self.linear(&x, &weights.up)?)?;
        self.linear(&activated, &weights.down)
    }

    fn norm(&self, x: &D::Tensor, weight: &D::Tensor) -> Result<D::Tensor, Error> {
        self.device.rms_norm(x, weight, self.model.config.rms_norm_eps)
    }

    pub(super) fn linear(&self, x: &D::Tensor, linear: &Linear<D::Tensor>) -> Result<D::Tensor, Error> {
        self.device.linear(x, &linear.weight, linear.bias.as_ref())
    }

    pub(super) fn not_finite(&self, place: String) -> Error {
        let fix = "the weights are damaged, or too large for their type: download them again".into();
        Error::NotFinite { place: format!("{place} of {}", self.model.name), found: "NaN or an infinity".into(), fix }
    }

    /// Logits that follow some rows of chunks of hidden states, of which the first is at position `position`.
    /// `[n_rows][vocab_size]`
    pub(super) fn logits(&self, hidden: &[D::Tensor], position: usize, rows: Range<usize>) -> Result<Vec<Vec<f32>>, Error> {
        let norm = self.device.weight(&self.model.final_norm()?)?;
        let mut logits = vec![Vec::with_capacity(self.model.config.vocab_size); rows.len()];
        for (i, x) in hidden.iter().enumerate() {
            let first = position + i * self.chunk;
            let (start, end) = (rows.start.max(first), rows.end.min((first + self.chunk).min(self.tokens.len())));
            if start >= end {
                continue;
            }
            let x = self.norm(&self.device.rows(x, start - first..end - first)?, &norm)?;
            let place = &mut logits[start - rows.start..end - rows.start];
            self.for_each_vocabulary_chunk(&x, |values: Vec<f32>| {
                let width = values.len() / place.len();
                place.iter_mut().zip(values.chunks(width)).for_each(|(row, part)| row.extend_from_slice(part));
            })?;
        }
        match logits.iter().flatten().all(|l| l.is_finite()) {
            true => Ok(logits),
            false => Err(self.not_finite("the logits".into())),
        }
    }

    /// Products of rows with the output layer, which is too large to be on the device as a whole.
    fn for_each_vocabulary_chunk(&self, x: &D::Tensor, mut on_values: impl FnMut(Vec<f32>)) -> Result<(), Error> {
        let table = self.model.output()?;
        let n_bytes = table.data().len() / table.shape()[0];
        for bytes in table.data().chunks(VOCABULARY_CHUNK * n_bytes) {
            let shape = vec![bytes.len() / n_bytes, table.shape()[1]];
            let part = TensorView::new(table.dtype(), shape, bytes).expect("whole rows of a checked tensor");
            on_values(self.device.to_host(&self.device.linear(x, &self.device.weight(&part)?, None)?)?);
        }
        Ok(())
    }
}
