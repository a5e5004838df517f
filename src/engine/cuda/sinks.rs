//! The learned sinks of a layer's heads, and the mass that falls on them.

use std::sync::Arc;

use super::{
    array::Array,
    gpu::Gpu,
    module::{Kernel, Work},
    params::OnSinkParams,
    pointer::DevicePointer,
};
use crate::{engine::device::AttentionShape, error::Error};

/// Logits beside the keys that have no value, one of each head.
pub struct Sinks {
    /// `[n_heads]`
    logits: Array<f32>,
    /// Mean mass over the queries of each block. `[n_heads, n_query_blocks]`
    pub mass: Array<f32>,
}

impl Sinks {
    /// Returns the sinks of a layer, if it has some.
    pub fn new(gpu: &Arc<Gpu>, shape: &AttentionShape) -> Result<Option<Self>, Error> {
        if shape.sinks.is_empty() {
            return Ok(None);
        }
        let mass = gpu.alloc(shape.n_heads * shape.query_blocks_held())?;
        Ok(Some(Sinks { logits: gpu.upload(&shape.sinks)?, mass }))
    }

    pub fn pointer(&self, gpu: &Gpu) -> DevicePointer<f32> {
        gpu.pointer(&self.logits)
    }

    /// Records the mass of rows whose log-sum-exp, with the sinks, is `lse`.
    pub fn record(
        &self,
        gpu: &Gpu,
        shape: &AttentionShape,
        lse: &Array<f32>,
        first_query_block: usize,
        n_rows: usize,
    ) -> Result<(), Error> {
        let (blocks, own) = (shape.blocks, shape.own_query_blocks());
        let params = OnSinkParams {
            lse: gpu.pointer(lse),
            sinks: gpu.pointer(&self.logits),
            mass: gpu.pointer(&self.mass),
            n_rows: n_rows as i32,
            block_size: blocks.block_size_q as i32,
            first_block: (first_query_block - own.start) as i32,
            n_query_blocks: own.len() as i32,
        };
        let work = Work::new(n_rows.div_ceil(blocks.block_size_q), shape.n_heads);
        // SAFETY: as the header of kernels/recall.cu says.
        unsafe { gpu.launch(&Kernel::new("recall", "on_sink"), work, &params) }
    }
}
