//! How near what each kept block writes comes to what a query block's residual stream becomes, on a GPU.

use cudarc::driver::CudaSlice;

use super::{
    gpu::{Arg, Gpu, Kernel, Launch},
    tensor::Tensor,
};
use crate::{engine::device::AttentionShape, error::Error};

/// Threads of kernels/proximity.cu.
const THREADS: usize = 256;

/// What is recorded of a layer.
pub struct Proximity {
    /// What the queries attended last gave to each key of their kept blocks. `[n_heads, query blocks, top_k · block_size_k]`
    pub shares: CudaSlice<f32>,
    /// `[n_heads, n_query_blocks, top_k]`
    found: CudaSlice<f32>,
    /// `[n_query_blocks]`
    stays: CudaSlice<f32>,
}

/// What the kernel reads of a layer beside the shares.
pub struct Around<'a> {
    pub kept: &'a CudaSlice<u32>,
    pub values: &'a CudaSlice<u16>,
    /// The output layer's.
    pub weight: &'a Tensor,
    /// Rows of the residual stream before attention and after.
    pub before: &'a Tensor,
    pub after: &'a Tensor,
}

impl Proximity {
    /// Nothing if it is not asked for.
    pub fn new(gpu: &Gpu, shape: &AttentionShape) -> Result<Option<Self>, Error> {
        if !shape.records_proximity() {
            return Ok(None);
        }
        let n = shape.capacity.div_ceil(shape.blocks.block_size_q);
        let found = gpu.zeros(shape.n_heads * n * shape.config.top_k)?;
        Ok(Some(Proximity { shares: gpu.zeros(0)?, found, stays: gpu.zeros(n)? }))
    }

    /// Makes room for the shares of so many query blocks.
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
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, config, .. } = shape;
        let macros =
            vec![("HEAD_DIM", *head_dim), ("BLOCK_Q", blocks.block_size_q), ("BLOCK_K", blocks.block_size_k)];
        let n_blocks = shape.query_blocks(first, around.after.n_rows).len();
        let mut args = vec![gpu.pointer(&self.shares), gpu.pointer(around.kept), gpu.pointer(around.values)];
        args.extend([around.weight, around.before, around.after].map(|x| gpu.pointer(&x.data)));
        args.extend([&self.found, &self.stays].map(|x| gpu.pointer(x)));
        let sizes = [
            first,
            around.after.n_rows,
            blocks.n_query_blocks(),
            blocks.n_tokens,
            *n_kv_heads,
            config.top_k,
            around.after.width,
        ];
        args.extend(sizes.map(|n| Arg::Int(n as i32)));
        let launch = Launch { grid: (n_blocks, *n_heads), block: (THREADS, 1), shared: 0 };
        // SAFETY: as the header of kernels/proximity.cu says; `expect` made room for the shares of these blocks.
        unsafe { gpu.launch(&Kernel { file: "proximity", entry: "proximity", macros }, launch, &args) }
    }

    /// What [`LayerRecord::proximity`](crate::trace::LayerRecord) holds.
    pub fn into_shares(self, gpu: &Gpu, shape: &AttentionShape) -> Result<Vec<f32>, Error> {
        let n = shape.blocks.n_query_blocks();
        let found = gpu.download(&self.found, shape.n_heads * n * shape.config.top_k)?;
        Ok(shape.shares_of_update(found, &gpu.download(&self.stays, n)?))
    }
}
