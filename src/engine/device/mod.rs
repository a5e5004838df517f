//! The operations that the decoder needs of a device. Each device implements them once; the decoder is written once.

mod costs;
mod shape;

use std::ops::Range;

use safetensors::tensor::TensorView;

use super::model::{Model, config::Activation, rope::Rotary};
use crate::{
    error::Error,
    protocol::{Hidden, MemoryPlan},
    trace::{BlockMask, LayerRecord, StreamConfig},
};
pub use costs::{Purpose, StageCosts};
pub use shape::AttentionShape;

/// A processor that runs a decoder. Activations are chunks of the prompt, `[n_rows, width]`.
pub trait Device: Sync {
    /// Activations or weights on the device.
    type Tensor: Send;
    /// The residual stream between layers, in chunks of rows.
    type Residual;
    /// Rotary angles of every position.
    type Angles;
    /// The attention of one layer: keys and values of the whole prompt, what the search reads, what was recorded.
    type Attention;

    /// "cpu", or the GPU's name.
    fn name(&self) -> String;

    /// What a run over `n_tokens` will hold of the device's memory at its peak. `config.top_k` as it will be used; `limit`
    /// in bytes, what can be had if not set.
    fn plan(
        &self,
        model: &Model,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
        limit: Option<u64>,
    ) -> Result<MemoryPlan, Error>;

    /// Makes sure of the memory that a run will take, where the device can, and starts a new measurement of the peak.
    fn reserve(&self, bytes: u64) -> Result<(), Error>;

    /// Most memory that was held since [`Device::reserve`], in bytes; 0 where it cannot be measured.
    fn peak(&self) -> u64;

    /// Brings a weight to the device.
    fn weight(&self, weight: &TensorView) -> Result<Self::Tensor, Error>;

    /// Brings a weight into the room of one that is not needed any more, beside what the device is doing.
    fn refill(&self, room: &mut Self::Tensor, weight: &TensorView) -> Result<(), Error>;

    /// A residual stream without chunks; `on_host`: it waits in the host's memory.
    fn residual(&self, on_host: bool) -> Result<Self::Residual, Error>;

    /// Adds a chunk to the end.
    fn push(&self, residual: &mut Self::Residual, x: Self::Tensor) -> Result<(), Error>;

    /// A chunk, on the device.
    fn chunk(&self, residual: &Self::Residual, i: usize) -> Result<Self::Tensor, Error>;

    /// Puts what a layer made of a chunk in its place.
    fn replace(&self, residual: &mut Self::Residual, i: usize, x: Self::Tensor) -> Result<(), Error>;

    /// Whether all numbers that were put in place are below [`TOO_LARGE`]: no NaN, no infinity, nothing that a norm would lose;
    /// waits for them.
    fn is_finite(&self, residual: &Self::Residual) -> Result<bool, Error>;

