//! Weights on their way to the card: several threads copy parts of them to pinned memory of their own, so that none
//! waits for another.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

use cudarc::driver::{CudaStream, DevicePtrMut};

use super::{
    Cuda,
    array::Array,
    blocks,
    gpu::Gpu,
    operations::same,
    pointer::DevicePointer,
    staging::{Staging, THREADS, TO_CARD},
    tensor::{Tensor, bf16_bytes},
};
use crate::{
    engine::model::weight::{Blocks, Weight},
    error::Error,
};

/// Bytes that are worth a thread: its pinned memory costs as much time as copying them.
const A_THREAD: usize = 8 << 20;

/// A part of a weight, and where its numbers belong on the card.
struct Part<'a> {
    weight: Weight<'a>,
    width: usize,
    to: DevicePointer<u16>,
}

impl Cuda {
    /// Brings weights into tensors of their shapes that nothing else holds, on a stream; returns before the last parts
    /// have arrived.
    pub(super) fn bring(
        &self,
        stream: &Arc<CudaStream>,
        rooms: Vec<(&mut Tensor, &Weight)>,
    ) -> Result<(), Error> {
        let (mut parts, mut n_bytes) = (Vec::new(), 0);
        for (room, weight) in rooms {
            n_bytes += weight.bytes().len();
            same("numbers of a weight", room.len(), weight.shape().iter().product())?;
            let width = room.width;
            for (first, weight) in weight.parts(TO_CARD) {
                parts.push(Part { weight, width, to: self.gpu.pointer_at(&room.data, first * width) });
            }
        }
        self.gpu.in_threads(n_bytes, &parts, |staging, part| self.gpu.bring_part(stream, staging, part))
    }
}

impl Gpu {
    fn bring_part(&self, stream: &Arc<CudaStream>, staging: &mut Staging, part: &Part) -> Result<(), Error> {
        if let Some(blocks) = on_card(&part.weight) {
            return self.dequantize(stream, staging, &blocks, part.width, part.to);
        }
        let values = part.weight.read()?;
        // SAFETY: the numbers of the part belong there.
        unsafe { self.send(stream, staging, &bf16_bytes(&values.view())?, part.to.address()) }
    }

    /// Copies bytes to the card, several threads at a time.
    pub fn upload_bytes(
        &self,
        stream: &Arc<CudaStream>,
        from: &[u8],
        to: &mut Array<u16>,
    ) -> Result<(), Error> {
        debug_assert_eq!(from.len(), to.num_bytes());
        let address = to.device_ptr_mut(stream).0;
        let parts: Vec<_> = from.chunks(TO_CARD).enumerate().collect();
        self.in_threads(from.len(), &parts, |staging, (i, part)| {
            // SAFETY: `to` has room for all of `from`.
            unsafe { self.send(stream, staging, part, address + (i * TO_CARD) as u64) }
        })
    }

    /// Copies bytes to an address on the card.
    ///
    /// # Safety
    /// There must be room for them.
    unsafe fn send(
        &self,
        stream: &Arc<CudaStream>,
        staging: &mut Staging,
        from: &[u8],
        to: u64,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the room.
        let sent = unsafe { staging.upload(stream, from, to) };
        sent.map_err(|e| self.failed("a weight could not be copied to the card", e))
    }

    /// Does work on parts of so many bytes in threads that each have pinned memory of their own.
    fn in_threads<T: Sync>(
        &self,
        n_bytes: usize,
        parts: &[T],
        work: impl Fn(&mut Staging, &T) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let next = AtomicUsize::new(0);
        let rest = |thread: usize| {
            self.make_current()?;
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                // For a part alone: another call may bring weights at the same time.
                let mut staging = self.to_card[thread].lock().unwrap_or_else(PoisonError::into_inner);
                work(&mut staging, part)?;
            }
            Ok(())
        };
        let n_threads = (n_bytes / A_THREAD).clamp(1, THREADS);
        if n_threads == 1 {
            return rest(0);
        }
        let rest = &rest;
        let lost =
            |_| Err(Error::device(&self.name, "a thread that copied weights was lost", "please report this"));
        thread::scope(|scope| {
            let threads: Vec<ScopedJoinHandle<Result<(), Error>>> =
                (0..n_threads).map(|thread| scope.spawn(move || rest(thread))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(lost))
        })
    }
}

/// Returns the blocks of a weight that the card dequantises.
fn on_card<'a>(weight: &Weight<'a>) -> Option<Blocks<'a>> {
    weight.blocks().filter(|blocks| blocks::name_of(blocks.format).is_some())
}
