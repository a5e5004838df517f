//! The operations that the decoder needs of a device. Each device implements them once; the decoder is
//! written once.

mod costs;
mod rates;
mod repeat;
mod routes;
mod shape;
mod sizes;

use std::{ops::Range, sync::Arc};

use safetensors::tensor::TensorView;

use super::{
    model::{
        Linear, Mlp,
        config::{Activation, ModelConfig},
        experts::Routing,
        rope::Rotary,
        weight::Weight,
    },
    peers::Peers,
    search::by_head::Survey,
};
use crate::{
    error::Error,
    protocol::{Hidden, MemoryPlan},
    trace::{BlockMask, Budgets, LayerRecord, StreamConfig},
};
pub use costs::{Purpose, StageCosts};
pub use rates::{Rates, rates};
pub use repeat::Repeat;
pub use routes::Routes;
pub use shape::AttentionShape;
pub use sizes::{Sizes, in_layers};

/// A processor that runs a decoder. Activations are chunks of the prompt, `[n_rows, width]`.
pub trait Device: Sized + Sync {
    /// Activations or weights on the device.
    type Tensor: Send + Sync;
    /// The residual stream between layers, in chunks of rows.
    type Residual;
    /// A point in the device's work, with whether the residual stream is finite there.
    type Mark;
    /// Rotary angles of every position.
    type Angles;
    /// Keys and values of one layer, and all that search and attention make of them.
    type Layer: LayerAttention<Tensor = Self::Tensor, Repeater = Self::Repeater>;
    /// The experts that rows take. A row taken by an expert has a place; those of an expert follow each other.
    type Routes;
    /// Does work again that it keeps.
    type Repeater: Repeat<Self>;

    /// Whether [`LayerAttention::step`] takes a row through attention alone.
    const STEPS: bool = false;

    /// "cpu", or the GPU's name.
    fn name(&self) -> String;

    /// Memory that a run of `model` over `n_tokens` will hold on the device at its peak. `config.top_k` is
    /// the one that will be used.
    fn plan(
        &self,
        model: &ModelConfig,
        n_tokens: usize,
        config: &StreamConfig,
        purpose: Purpose,
        room: Room,
    ) -> Result<MemoryPlan, Error>;

    /// Connects the device with those of all ranks, which call it together.
    fn connect(&mut self, _peers: &Arc<Peers>) -> Result<(), Error> {
        Ok(())
    }

    /// Stops waiting for the devices of other ranks, of which one has failed.
    fn abandon(&self) {}

    /// Takes the memory of a run from the system, where the device can, and starts a new measurement of the
    /// peak.
    fn reserve(&self, bytes: u64) -> Result<(), Error>;

    /// Most memory held since [`Device::reserve`], in bytes; 0 where it cannot be measured.
    fn peak(&self) -> u64;

    /// Brings numbers to the device.
    fn tensor(&self, numbers: &TensorView) -> Result<Self::Tensor, Error>;

    /// Brings a weight to the device.
    fn weight(&self, weight: &Weight) -> Result<Self::Tensor, Error>;

    /// Takes a weight for products of a few rows: where it lies in its file, if the device multiplies there.
    fn weight_in_file(&self, weight: &Weight) -> Result<Self::Tensor, Error> {
        self.weight(weight)
    }

    /// Memory for a weight, to be filled.
    fn room(&self, weight: &Weight) -> Result<Self::Tensor, Error>;

    /// Brings weights into the memory of [`Device::room`], all of them together.
    fn fill(&self, rooms: Vec<(&mut Self::Tensor, &Weight)>) -> Result<(), Error> {
        rooms.into_iter().try_for_each(|(room, weight)| {
            *room = self.weight(weight)?;
            Ok(())
        })
    }

