//! How near what each kept block writes comes to what a query block's residual stream becomes, on a GPU.

use cudarc::driver::CudaEvent;

use super::{
    array::Array,
    gpu::Gpu,
    launch::sizes,
    module::{Kernel, Work},
    params::{Mask, ProximityParams, Rows},
    tensor::Tensor,
};
use crate::{engine::device::AttentionShape, error::Error, trace::BlockMask};

/// A layer's record of proximity.
pub struct Proximity {
    /// Attention of the last rows to each key of their kept blocks, row by row as the mask.
    pub shares: Array<f32>,
    /// As the mask's kept blocks.
    found: Array<f32>,
    /// `[n_query_blocks]`
    stays: Array<f32>,
}

/// A layer's other inputs of the kernel.
pub struct Around<'a> {
    pub mask: Mask,
    pub values: &'a Array<u16>,
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
        let n = shape.query_blocks_held();
        Ok(Some(Proximity { shares: gpu.zeros(0)?, found: gpu.zeros(0)?, stays: gpu.zeros(n)? }))
    }

    /// Makes room for masks of `n_kept` blocks.
    pub fn share_out(&mut self, gpu: &Gpu, n_kept: usize) -> Result<(), Error> {
        self.found = gpu.zeros(n_kept)?;
        Ok(())
    }

    /// Makes room for the shares of `n_keys` keys of some query blocks' kept blocks.
    pub fn expect(&mut self, gpu: &Gpu, n_keys: usize) -> Result<(), Error> {
        self.shares = gpu.zeros(n_keys)?;
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
    pub fn into_shares(
        self,
        gpu: &Gpu,
        done: &CudaEvent,
        shape: &AttentionShape,
        mask: &BlockMask,
    ) -> Result<Vec<f32>, Error> {
        let found = gpu.collect(done, &self.found, mask.kept.len())?;
        let stays = gpu.collect(done, &self.stays, shape.own_query_blocks().len())?;
        Ok(shape.shares_of_update(mask, found, &stays))
    }
}
