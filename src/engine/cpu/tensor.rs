//! What the CPU multiplies: numbers in memory, or weights in blocks where the file is mapped.

use std::sync::Arc;

use candle_core::Storage;

use super::blocks::Blocks;
use crate::error::Error;

/// Activations or weights.
pub enum Tensor {
    /// f32.
    Numbers(candle_core::Tensor),
    Blocks(Arc<Blocks>),
}

impl From<candle_core::Tensor> for Tensor {
    fn from(numbers: candle_core::Tensor) -> Self {
        Tensor::Numbers(numbers)
    }
}

impl Tensor {
    /// Returns the numbers.
    ///
    /// # Errors
    /// [`Error::Device`] for blocks.
    pub fn numbers(&self) -> Result<&candle_core::Tensor, Error> {
        match self {
            Tensor::Numbers(numbers) => Ok(numbers),
            Tensor::Blocks(_) => Err(candle_core::Error::Msg("blocks in place of numbers".into()).into()),
        }
    }

    /// Makes rows of `width` numbers.
    pub fn of_rows(numbers: Vec<f32>, width: usize) -> Result<Self, Error> {
        let shape = (numbers.len() / width, width);
        Ok(candle_core::Tensor::from_vec(numbers, shape, &candle_core::Device::Cpu)?.into())
    }
}

/// Calls `work` with contiguous numbers.
pub(super) fn with_slice<R>(x: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R, Error> {
    let (storage, layout) = x.numbers()?.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(work(&storage.as_slice::<f32>()?[start..end])),
        _ => Err(candle_core::Error::Msg("a tensor that is not contiguous on the CPU".into()).into()),
    }
}
