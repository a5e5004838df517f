//! Activations and weights on the card: bf16, row by row.

use std::{borrow::Cow, sync::Arc};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

use super::{array::Array, gpu::Gpu};
use crate::error::Error;

/// Numbers that a thread rounds at a time.
const AT_A_TIME: usize = 1 << 16;

/// `[n_rows, width]` bf16; a vector is one row. A copy is the same memory.
#[derive(Clone)]
pub struct Tensor {
    pub data: Arc<Array<u16>>,
    pub n_rows: usize,
    pub width: usize,
}

impl Tensor {
    /// Returns a tensor whose content is not set.
    pub fn new(gpu: &Gpu, n_rows: usize, width: usize) -> Result<Self, Error> {
        Self::filled(gpu, n_rows, width, |_| Ok(()))
    }

    /// Returns a tensor with what `fill` writes.
    pub fn filled(
        gpu: &Gpu,
        n_rows: usize,
        width: usize,
        fill: impl FnOnce(&mut Array<u16>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        if !width.is_multiple_of(8) {
            let what = format!("rows of {width} numbers; the kernels need a multiple of 8");
            return Err(Error::device(&gpu.name, what, "choose the CPU"));
        }
        let mut data = gpu.alloc(n_rows * width)?;
        fill(&mut data)?;
        Ok(Tensor { data: Arc::new(data), n_rows, width })
    }

    pub(super) fn len(&self) -> usize {
        self.n_rows * self.width
    }

    /// Uploads a weight of any floating-point type.
    pub fn upload(gpu: &Gpu, view: &TensorView) -> Result<Self, Error> {
        let (n_rows, width) = rows_of(view.shape());
        Tensor::filled(gpu, n_rows, width, |data| gpu.upload_bytes(&gpu.stream, &bf16_bytes(view)?, data))
    }

    pub fn to_host(&self, gpu: &Gpu) -> Result<Vec<f32>, Error> {
        gpu.download(&self.data, self.len()).map(numbers)
    }
}

/// Returns what bits of bf16 say. As `bf16::to_f32`, but for what a NaN says.
pub(super) fn numbers(bits: Vec<u16>) -> Vec<f32> {
    bits.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()
}

/// Returns the number of rows of a shape, and their width; a vector is one row.
pub fn rows_of(shape: &[usize]) -> (usize, usize) {
    match shape {
        [width] => (1, *width),
        shape => (shape[0], shape[1..].iter().product()),
    }
}

/// Returns the numbers in bf16.
pub(super) fn bf16_bytes<'a>(view: &TensorView<'a>) -> Result<Cow<'a, [u8]>, Error> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::BF16 => Ok(bytes.into()),
        Dtype::F16 => Ok(rounded(bytes.as_chunks().0, |b| f16::from_le_bytes(b).to_f32()).into()),
        Dtype::F32 => Ok(rounded(bytes.as_chunks().0, f32::from_le_bytes).into()),
        other => Err(Error::device(
            "cuda",
            format!("weights of type {other:?}"),
            "convert them to bf16, f16 or f32",
        )),
    }
}

/// Rounds numbers to bf16; `number` reads one.
fn rounded<const N: usize>(numbers: &[[u8; N]], number: impl Fn([u8; N]) -> f32 + Sync) -> Vec<u8> {
    let mut bytes = vec![0; 2 * numbers.len()];
    let parts = bytes.par_chunks_mut(2 * AT_A_TIME).zip(numbers.par_chunks(AT_A_TIME));
    parts.for_each(|(to, from)| {
        to.as_chunks_mut()
            .0
            .iter_mut()
            .zip(from)
            .for_each(|(to, &x)| *to = bf16::from_f32(number(x)).to_le_bytes());
    });
    bytes
}
