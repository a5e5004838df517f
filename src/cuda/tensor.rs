//! Activations and weights on the card: bf16, row by row.

use cudarc::driver::CudaSlice;
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

use super::gpu::Gpu;
use crate::error::Error;

/// `[n_rows, width]` bf16; a vector is one row.
pub struct Tensor {
    pub data: CudaSlice<u16>,
    pub n_rows: usize,
    pub width: usize,
}

impl Tensor {
    /// Content not set.
    pub fn new(gpu: &Gpu, n_rows: usize, width: usize) -> Result<Self, Error> {
        if !width.is_multiple_of(8) {
            let what = format!("rows of {width} numbers; the kernels need a multiple of 8");
            return Err(Error::Device { device: gpu.name.clone(), what, fix: "choose the CPU".into() });
        }
        Ok(Tensor { data: gpu.alloc(n_rows * width)?, n_rows, width })
    }

    pub(super) fn len(&self) -> usize {
        self.n_rows * self.width
    }

    /// A weight of any floating-point type.
    pub fn upload(gpu: &Gpu, view: &TensorView) -> Result<Self, Error> {
        let (n_rows, width) = match view.shape() {
            [width] => (1, *width),
            shape => (shape[0], shape[1..].iter().product()),
        };
        let mut tensor = Tensor::new(gpu, n_rows, width)?;
        let bytes = view.data();
        match view.dtype() {
            Dtype::BF16 => gpu.upload_bytes(bytes, &mut tensor.data)?,
            dtype => gpu.upload_bytes(&converted(dtype, bytes)?, &mut tensor.data)?,
        }
        Ok(tensor)
    }

    pub fn to_host(&self, gpu: &Gpu) -> Result<Vec<f32>, Error> {
        Ok(gpu.download(&self.data, self.len())?.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect())
    }
}

/// The same numbers in bf16.
fn converted(dtype: Dtype, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let rounded = |x: f32| bf16::from_f32(x).to_le_bytes();
    match dtype {
        Dtype::F16 => Ok(bytes.chunks_exact(2).flat_map(|b| rounded(f16::from_le_bytes([b[0], b[1]]).to_f32())).collect()),
        Dtype::F32 => Ok(bytes.chunks_exact(4).flat_map(|b| rounded(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()),
        other => Err(Error::Device {
            device: "cuda".into(),
            what: format!("weights of type {other:?}"),
            fix: "convert them to bf16, f16 or f32".into(),
        }),
    }
}