    /// Lets [`Device::refill`] write to rooms that were just made, once the work before has left their memory.
    fn rooms_made(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Brings weights into the memory of ones of the same shapes that are not needed any more, while the device works
    /// on; returns once they are there.
    fn refill(&self, rooms: Vec<(&mut Self::Tensor, &Weight)>) -> Result<(), Error> {
        self.fill(rooms)
    }

    /// An empty residual stream, kept in the host's memory if `on_host`.
    fn residual(&self, on_host: bool) -> Result<Self::Residual, Error>;

    /// Puts chunk `i` in its place, or at the end if it is the next one.
    fn put(&self, residual: &mut Self::Residual, i: usize, x: Self::Tensor) -> Result<(), Error>;

    /// Chunk `i`, on the device.
    fn chunk(&self, residual: &Self::Residual, i: usize) -> Result<Self::Tensor, Error>;

    /// Marks what the device has been given so far. The mark before the last must have been waited for.
    fn mark(&self, residual: &mut Self::Residual) -> Result<Self::Mark, Error>;

    /// Waits for a mark; returns whether every number put before it is below [`TOO_LARGE`]: no NaN, no
    /// infinity, nothing that a norm would lose.
    fn is_finite(&self, mark: Self::Mark) -> Result<bool, Error>;

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

    /// `x + y`.
    fn add(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// Zeros in the shape of `x`.
    fn zeros_like(&self, x: &Self::Tensor) -> Result<Self::Tensor, Error>;

    /// Chooses the experts that each row takes, by the logits that `router`, `[n_experts, width]`, gives it;
    /// `correction` is as of [`Routes::new`].
    fn route(
        &self,
        x: &Self::Tensor,
        router: &Linear<Self::Tensor>,
        routing: &Routing,
        correction: &[f32],
    ) -> Result<Self::Routes, Error>;

    /// The experts of each row, those with the highest scores first. `[n_rows, top_k]`
    fn chosen(&self, routes: &Self::Routes) -> Result<Vec<u16>, Error>;

    /// What `experts` write for the rows that take them, times their weights, summed for each row; `None` where they
    /// are not there, but loaded when rows have chosen them.
    fn mixed(
        &self,
        _x: &Self::Tensor,
        _routes: &Self::Routes,
        _experts: &[Mlp<Self::Tensor>],
        _activation: Activation,
    ) -> Result<Option<Self::Tensor>, Error> {
        Ok(None)
    }

    /// Rows that each expert takes. `[n_experts]`
    fn counts(&self, routes: &Self::Routes) -> Result<Vec<usize>, Error>;

    /// A copy of the rows in some places, at least one.
    fn gathered(
        &self,
        x: &Self::Tensor,
        routes: &Self::Routes,
        places: Range<usize>,
    ) -> Result<Self::Tensor, Error>;

    /// Adds what an expert wrote for the rows in some of its places, times their weights, to these rows of `sum`,
    /// which nothing else holds.
    fn add_scattered(
        &self,
        sum: &mut Self::Tensor,
        part: &Self::Tensor,
        routes: &Self::Routes,
        places: Range<usize>,
    ) -> Result<(), Error>;

    /// Each row of `y` times `sigmoid(gate · x)` of the same row of `x`; `gate` is `[1, width]`.
    fn times_sigmoid(
        &self,
        y: Self::Tensor,
        x: &Self::Tensor,
        gate: &Self::Tensor,
    ) -> Result<Self::Tensor, Error>;

    /// The angles of `n_tokens` positions.
    fn angles(&self, n_tokens: usize, rotary: &Rotary) -> Result<Self::Angles, Error>;

    /// Rotates each head's pairs of dimensions by the angles of their positions, stretches of equal length but
    /// for the last, after an RMS norm of each
    /// head if `norm` gives its weight `[head_dim]` and eps, and multiplies all by `scale`. `x` is `[n_rows,
    /// n_heads · head_dim]`.
    fn rope(
        &self,
        x: &Self::Tensor,
        norm: Option<(&Self::Tensor, f64)>,
        positions: &[Range<usize>],
        angles: &Self::Angles,
        scale: f32,
    ) -> Result<Self::Tensor, Error>;

    /// A copy of some rows, one stretch after the other.
    fn rows(&self, x: &Self::Tensor, stretches: &[Range<usize>]) -> Result<Self::Tensor, Error>;

    /// All numbers, row by row.
    fn to_host(&self, x: &Self::Tensor) -> Result<Vec<f32>, Error>;

    /// Room for the attention of one layer.
    fn layer(&self, shape: AttentionShape) -> Result<Self::Layer, Error>;

    /// What keeps work, if the device does.
    fn repeater(&self) -> Result<Option<Self::Repeater>, Error> {
        Ok(None)
    }
}

/// What a run may take of a device.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// In bytes; all that is free if not set, and what weights from the runs before take.
    pub limit: Option<u64>,
    /// Bytes that these weights take.
    pub kept: u64,
    /// Ranks that share out the rows, each with a device of its own.
    pub n_ranks: usize,
}

/// The attention of one layer: it takes keys and values of the whole prompt, then chunks of queries, and
/// leaves a record.
///
/// Queries are `[n_rows, n_heads · head_dim]`, and start at query block `first_query_block`.
pub trait LayerAttention {
    /// Activations or weights on the device.
    type Tensor;
    /// As of the device.
    type Repeater;

    /// Adds the next rows of keys and values, `[n_rows, n_kv_heads · head_dim]`.
    fn append(&mut self, keys: &Self::Tensor, values: &Self::Tensor) -> Result<(), Error>;

    /// Keeps the first `n_rows` rows of keys and values; from now on the prompt has `n_tokens`, at most the
    /// capacity.
    fn resize(&mut self, n_rows: usize, n_tokens: usize);

    /// Takes the rows that come for those of the last query block, wherever a repeater says it is, and measures nothing; or
    /// no longer.
    fn follow(&mut self, repeater: Option<&Self::Repeater>);

