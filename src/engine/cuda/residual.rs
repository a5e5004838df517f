//! The residual stream between layers: on the card, or in the host's memory where the card has no room for
//! it.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, PinnedHostSlice};

use super::{gpu::Gpu, pointer::DevicePointer, tensor::Tensor, word::Word};
use crate::error::Error;

pub struct Residual {
    chunks: Chunks,
    /// Where kernels note a number that is not finite, since the last mark and between it and the one before.
    notes: [Arc<Word>; 2],
}

enum Chunks {
    Card(Vec<Tensor>),
    Host(Host),
}

/// Chunks in the host's memory, which travel while the card computes: the next one comes, the last one leaves.
#[derive(Default)]
struct Host {
    chunks: Vec<OnHost>,
    coming: Mutex<Option<(usize, Travelling)>>,
    /// Two, so that the card waits for none that has just left.
    leaving: [Option<Travelling>; 2],
}

/// Pinned, so that copies are the card's own work.
struct OnHost {
    numbers: PinnedHostSlice<u16>,
    n_rows: usize,
    width: usize,
}

/// A chunk's memory on the card, and when its copy is done.
struct Travelling {
    x: Tensor,
    done: CudaEvent,
}

/// A point in the card's work, and whether a number between it and the mark before was not finite.
pub struct Mark {
    broken: Arc<Word>,
    done: CudaEvent,
}

impl Mark {
    pub fn new(broken: Arc<Word>, done: CudaEvent) -> Self {
        Mark { broken, done }
    }

    /// Waits for the mark; returns whether no such number was noted before it.
    pub fn is_finite(&self, gpu: &Gpu) -> Result<bool, Error> {
        let failed = |e| gpu.failed("a layer failed", e);
        self.done.synchronize().map_err(failed)?;
        Ok(self.broken.number.as_slice().map_err(failed)? == [0])
    }
}

impl Residual {
    pub fn new(gpu: &Gpu, on_host: bool) -> Result<Self, Error> {
        let chunks = if on_host { Chunks::Host(Host::default()) } else { Chunks::Card(Vec::new()) };
        Ok(Residual { chunks, notes: [gpu.word()?, gpu.word()?] })
    }

    /// Returns chunk `i`, on the card.
    pub fn chunk(&self, gpu: &Gpu, i: usize) -> Result<Tensor, Error> {
        match &self.chunks {
            Chunks::Card(chunks) => Ok(chunks[i].clone()),
            Chunks::Host(host) => host.chunk(gpu, i),
        }
    }

    /// Puts chunk `i` in its place, or at the end if it is the next one.
    pub fn put(&mut self, gpu: &Gpu, i: usize, x: Tensor) -> Result<(), Error> {
        match &mut self.chunks {
            Chunks::Card(chunks) if i < chunks.len() => chunks[i] = x,
            Chunks::Card(chunks) => chunks.push(x),
            Chunks::Host(host) => host.put(gpu, i, x)?,
        }
        Ok(())
    }

    /// Forgets all chunks that are on the card.
    pub fn clear(&mut self) {
        if let Chunks::Card(chunks) = &mut self.chunks {
            chunks.clear();
        }
    }

    /// Returns where kernels note a number that is not finite.
    pub fn note(&self) -> DevicePointer<u32> {
        self.notes[0].on_card
    }

    /// Returns what they note now.
    pub fn noted(&self) -> Arc<Word> {
        self.notes[0].clone()
    }

    /// Marks the card's work so far. The mark before the last must have been waited for.
    pub fn mark(&mut self, gpu: &Gpu) -> Result<Mark, Error> {
        self.notes.swap(0, 1);
        Ok(Mark { broken: self.notes[1].clone(), done: gpu.mark()? })
    }
}

impl Host {
    /// Returns chunk `i`; the next one starts to come.
    fn chunk(&self, gpu: &Gpu, i: usize) -> Result<Tensor, Error> {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let x = match coming.take() {
            Some((next, chunk)) if next == i => chunk.arrived(gpu)?,
            other => {
                // Its memory is given back, in the order of the card's work.
                other.map(|(_, chunk)| chunk.arrived(gpu)).transpose()?;
                self.fetched(gpu, i)?.arrived(gpu)?
            }
        };
        *coming = if i + 1 < self.chunks.len() { Some((i + 1, self.fetched(gpu, i + 1)?)) } else { None };
        Ok(x)
    }

    /// Starts to copy a chunk to the card.
    fn fetched(&self, gpu: &Gpu, i: usize) -> Result<Travelling, Error> {
        let OnHost { numbers, n_rows, width } = &self.chunks[i];
        let x = Tensor::filled(gpu, *n_rows, *width, |to| {
            gpu.after(&gpu.residuals, &gpu.mark()?)?;
            gpu.fetch(&gpu.residuals, numbers, to)
        })?;
        Ok(Travelling { x, done: gpu.mark_of(&gpu.residuals)? })
    }

    /// Starts to copy a chunk to the host.
    fn put(&mut self, gpu: &Gpu, i: usize, x: Tensor) -> Result<(), Error> {
        if i == self.chunks.len() {
            self.chunks.push(OnHost { numbers: gpu.pinned(x.len())?, n_rows: x.n_rows, width: x.width });
        }
        gpu.after(&gpu.residuals, &gpu.mark()?)?;
        gpu.store(&gpu.residuals, &x.data, &mut self.chunks[i].numbers)?;
        self.leaving.swap(0, 1);
        let left = self.leaving[0].replace(Travelling { x, done: gpu.mark_of(&gpu.residuals)? });
        left.map_or(Ok(()), |left| left.arrived(gpu).map(drop))
    }
}

/// Memory that is given back is not written any more.
impl Drop for Host {
    fn drop(&mut self) {
        let coming = self.coming.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let travelling = coming
            .map(|(_, chunk)| chunk)
            .into_iter()
            .chain(self.leaving.iter_mut().filter_map(Option::take));
        travelling.for_each(|chunk| {
            let _ = chunk.done.synchronize();
        });
    }
}

impl Travelling {
    /// Lets the card wait for the copy; returns the chunk.
    fn arrived(self, gpu: &Gpu) -> Result<Tensor, Error> {
        gpu.after(&gpu.stream, &self.done)?;
        Ok(self.x)
    }
}
