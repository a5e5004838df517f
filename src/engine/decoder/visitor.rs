//! Runs of the decoder differ in their attention alone: a visitor computes it and takes what each layer
//! leaves.

use std::slice;

use crate::{
    engine::device::{Device, LayerAttention, StageCosts},
    error::Error,
    protocol::Hidden,
    trace::{BlockMask, Blocks, LayerRecord},
};

/// A chunk of a layer's queries, and what they can attend to.
pub(super) struct QueryChunk<'a, D: Device> {
    pub layer: usize,
    pub attention: &'a mut D::Layer,
    /// `[n_rows, n_heads · head_dim]`
    pub rows: &'a D::Tensor,
    /// The query block that they start at.
    pub first: usize,
    /// The row after the last one.
    pub end: usize,
}

impl<D: Device> QueryChunk<'_, D> {
    /// Returns what they attend to, all keys or those that the search keeps; nothing is recorded.
    pub fn attended(self, dense: bool) -> Result<D::Tensor, Error> {
        if dense {
            return self.attention.attend_dense(self.rows, self.first, None);
        }
        self.attention.search(self.rows, self.first)?;
        self.attention.attend_without(self.rows, self.first, &Hidden::default())
    }
}

/// How far a layer is.
pub enum Reached<T> {
    /// Its rows before this one are through the attention.
    Row(usize),
    /// It is done, and leaves this.
    End(T),
}

impl<T> Reached<T> {
    /// Returns what the layer left, if it is done.
    pub fn end(self) -> Option<T> {
        match self {
            Reached::End(left) => Some(left),
            Reached::Row(_) => None,
        }
    }
}

/// Computes the attention of each layer: the one thing in which a sparse and a dense run differ.
pub(super) trait Visitor<D: Device> {
    /// Computes the attention of a chunk of queries. `[n_rows, n_heads · head_dim]`
    fn attend(&mut self, device: &D, queries: QueryChunk<D>) -> Result<D::Tensor, Error>;

    /// Takes the attention once all chunks are through, and the experts that rows took, if they are recorded.
    /// `[n_tokens, per_token]`
    fn finish(&mut self, layer: usize, attention: D::Layer, experts: Vec<u16>) -> Result<(), Error>;
}

/// A layer's record and what it cost, which a call brings to the host; the call may be in another thread, while
/// the next layer runs.
pub type Pending = Box<dyn FnOnce() -> Result<(LayerRecord, StageCosts), Error> + Send>;

/// Searches, attends to what was kept, and records it.
pub(super) struct Sparse<F> {
    pub on_layer: F,
}

impl<D: Device, F: FnMut(usize, Reached<Pending>) -> Result<(), Error>> Visitor<D> for Sparse<F> {
    fn attend(&mut self, _: &D, queries: QueryChunk<D>) -> Result<D::Tensor, Error> {
        let (layer, end) = (queries.layer, queries.end);
        let output = search_and_attend(queries)?;
        (self.on_layer)(layer, Reached::Row(end))?;
        Ok(output)
    }

    fn finish(&mut self, layer: usize, attention: D::Layer, experts: Vec<u16>) -> Result<(), Error> {
        let collect = attention.into_record()?;
        let with_experts = |(record, costs)| (LayerRecord { experts, ..record }, costs);
        (self.on_layer)(layer, Reached::End(Box::new(move || collect().map(with_experts))))
    }
}

/// Attends to everything and measures the mass that falls on a mask, if there is one.
pub(super) struct Dense<M, F> {
    mask: M,
    /// Of the layer at hand, once its first chunk came: its mask, if it has one, and the sums by head.
    current: Option<Option<(BlockMask, Vec<f64>)>>,
    on_layer: F,
}

impl<M, F> Dense<M, F> {
    /// Makes the visitor; `mask` gives the blocks of a layer, if any; `on_layer` takes the mass that falls on
    /// them, by head.
    pub fn new(mask: M, on_layer: F) -> Self {
        Dense { mask, current: None, on_layer }
    }
}

impl<D: Device, M, F> Visitor<D> for Dense<M, F>
where
    M: FnMut(usize) -> Result<Option<BlockMask>, Error>,
    F: FnMut(usize, Reached<Vec<f64>>),
{
    fn attend(&mut self, _: &D, queries: QueryChunk<D>) -> Result<D::Tensor, Error> {
        let measured = match &mut self.current {
            Some(measured) => measured,
            none => none.insert((self.mask)(queries.layer)?.map(|mask| {
                let kept_mass = vec![0.0; mask.n_heads()];
                (mask, kept_mass)
            })),
        };
        let measured = measured.as_mut().map(|(mask, kept_mass)| (&*mask, &mut kept_mass[..]));
        let output = queries.attention.attend_dense(queries.rows, queries.first, measured)?;
        (self.on_layer)(queries.layer, Reached::Row(queries.end));
        Ok(output)
    }

    fn finish(&mut self, layer: usize, _: D::Layer, _: Vec<u16>) -> Result<(), Error> {
        let measured = self.current.take().flatten();
        (self.on_layer)(layer, Reached::End(measured.map_or(Vec::new(), |(_, kept_mass)| kept_mass)));
        Ok(())
    }
}

/// Runs sparsely, and measures on some query blocks how much of the dense mass falls on a mask.
pub(super) struct Sampled<'a, M, F> {
    pub blocks: Blocks,
    /// Rows of a chunk of queries.
    pub chunk: usize,
    /// Query blocks.
    pub sample: &'a [usize],
    pub dense: Dense<M, F>,
}

impl<D: Device, M, F> Visitor<D> for Sampled<'_, M, F>
where
    M: FnMut(usize) -> Result<Option<BlockMask>, Error>,
    F: FnMut(usize, Reached<Vec<f64>>),
{
    fn attend(&mut self, device: &D, queries: QueryChunk<D>) -> Result<D::Tensor, Error> {
        let QueryChunk { layer, attention, rows, first, end } = queries;
        let output = search_and_attend::<D>(QueryChunk { layer, attention, rows, first, end })?;
        let start = self.blocks.queries(first).start;
        let here = start..start + self.chunk;
        for &first in self.sample {
            let block = self.blocks.queries(first);
            if here.contains(&block.start) {
                let of_block = block.start - start..block.end - start;
                let rows = &device.rows(rows, slice::from_ref(&of_block))?;
                Visitor::<D>::attend(
                    &mut self.dense,
                    device,
                    QueryChunk { layer, attention, rows, first, end },
                )?;
            }
        }
        Ok(output)
    }

    fn finish(&mut self, layer: usize, attention: D::Layer, experts: Vec<u16>) -> Result<(), Error> {
        Visitor::<D>::finish(&mut self.dense, layer, attention, experts)
    }
}

/// Computes the attention of a chunk of queries over the blocks that the search keeps.
pub(super) fn search_and_attend<D: Device>(queries: QueryChunk<D>) -> Result<D::Tensor, Error> {
    let QueryChunk { attention, rows, first, .. } = queries;
    attention.search(rows, first)?;
    attention.attend(rows, first)
}
