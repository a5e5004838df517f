//! How near what each kept block writes comes to what a query block's residual stream becomes, on a GPU.

use cudarc::driver::CudaSlice;

use super::{
    gpu::Gpu,
    launch::sizes,
    module::{Kernel, Work},
    params::{Mask, ProximityParams, Rows},
    tensor::Tensor,
};
use crate::{engine::device::AttentionShape, error::Error};

/// A layer's record of proximity.
pub struct Proximity {
    /// Attention of the last rows to each key of their kept blocks. `[n_heads, query blocks, top_k ·
    /// block_size_k]`
    pub shares: CudaSlice<f32>,
    /// `[n_heads, n_query_blocks, top_k]`
    found: CudaSlice<f32>,
    /// `[n_query_blocks]`
    stays: CudaSlice<f32>,
}

/// A layer's other inputs of the kernel.
pub struct Around<'a> {
    pub mask: Mask,
    pub values: &'a CudaSlice<u16>,
    /// The output layer's.
    pub weight: &'a Tensor,
    /// Rows of the residual stream before attention and after.
    pub before: &'a Tensor,
    pub after: &'a Tensor,
}

impl Proximity {
    /// Returns an empty record; `None` if proximity is not recorded.
    pub fn new(gpu: &Gpu, shape: &AttentionShape) -> Result<Option<Self>, Error> {
        if !shape.records_proximity() {
            return Ok(None);
        }
        let n = shape.capacity.div_ceil(shape.blocks.block_size_q);
        let found = gpu.zeros(shape.n_heads * n * shape.config.top_k)?;
        Ok(Some(Proximity { shares: gpu.zeros(0)?, found, stays: gpu.zeros(n)? }))
    }

    /// Makes room for the shares of `n_blocks` query blocks.
    pub fn expect(&mut self, gpu: &Gpu, shape: &AttentionShape, n_blocks: usize) -> Result<(), Error> {
        self.shares = gpu.zeros(shape.n_heads * n_blocks * shape.config.top_k * shape.blocks.block_size_k)?;
        Ok(())
    }

    /// Records the blocks of the rows that were attended last.
    pub fn add(
        &mut self,
        gpu: &Gpu,
        shape: &AttentionShape,
        around: Around,
        first: usize,
    ) -> Result<(), Error> {
        let kernel = Kernel::new("proximity", "proximity")
            .with("HEAD_DIM", shape.head_dim)
            .with("BLOCK_Q", shape.blocks.block_size_q)
            .with("BLOCK_K", shape.blocks.block_size_k);
        let n_blocks = shape.query_blocks(first, around.after.n_rows).len();
        let params = ProximityParams {
            shares: gpu.pointer(&self.shares),
            mask: around.mask,
            values: gpu.pointer(around.values),
            weight: gpu.pointer(&around.weight.data),
            before: gpu.pointer(&around.before.data),
            after: gpu.pointer(&around.after.data),
            out: gpu.pointer(&self.found),
            stays: gpu.pointer(&self.stays),
            rows: Rows { first_block: first as i32, n_rows: around.after.n_rows as i32 },
            sizes: sizes(shape),
            hidden: around.after.width as i32,
        };
        // SAFETY: as the header of kernels/proximity.cu says; `expect` made room for the shares of these
        // blocks.
        unsafe { gpu.launch(&kernel, Work::new(n_blocks, shape.n_heads), &params) }
    }

    /// Returns the shares that [`LayerRecord::proximity`](crate::trace::LayerRecord) holds.
    pub fn into_shares(self, gpu: &Gpu, shape: &AttentionShape) -> Result<Vec<f32>, Error> {
        let n = shape.blocks.n_query_blocks();
        let found = gpu.download(&self.found, shape.n_heads * n * shape.config.top_k)?;
        Ok(shape.shares_of_update(found, &gpu.download(&self.stays, n)?))
    }
}
