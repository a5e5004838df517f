//! Lengths of what each key's value writes to the residual stream, for each head of a layer on a GPU.

use super::{
    array::Array,
    gpu::Gpu,
    module::{Kernel, Work},
    params::{GramParams, WrittenOfBlocksParams, WrittenParams},
    tensor::Tensor,
};
use crate::{engine::device::AttentionShape, error::Error};

/// ‖W_O v‖ of every head and key. `[n_heads, n_tokens]`
pub struct Written(Array<f32>);

impl Written {
    /// Computes the lengths; `weight` is `[hidden_size, n_heads · head_dim]`, `values` `[n_tokens,
    /// n_kv_heads, head_dim]`.
    pub fn new(
        gpu: &Gpu,
        shape: &AttentionShape,
        weight: &Tensor,
        values: &Array<u16>,
    ) -> Result<Self, Error> {
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, .. } = *shape;
        let gram = gpu.alloc::<u16>(n_heads * 2 * head_dim * head_dim)?;
        let lengths = gpu.alloc::<f32>(n_heads * blocks.n_tokens)?;
        let of_heads = GramParams {
            weight: gpu.pointer(&weight.data),
            gram: gpu.pointer(&gram),
            hidden: weight.n_rows as i32,
        };
        let of_keys = WrittenParams {
            values: gpu.pointer(values),
            gram: gpu.pointer(&gram),
            out: gpu.pointer(&lengths),
            n_tokens: blocks.n_tokens as i32,
            n_kv_heads: n_kv_heads as i32,
        };
        // SAFETY: as the header of kernels/written.cu says; all values were appended.
        unsafe {
            gpu.launch(&kernel("gram", shape), Work::new(head_dim, n_heads), &of_heads)?;
            gpu.launch(&kernel("written", shape), Work::new(blocks.n_tokens, n_heads), &of_keys)?;
        }
        Ok(Written(lengths))
    }

    /// Returns the means over the keys of each block, weighted by what they `received` `[n_heads, n_tokens]`.
    /// `[n_heads, n_key_blocks]`
    pub fn means_of_blocks(
        &self,
        gpu: &Gpu,
        shape: &AttentionShape,
        received: &Array<f32>,
    ) -> Result<Array<f32>, Error> {
        let AttentionShape { blocks, n_heads, .. } = *shape;
        let n = blocks.n_key_blocks();
        let means = gpu.alloc::<f32>(n_heads * n)?;
        let params = WrittenOfBlocksParams {
            lengths: gpu.pointer(&self.0),
            received: gpu.pointer(received),
            means: gpu.pointer(&means),
            n_tokens: blocks.n_tokens as i32,
            block_size: blocks.block_size_k as i32,
        };
        // SAFETY: as the header of kernels/written.cu says.
        unsafe { gpu.launch(&kernel("written_of_blocks", shape), Work::new(n, n_heads), &params)? };
        Ok(means)
    }
}

/// Returns a kernel of written.cu for the layer's heads.
fn kernel(entry: &'static str, shape: &AttentionShape) -> Kernel {
    Kernel::new("written", entry).with("HEAD_DIM", shape.head_dim)
}
