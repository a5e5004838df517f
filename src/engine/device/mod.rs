//! The operations that the decoder needs of a device. Each device implements them once; the decoder is written once.

use std::{
    ops::{AddAssign, Range},
    sync::Arc,
    time::Duration,
};

use safetensors::tensor::TensorView;

use super::model::{Model, config::Activation, rope::Rotary};
use crate::{
    error::Error,
    protocol::{Hidden, MemoryPlan},
    trace::{BlockMask, Blocks, LayerRecord, Span, StreamConfig},
};

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
    fn linear(&self, x: &Self::Tensor, weight: &Self::Tensor, bias: Option<&Self::Tensor>) -> Result<Self::Tensor, Error>;

    /// `activation(gate) · up`.
    fn gated(&self, gate: &Self::Tensor, up: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, Error>;

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
    fn append(&self, attention: &mut Self::Attention, keys: &Self::Tensor, values: &Self::Tensor) -> Result<(), Error>;

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
    fn search(&self, attention: &mut Self::Attention, queries: &Self::Tensor, first_query_block: usize) -> Result<(), Error>;

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

/// 2⁵⁶: the squares of smaller numbers can be summed over 65,536 dimensions. Beyond, a norm divides by infinity, and what it
/// leaves is 0.
pub const TOO_LARGE: f32 = (1u64 << 56) as f32;

/// L1 proximity of a part to the whole (Ferrando & Voita 2024): max(‖whole‖₁ − ‖whole − part‖₁, 0).
pub fn near(whole: &[f32], part: &[f32]) -> f32 {
    whole.iter().zip(part).map(|(y, part)| y.abs() - (y - part).abs()).sum::<f32>().max(0.0)
}

/// What the two stages took that this crate is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageCosts {
    pub search: Duration,
    pub attention: Duration,
    /// Keys, or nodes that stand for keys, that the search read for all heads; none where there was no search.
    pub keys_read: Option<u64>,
}

impl AddAssign for StageCosts {
    fn add_assign(&mut self, other: Self) {
        self.search += other.search;
        self.attention += other.attention;
        self.keys_read = other.keys_read.map(|n| n + self.keys_read.unwrap_or(0)).or(self.keys_read);
    }
}

/// What a run leaves on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One layer after the other, nothing of those before.
    Trace,
    /// The weights, keys and values of all layers, for the tokens to come.
    Generate,
}

impl Purpose {
    /// Layers whose weights, keys and values are there at a time.
    pub fn layers_held(self, n_layers: usize) -> usize {
        match self {
            Purpose::Trace => 1,
            Purpose::Generate => n_layers,
        }
    }
}

/// Sizes and settings of one layer's attention.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    pub blocks: Blocks,
    /// Tokens that there is room for.
    pub capacity: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// `cap · tanh(x / cap)` of each attention logit.
    pub soft_cap: Option<f32>,
    pub config: StreamConfig,
    pub focus: Span,
    /// Stretches of tokens whose vertical scores are recorded.
    pub sentences: Arc<[Span]>,
}

impl AttentionShape {
    /// Whether proximity is recorded.
    pub fn records_proximity(&self) -> bool {
        self.config.proximity && !self.sentences.is_empty()
    }

    /// Proximities of kept blocks `[n_heads, n_query_blocks, top_k]` as shares of their query block's sum over all heads and what
    /// stays `[n_query_blocks]`; nothing if none were recorded.
    pub fn shares_of_update(&self, mut proximity: Vec<f32>, stays: &[f32]) -> Vec<f32> {
        let (mut sums, top_k) = (stays.to_vec(), self.config.top_k.max(1));
        let n = sums.len().max(1);
        proximity.chunks(top_k).enumerate().for_each(|(row, near)| sums[row % n] += near.iter().sum::<f32>());
        let rows = proximity.chunks_mut(top_k).enumerate();
        rows.for_each(|(row, near)| near.iter_mut().for_each(|near| *near /= sums[row % n].max(f32::MIN_POSITIVE)));
        proximity
    }

    /// The key-value head that a query head reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_kv_heads)
    }

    /// Whether what was indexed for `n_tokens` serves the prompt as it is now: a search reads only blocks that were whole
    /// before its query block, and no other has become whole since.
    pub fn is_indexed(&self, n_tokens: usize) -> bool {
        let of = |blocks: Blocks| (blocks.n_query_blocks(), blocks.n_key_blocks());
        of(Blocks { n_tokens, ..self.blocks }) == of(self.blocks)
    }

    /// Query blocks of a chunk of rows.
    pub fn query_blocks(&self, first_query_block: usize, n_rows: usize) -> Range<usize> {
        first_query_block..first_query_block + n_rows.div_ceil(self.blocks.block_size_q)
    }
}
