//! The residual stream between layers: on the card, or in the host's memory where the card has no room for
//! it.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaSlice, PinnedHostSlice};

use super::{gpu::Gpu, pointer::DevicePointer, tensor::Tensor};
use crate::error::Error;

pub struct Residual {
    chunks: Vec<Chunk>,
    on_host: bool,
    /// Not 0 once a number that was put in place is not finite.
    broken: CudaSlice<u32>,
    /// What marks bring to the host: one may be waited for while the next is made.
    words: [Arc<Mutex<PinnedHostSlice<u32>>>; 2],
}

/// A point in the card's work, and whether a number before it was not finite.
pub struct Mark {
    broken: Arc<Mutex<PinnedHostSlice<u32>>>,
    done: CudaEvent,
}

impl Mark {
    /// Waits for the mark; returns whether no such number was noted before it.
    pub fn is_finite(&self, gpu: &Gpu) -> Result<bool, Error> {
        let failed = |e| gpu.failed("a layer failed", e);
        self.done.synchronize().map_err(failed)?;
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(broken.as_slice().map_err(failed)? == [0])
    }
}

enum Chunk {
    Card(Tensor),
    /// Pinned, so that copies keep their place among the kernels.
    Host {
        numbers: PinnedHostSlice<u16>,
        n_rows: usize,
        width: usize,
    },
}

impl Residual {
    pub fn new(gpu: &Gpu, on_host: bool) -> Result<Self, Error> {
        let word = || gpu.pinned(1).map(|word| Arc::new(Mutex::new(word)));
        Ok(Residual { chunks: Vec::new(), on_host, broken: gpu.zeros(1)?, words: [word()?, word()?] })
    }

    /// Returns chunk `i`, on the card.
    pub fn chunk(&self, gpu: &Gpu, i: usize) -> Result<Tensor, Error> {
        match &self.chunks[i] {
            Chunk::Card(x) => Ok(x.clone()),
            Chunk::Host { numbers, n_rows, width } => {
                Tensor::filled(gpu, *n_rows, *width, |to| gpu.fetch(numbers, to))
            }
        }
    }

    /// Puts chunk `i` in its place, or at the end if it is the next one.
    pub fn put(&mut self, gpu: &Gpu, i: usize, x: Tensor) -> Result<(), Error> {
        match self.chunks.get_mut(i) {
            Some(Chunk::Card(place)) => *place = x,
            Some(Chunk::Host { numbers, .. }) => gpu.store(&x.data, numbers)?,
            None if self.on_host => {
                let mut numbers = gpu.pinned(x.len())?;
                gpu.store(&x.data, &mut numbers)?;
                self.chunks.push(Chunk::Host { numbers, n_rows: x.n_rows, width: x.width });
            }
            None => self.chunks.push(Chunk::Card(x)),
        }
        Ok(())
    }

    /// Returns where kernels note a number that is not finite.
    pub fn note(&self, gpu: &Gpu) -> DevicePointer<u32> {
        gpu.pointer(&self.broken)
    }

    /// Marks the card's work so far. The mark before the last must have been waited for.
    pub fn mark(&mut self, gpu: &Gpu) -> Result<Mark, Error> {
        self.words.swap(0, 1);
        let broken = self.words[0].clone();
        gpu.store(&self.broken, &mut broken.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(Mark { broken, done: gpu.mark()? })
    }
}
