//! Work that a card does again, as one graph: a token's way through the layers is a thousand kernels, and to ask for each
//! takes the driver longer than most of them run.

use std::sync::Arc;

use cudarc::driver::{CudaGraph, result, sys};

use super::{
    Angles, Cuda,
    array::{Array, Pieces},
    gpu::Gpu,
    operations::same,
    pointer::DevicePointer,
    residual::{Mark, Residual},
    tensor::{Tensor, numbers},
    word::Word,
};
use crate::{engine::device::Repeat, error::Error};

/// Keeps work on the last query block of a prompt, whose place is on the card.
pub struct Repeater {
    gpu: Arc<Gpu>,
    place: Arc<Place>,
}

/// The prompt's length, and the first of the rows. `[2]`
pub struct Place(Array<u32>);

impl Place {
    /// Returns where kernels find it.
    pub fn pointer(&self, gpu: &Gpu) -> DevicePointer<u32> {
        gpu.pointer(&self.0)
    }

    /// Returns where kernels find the first row alone.
    pub fn first_row(&self, gpu: &Gpu) -> DevicePointer<u32> {
        gpu.pointer_at(&self.0, 1)
    }
}

/// Kernels with all their parameters.
pub struct Work {
    gpu: Arc<Gpu>,
    graph: CudaGraph,
    /// What the kernels write to and read.
    _pieces: Arc<Pieces>,
    /// Where the kernels note a number that is not finite.
    broken: Arc<Word>,
}

impl Repeater {
    pub fn new(gpu: Arc<Gpu>) -> Result<Self, Error> {
        let place = Arc::new(Place(gpu.zeros(2)?));
        Ok(Repeater { gpu, place })
    }

    pub fn place(&self) -> Arc<Place> {
        self.place.clone()
    }
}

impl Repeat<Cuda> for Repeater {
    type Work = Work;

    fn set_place(&self, n_tokens: usize, first_row: usize) -> Result<(), Error> {
        self.gpu.make_current()?;
        for (at, number) in [n_tokens, first_row].into_iter().enumerate() {
            let address = self.gpu.pointer_at(&self.place.0, at).address();
            // SAFETY: sets one number.
            let set =
                unsafe { sys::cuMemsetD32Async(address, number as u32, 1, self.gpu.stream.cu_stream()) };
            set.result().map_err(|e| self.gpu.failed("a number could not be set", e))?;
        }
        Ok(())
    }

    fn turn(&self, angles: &mut Angles) {
        angles.place = Some(self.place());
    }

    fn write_rows(&self, to: &Tensor, first: usize, rows: &Tensor) -> Result<(), Error> {
        same("row width", to.width, rows.width)?;
        same("rows past the end", 0, (first + rows.n_rows).saturating_sub(to.n_rows))?;
        let (from, n_bytes) = (self.gpu.pointer(&rows.data), rows.len() * size_of::<u16>());
        let to = self.gpu.pointer_at(&to.data, first * to.width);
        self.gpu.make_current()?;
        // SAFETY: as many rows as there is room for, checked above.
        let copied = unsafe {
            result::memcpy_dtod_async(to.address(), from.address(), n_bytes, self.gpu.stream.cu_stream())
        };
        copied.map_err(|e| self.gpu.failed("a copy on the card failed", e))
    }

    fn keep<T>(
        &self,
        hidden: &mut Residual,
        work: impl FnOnce(&mut Residual) -> Result<T, Error>,
    ) -> Result<(Work, T), Error> {
        // What a run left there is not given back by each repetition.
        hidden.clear();
        let (graph, pieces, done) = self.gpu.captured(|| work(hidden))?;
        let broken = hidden.noted();
        Ok((Work { gpu: self.gpu.clone(), graph, broken, _pieces: pieces }, done))
    }

    fn repeat(&self, work: &Work) -> Result<Mark, Error> {
        work.graph.launch().map_err(|e| self.gpu.failed("work could not be repeated", e))?;
        Ok(Mark::new(work.broken.clone(), self.gpu.mark()?))
    }

    fn row_to_host(&self, parts: &[Tensor], row: usize) -> Result<Vec<f32>, Error> {
        let row_of = |part: &Tensor| {
            same("rows past the end", 0, (row + 1).saturating_sub(part.n_rows))?;
            Ok((self.gpu.pointer_at(&part.data, row * part.width), part.width))
        };
        let rows = parts.iter().map(row_of).collect::<Result<Vec<_>, Error>>()?;
        // SAFETY: rows of the parts, checked above.
        unsafe { self.gpu.download_all(&rows) }.map(numbers)
    }
}

/// Its memory is given back in the order of the stream that took it, after what uses it.
impl Drop for Work {
    fn drop(&mut self) {
        // An error will be told by the next thing that is asked of the card.
        let _ = self.gpu.mark().and_then(|mark| self.gpu.after(&self.gpu.copies, &mark));
    }
}
