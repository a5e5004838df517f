//! Rotation of queries and keys by the angles of their positions.

use std::{ops::Range, sync::Arc};

use super::{
    Cuda,
    array::Array,
    gpu::Gpu,
    module::{Kernel, Work},
    operations::same,
    params::RopeParams,
    repeat::Place,
    tensor::Tensor,
};
use crate::{engine::model::rope::Rotary, error::Error};

/// Frequencies from which the rotary angles of a position are computed.
pub struct Angles {
    /// `[n_rotated / 2]`
    inverse_frequencies: Array<f64>,
    n_rotated: usize,
    head_dim: usize,
    scale: f64,
    /// Of the rows, if they are the last query block's wherever it is.
    pub place: Option<Arc<Place>>,
}

impl Angles {
    pub fn new(gpu: &Gpu, rotary: &Rotary) -> Result<Self, Error> {
        let inverse_frequencies = gpu.upload(&rotary.inverse_frequencies)?;
        let n_rotated = 2 * rotary.inverse_frequencies.len();
        let (head_dim, scale) = (rotary.head_dim, rotary.scale);
        Ok(Angles { inverse_frequencies, n_rotated, head_dim, scale, place: None })
    }
}

impl Cuda {
    /// As [`Device::rope`](crate::engine::device::Device::rope).
    pub(super) fn rotated(
        &self,
        x: &Tensor,
        norm: Option<(&Tensor, f64)>,
        positions: &[Range<usize>],
        angles: &Angles,
        scale: f32,
    ) -> Result<Tensor, Error> {
        let n_heads = x.width / angles.head_dim;
        let out = Tensor::new(&self.gpu, x.n_rows, x.width)?;
        let starts = match positions {
            [_] => None,
            _ => Some(self.gpu.upload(&positions.iter().map(|p| p.start as u32).collect::<Vec<_>>())?),
        };
        let first = positions.first().cloned().unwrap_or_default();
        same("positions", x.n_rows, positions.iter().map(Range::len).sum())?;
        let params = RopeParams {
            x: self.gpu.pointer(&x.data),
            norm_weight: norm.map(|(weight, _)| self.gpu.pointer(&weight.data)),
            frequency: self.gpu.pointer(&angles.inverse_frequencies),
            starts: match &angles.place {
                Some(place) => Some(place.first_row(&self.gpu)),
                None => starts.as_ref().map(|starts| self.gpu.pointer(starts)),
            },
            out: self.gpu.pointer(&out.data),
            n_heads: n_heads as i32,
            n_rotated: angles.n_rotated as i32,
            first_position: first.start as i32,
            stretch: first.len() as i32,
            eps: norm.map_or(0.0, |(_, eps)| eps as f32),
            turn: angles.scale as f32,
            scale,
        };
        let kernel = Kernel::new("rope", "rope").with("HEAD_DIM", angles.head_dim);
        // SAFETY: as the header of kernels/rope.cu says.
        unsafe { self.gpu.launch(&kernel, Work::new(x.n_rows, n_heads), &params)? };
        Ok(out)
    }
}
