//! What happens to the attention of each layer while a prompt goes through the decoder.

use crate::{
    engine::device::{Device, StageCosts},
    error::Error,
    trace::{BlockMask, Blocks, LayerRecord},
};

/// A chunk of a layer's queries, and what they can attend to.
pub(super) struct Queries<'a, D: Device> {
    pub layer: usize,
    pub attention: &'a mut D::Attention,
    /// `[n_rows, n_heads · head_dim]`
    pub rows: &'a D::Tensor,
    /// The query block that they start at.
    pub first: usize,
}

/// What happens to each layer's attention: the one thing in which a sparse and a dense run differ.
pub(super) trait Visitor<D: Device> {
    /// Attention of a chunk of queries. `[n_rows, n_heads · head_dim]`
    fn attend(&mut self, device: &D, queries: Queries<D>) -> Result<D::Tensor, Error>;

    /// Takes the attention once all chunks are through, and the mean lengths of the residual stream before it. `[n_query_blocks]`
    fn finish(
        &mut self,
        device: &D,
        layer: usize,
        attention: D::Attention,
        residual: Vec<f32>,
    ) -> Result<(), Error>;
}

/// Searches, attends to what was kept, and records it.
pub(super) struct Sparse<'a, F> {
    pub costs: &'a mut StageCosts,
    pub on_layer: F,
}

impl<D: Device, F: FnMut(usize, LayerRecord) -> Result<(), Error>> Visitor<D> for Sparse<'_, F> {
    fn attend(&mut self, device: &D, queries: Queries<D>) -> Result<D::Tensor, Error> {
        search_and_attend(device, queries)
    }

    fn finish(
        &mut self,
        device: &D,
        layer: usize,
        mut attention: D::Attention,
        residual: Vec<f32>,
    ) -> Result<(), Error> {
        *self.costs += device.costs(&mut attention)?;
        (self.on_layer)(layer, LayerRecord { residual, ..device.record(attention)? })
    }
}

/// Attends to everything and measures how much of it falls on a mask.
pub(super) struct Dense<M, F> {
    mask: M,
    current: Option<(BlockMask, Vec<f64>)>,
    on_layer: F,
}

impl<M, F> Dense<M, F> {
    /// `mask` gives the blocks of a layer, `on_layer` takes the mass that falls on them, by head.
    pub fn new(mask: M, on_layer: F) -> Self {
        Dense { mask, current: None, on_layer }
    }
}

impl<D: Device, M, F> Visitor<D> for Dense<M, F>
where
    M: FnMut(usize) -> Result<BlockMask, Error>,
    F: FnMut(usize, Vec<f64>),
{
    fn attend(&mut self, device: &D, queries: Queries<D>) -> Result<D::Tensor, Error> {
        let (mask, kept_mass) = match &mut self.current {
            Some(current) => current,
            none => {
                let mask = (self.mask)(queries.layer)?;
                let kept_mass = vec![0.0; mask.n_heads];
                none.insert((mask, kept_mass))
            }
        };
        device.attend_dense(queries.attention, queries.rows, queries.first, mask, kept_mass)
    }

    fn finish(&mut self, _: &D, layer: usize, _: D::Attention, _: Vec<f32>) -> Result<(), Error> {
        if let Some((_, kept_mass)) = self.current.take() {
            (self.on_layer)(layer, kept_mass);
        }
        Ok(())
    }
}

/// Runs sparsely, and measures on some query blocks how much of the dense mass falls on a mask.
pub(super) struct Sampled<'a, M, F> {
    pub costs: &'a mut StageCosts,
    pub blocks: Blocks,
    /// Rows of a chunk of queries.
    pub chunk: usize,
    /// Query blocks.
    pub sample: &'a [usize],
    pub dense: Dense<M, F>,
}

impl<D: Device, M, F> Visitor<D> for Sampled<'_, M, F>
where
    M: FnMut(usize) -> Result<BlockMask, Error>,
    F: FnMut(usize, Vec<f64>),
{
    fn attend(&mut self, device: &D, queries: Queries<D>) -> Result<D::Tensor, Error> {
        let Queries { layer, attention, rows, first } = queries;
        let output = search_and_attend(device, Queries { layer, attention, rows, first })?;
        let start = self.blocks.queries(first).start;
        let here = start..start + self.chunk;
        for &first in self.sample {
            let block = self.blocks.queries(first);
            if here.contains(&block.start) {
                let rows = &device.rows(rows, block.start - start..block.end - start)?;
                self.dense.attend(device, Queries { layer, attention, rows, first })?;
            }
        }
        Ok(output)
    }

    fn finish(
        &mut self,
        device: &D,
        layer: usize,
        mut attention: D::Attention,
        residual: Vec<f32>,
    ) -> Result<(), Error> {
        *self.costs += device.costs(&mut attention)?;
        self.dense.finish(device, layer, attention, residual)
    }
}

/// Attention of a chunk of queries over what the search keeps.
pub(super) fn search_and_attend<D: Device>(device: &D, queries: Queries<D>) -> Result<D::Tensor, Error> {
    let Queries { attention, rows, first, .. } = queries;
    device.search(attention, rows, first)?;
    device.attend(attention, rows, first)
}