    /// Gives the other ranks the keys and values that were added, and takes theirs; called once all of this rank's
    /// are there.
    fn gather(&mut self) -> Result<(), Error>;

    /// Prepares the search, once all keys are there; samples do not need it.
    fn index(&mut self) -> Result<(), Error>;

    /// Reads every key for some query blocks, whose rows the queries are, and keeps the mean mass of each
    /// block's queries on each key block.
    fn sample(&mut self, queries: &Self::Tensor, query_blocks: &[usize]) -> Result<(), Error>;

    /// Starts to count what the sampled query blocks of this rank look at; a call waits for it.
    fn survey(&mut self) -> Result<Coming<Survey>, Error>;

    /// Starts what of a search for these queries needs no budgets, if the device has such a thing.
    fn search_ahead(&mut self, _queries: &Self::Tensor, _first_query_block: usize) -> Result<(), Error> {
        Ok(())
    }

    /// Makes room for masks with these budgets, and empties them.
    fn share_out(&mut self, budgets: Budgets) -> Result<(), Error>;

    /// Takes ‖W_O v‖ of every head and key, once all values are there; `weight` is the output layer's
    /// `[hidden_size, n_heads · head_dim]`.
    fn weigh(&mut self, weight: &Self::Tensor) -> Result<(), Error>;

    /// Takes the lengths of the next rows of the residual stream before the layer, whole query blocks.
    fn measure(&mut self, hidden: &Self::Tensor) -> Result<(), Error>;

    /// Finds the key blocks that each query block keeps.
    fn search(&mut self, queries: &Self::Tensor, first_query_block: usize) -> Result<(), Error>;

    /// Attention over the kept blocks, recorded. `[n_rows, n_heads · head_dim]`
    fn attend(&mut self, queries: &Self::Tensor, first_query_block: usize) -> Result<Self::Tensor, Error>;

    /// Records how near each kept block's contribution comes to the change of the residual stream, for the
    /// queries attended last, if the settings ask for it. `before` and `after` are its rows around attention
    /// `[n_rows, hidden_size]`, `weight` is the output layer's.
    fn proximity(
        &mut self,
        weight: &Self::Tensor,
        before: &Self::Tensor,
        after: &Self::Tensor,
        first_query_block: usize,
    ) -> Result<(), Error>;

    /// Keeps the blocks of a mask instead of searching.
    fn keep(&mut self, mask: BlockMask) -> Result<(), Error>;

    /// Attention over the kept blocks without the edges in `hidden`; nothing is recorded.
    fn attend_without(
        &mut self,
        queries: &Self::Tensor,
        first_query_block: usize,
        hidden: &Hidden,
    ) -> Result<Self::Tensor, Error>;

    /// Attention of the prompt's last row `[1, n_heads · head_dim]`, whose keys and values are there: over all
    /// keys if `dense`, else over the blocks that the search keeps for its query block. Returns `None` if
    /// with it the block's other rows keep other blocks than before: they must run again, with it.
    fn step(&mut self, _query: &Self::Tensor, _dense: bool) -> Result<Option<Self::Tensor>, Error> {
        Ok(None)
    }

    /// Attention over all keys. If `measured` gives a mask and sums `[n_heads]`, adds to each head's sum the
    /// mass, summed over queries, on the mask's blocks.
    fn attend_dense(
        &mut self,
        queries: &Self::Tensor,
        first_query_block: usize,
        measured: Option<(&BlockMask, &mut [f64])>,
    ) -> Result<Self::Tensor, Error>;

    /// Ends the layer; returns the record of its sparse attention and what it cost, to be collected in any
    /// thread while the device goes on.
    fn into_record(self) -> Result<impl Collect + 'static, Error>;
}

/// Something that is still on its way to the host: a call waits for it.
pub type Coming<T> = Box<dyn FnOnce() -> Result<T, Error>>;

/// A record that is still on the device: a call brings it to the host.
pub trait Collect: FnOnce() -> Result<(LayerRecord, StageCosts), Error> + Send {}

impl<F: FnOnce() -> Result<(LayerRecord, StageCosts), Error> + Send> Collect for F {}

/// Rows of the output layer that are on the device together.
pub const VOCABULARY_CHUNK: usize = 16_384;

/// 2⁵⁶: the squares of smaller numbers can be summed over 65,536 dimensions. Beyond, a norm divides by
/// infinity, and what it leaves is 0.
pub const TOO_LARGE: f32 = (1u64 << 56) as f32;

/// L1 proximity of a part to the whole (Ferrando & Voita 2024): max(‖whole‖₁ − ‖whole − part‖₁, 0).
pub fn near(whole: &[f32], part: &[f32]) -> f32 {
    whole.iter().zip(part).map(|(y, part)| y.abs() - (y - part).abs()).sum::<f32>().max(0.0)
}