    /// `x / √(mean(x²) + eps) · weight` over each row.
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f64) -> Result<Self::Tensor, Error>;

    /// `x · weightᵀ + bias`; `weight` is `[n_out, n_in]`.
    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor, Error>;

    /// `activation(gate) · up`.
    fn gated(
        &self,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        activation: Activation,
    ) -> Result<Self::Tensor, Error>;

    fn add(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// The angles of each position of the prompt.
    fn angles(&self, n_tokens: usize, rotary: &Rotary) -> Result<Self::Angles, Error>;

    /// Rotates each head's pairs of dimensions by the angles of their positions, after an RMS norm of each head if `norm`
    /// gives its weight `[head_dim]` and eps, and multiplies all by `scale`. `x` is `[n_rows, n_heads · head_dim]`.
    fn rope(
        &self,
        x: &Self::Tensor,
        norm: Option<(&Self::Tensor, f64)>,
        first_position: usize,
        angles: &Self::Angles,
        scale: f32,
    ) -> Result<Self::Tensor, Error>;

    /// Some rows alone.
    fn rows(&self, x: &Self::Tensor, rows: Range<usize>) -> Result<Self::Tensor, Error>;

    /// All numbers, row by row.
    fn to_host(&self, x: &Self::Tensor) -> Result<Vec<f32>, Error>;

    /// Room for the attention of one layer.
    fn attention(&self, shape: AttentionShape) -> Result<Self::Attention, Error>;

    /// Adds the next rows of keys and values, `[n_rows, n_kv_heads · head_dim]`.
    fn append(
        &self,
        attention: &mut Self::Attention,
        keys: &Self::Tensor,
        values: &Self::Tensor,
    ) -> Result<(), Error>;

    /// Keeps the first `n_rows` rows of keys and values; from now on the prompt has `n_tokens`, at most the capacity.
    fn resize(&self, attention: &mut Self::Attention, n_rows: usize, n_tokens: usize);

    /// Prepares the search, once all keys are there.
    fn index(&self, attention: &mut Self::Attention) -> Result<(), Error>;

    /// Prepares the record of what attention writes, once all values are there: ‖W_O v‖ of every head and key, for the output
    /// layer's `weight` `[hidden_size, n_heads · head_dim]`.
    fn weigh(&self, attention: &mut Self::Attention, weight: &Self::Tensor) -> Result<(), Error>;

    /// Euclidean length of each row.
    fn lengths(&self, x: &Self::Tensor) -> Result<Vec<f32>, Error>;

    /// Finds the kept key blocks of a chunk of queries `[n_rows, n_heads · head_dim]` that starts at a query block.
    fn search(
        &self,
        attention: &mut Self::Attention,
        queries: &Self::Tensor,
        first_query_block: usize,
    ) -> Result<(), Error>;

    /// Attention of those queries over their kept blocks, recording. `[n_rows, n_heads · head_dim]`
    fn attend(
        &self,
        attention: &mut Self::Attention,
        queries: &Self::Tensor,
        first_query_block: usize,
    ) -> Result<Self::Tensor, Error>;

    /// Records how near what each kept block of the queries attended last writes comes to what their residual stream becomes, if
    /// the settings ask for it. `before` and `after` are its rows around attention `[n_rows, hidden_size]`, `weight` is the
    /// output layer's.
    fn proximity(
        &self,
        attention: &mut Self::Attention,
        weight: &Self::Tensor,
        before: &Self::Tensor,
        after: &Self::Tensor,
        first_query_block: usize,
    ) -> Result<(), Error>;

    /// Keeps the blocks of a mask instead of searching; its budget is the shape's.
    fn keep(&self, attention: &mut Self::Attention, mask: BlockMask) -> Result<(), Error>;

    /// Attention of those queries over their kept blocks without what is hidden; nothing is recorded.
    fn attend_without(
        &self,
        attention: &mut Self::Attention,
        queries: &Self::Tensor,
        first_query_block: usize,
        hidden: &Hidden,
    ) -> Result<Self::Tensor, Error>;

    /// Attention of those queries over all keys. Adds to `kept_mass` `[n_heads]` the sum over queries of the mass that
    /// falls on the blocks that `mask` keeps.
    fn attend_dense(
        &self,
        attention: &mut Self::Attention,
        queries: &Self::Tensor,
        first_query_block: usize,
        mask: &BlockMask,
        kept_mass: &mut [f64],
    ) -> Result<Self::Tensor, Error>;

    /// What searching and attending took so far; waits for them.
    fn costs(&self, attention: &mut Self::Attention) -> Result<StageCosts, Error>;

    /// What the layer's sparse attention left behind.
    fn record(&self, attention: Self::Attention) -> Result<LayerRecord, Error>;
}

/// Rows of the output layer that are on the device together.
pub const VOCABULARY_CHUNK: usize = 16_384;

/// 2⁵⁶: the squares of smaller numbers can be summed over 65,536 dimensions. Beyond, a norm divides by infinity, and what it
/// leaves is 0.
pub const TOO_LARGE: f32 = (1u64 << 56) as f32;

/// L1 proximity of a part to the whole (Ferrando & Voita 2024): max(‖whole‖₁ − ‖whole − part‖₁, 0).
pub fn near(whole: &[f32], part: &[f32]) -> f32 {
    whole.iter().zip(part).map(|(y, part)| y.abs() - (y - part).abs()).sum::<f32>().max(0.0)
}
