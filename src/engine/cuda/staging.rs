//! Pinned memory between pageable memory and the card: a piece is copied while the card copies another.

use std::{ops::Range, sync::Arc};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result, sys};
use rayon::prelude::*;

use super::pointer::DevicePointer;

/// Direction of use: memory that is quick for the card to read is slow for the processor to read.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    ToCard,
    FromCard,
}

/// Two pieces, which take turns.
pub struct Staging {
    /// Its place among those of the same way.
    number: usize,
    way: Way,
    pieces: Vec<Piece>,
    /// Pieces that were copied to the card so far.
    n_copied: usize,
    /// The stream that copies from the next piece to the card, and the bytes that are in it: small weights share a
    /// piece, for the driver takes longer to be asked than to copy them.
    filling: Option<(Arc<CudaStream>, usize)>,
}

struct Piece {
    number: usize,
    bytes: PinnedHostSlice<u8>,
    /// When the last copy is done.
    copied: CudaEvent,
}

/// Bytes of a piece to the card, which a thread copies, and of one from the card, which several do.
pub const TO_CARD: usize = 4 << 20;
const BOTH: usize = 2 * TO_CARD;
const FROM_CARD: usize = 16 << 20;

/// Threads that copy to the card, each through pieces of its own; more wait for each other where pages of a file are
/// mapped.
pub const THREADS: usize = 8;

/// Bytes that a thread copies of a piece from the card.
const PART: usize = 2 << 20;

/// Bytes in a piece start at multiples of it.
const ALIGNED: usize = 256;

impl Way {
    /// Bytes of a piece.
    fn piece(self) -> usize {
        match self {
            Way::ToCard => TO_CARD,
            Way::FromCard => FROM_CARD,
        }
    }
}

impl Staging {
    pub fn new(way: Way, number: usize) -> Self {
        Staging { number, way, pieces: Vec::new(), n_copied: 0, filling: None }
    }

    /// Copies to an address on the card; returns before the last piece has arrived.
    ///
    /// # Safety
    /// `to` must have room for all bytes of `from`.
    pub unsafe fn upload(
        &mut self,
        stream: &Arc<CudaStream>,
        from: &[u8],
        to: u64,
    ) -> Result<(), DriverError> {
        for (i, bytes) in from.chunks(TO_CARD).enumerate() {
            let (piece, places) = self.fill(stream, bytes)?;
            // SAFETY: the piece lies inside `to`; the pinned memory is not written again before the piece is copied.
            unsafe {
                let pinned = &piece.bytes.as_slice()?[places];
                result::memcpy_htod_async(to + (i * TO_CARD) as u64, pinned, stream.cu_stream())?;
            }
        }
        Ok(())
    }

    /// Copies bytes, at most a piece, to memory on the card; what the stream does next may read them there. Waits
    /// until what is in their place has been used. `on_card` is memory for both pieces of each of all stagings.
    pub fn stage(
        &mut self,
        stream: &Arc<CudaStream>,
        from: &[u8],
        on_card: &OnCard,
    ) -> Result<DevicePointer<u8>, DriverError> {
        let first = on_card.address + (self.number * BOTH) as u64;
        let (piece, places) = self.fill(stream, from)?;
        let address = first + (piece.number * TO_CARD + places.start) as u64;
        // SAFETY: both pieces are as long; neither is written again before what uses it is done.
        unsafe { result::memcpy_htod_async(address, &piece.bytes.as_slice()?[places], stream.cu_stream())? };
        Ok(DevicePointer::new(address))
    }

    /// Copies bytes, at most a piece, to pinned memory that is free; returns where they are in a piece.
    fn fill(
        &mut self,
        stream: &Arc<CudaStream>,
        from: &[u8],
    ) -> Result<(&mut Piece, Range<usize>), DriverError> {
        let filled = match self.filling.take() {
            Some((of, filled)) if of == *stream && filled + from.len() <= TO_CARD => filled,
            Some((of, _)) => {
                self.piece(self.n_copied, &of)?.copied.record(&of)?;
                self.n_copied += 1;
                0
            }
            None => 0,
        };
        self.filling = Some((stream.clone(), (filled + from.len()).next_multiple_of(ALIGNED)));
        let piece = self.piece(self.n_copied, stream)?;
        if filled == 0 {
            piece.copied.synchronize()?;
        }
        let places = filled..filled + from.len();
        populate(from);
        piece.bytes.as_mut_slice()?[places.clone()].copy_from_slice(from);
        Ok((piece, places))
    }

    /// Copies from an address on the card, after all that was started on the stream before.
    ///
    /// # Safety
    /// `from` must hold the bytes that `to` has room for.
    pub unsafe fn download(
        &mut self,
        stream: &Arc<CudaStream>,
        from: u64,
        to: &mut [u8],
    ) -> Result<(), DriverError> {
        let mut before = None;
        for (i, to) in to.chunks_mut(FROM_CARD).enumerate() {
            let piece = self.piece(i, stream)?;
            let pinned = &mut piece.bytes.as_mut_slice()?[..to.len()];
            // SAFETY: the piece lies inside what is read; it was copied on two turns ago.
            unsafe { result::memcpy_dtoh_async(pinned, from + (i * FROM_CARD) as u64, stream.cu_stream())? };
            piece.copied.record(stream)?;
            if let Some((i, to)) = before.replace((i, to)) {
                self.collect(i, stream, to)?;
            }
        }
        before.map_or(Ok(()), |(i, to)| self.collect(i, stream, to))
    }

    /// As [`Staging::download`], from several addresses, of each as many numbers as beside it; all of them fit in a piece.
    ///
    /// # Safety
    /// As [`Staging::download`].
    pub unsafe fn download_all(
        &mut self,
        stream: &Arc<CudaStream>,
        from: &[(DevicePointer<u16>, usize)],
        to: &mut [u8],
    ) -> Result<(), DriverError> {
        let piece = self.piece(0, stream)?;
        let too_long = DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut rest = piece.bytes.as_mut_slice()?.get_mut(..to.len()).ok_or(too_long)?;
        for (address, len) in from {
            let (pinned, behind) = rest.split_at_mut(len * size_of::<u16>());
            // SAFETY: the caller vouches for what is read.
            unsafe { result::memcpy_dtoh_async(pinned, address.address(), stream.cu_stream())? };
            rest = behind;
        }
        piece.copied.record(stream)?;
        self.collect(0, stream, to)
    }

    /// Copies to `to` what a piece brought from the card.
    fn collect(&mut self, i: usize, stream: &Arc<CudaStream>, to: &mut [u8]) -> Result<(), DriverError> {
        let piece = self.piece(i, stream)?;
        piece.copied.synchronize()?;
        let from = &piece.bytes.as_slice()?[..to.len()];
        if to.len() <= PART {
            // To wake a thread takes longer.
            to.copy_from_slice(from);
        } else {
            to.par_chunks_mut(PART)
                .zip(from.par_chunks(PART))
                .for_each(|(to, from)| to.copy_from_slice(from));
        }
        Ok(())
    }

    /// Returns the piece whose turn it is.
    fn piece(&mut self, i: usize, stream: &Arc<CudaStream>) -> Result<&mut Piece, DriverError> {
        if self.pieces.len() <= i % 2 {
            let bytes = pinned(stream.context(), self.way.piece(), self.way)?;
            self.pieces.push(Piece { number: i % 2, bytes, copied: stream.record_event(None)? });
        }
        Ok(&mut self.pieces[i % 2])
    }
}

/// Memory on the card that pieces go through, apart from that of runs.
pub struct OnCard {
    address: u64,
    context: Arc<CudaContext>,
}

impl OnCard {
    /// Takes memory for the pieces of `n` stagings.
    pub fn new(context: &Arc<CudaContext>, n: usize) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: written before it is read.
        let address = unsafe { result::malloc_sync(n * BOTH)? };
        Ok(OnCard { address, context: context.clone() })
    }
}

impl Drop for OnCard {
    fn drop(&mut self) {
        // SAFETY: allocated above; the driver waits for what still uses it.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}

fn pinned(context: &Arc<CudaContext>, n_bytes: usize, way: Way) -> Result<PinnedHostSlice<u8>, DriverError> {
    let flags = if way == Way::ToCard { sys::CU_MEMHOSTALLOC_WRITECOMBINED } else { 0 };
    // SAFETY: written before it is read.
    unsafe { context.alloc_pinned_with_flags(n_bytes, flags) }
}

/// Brings the pages of a mapped file to this process at once: to be stopped at each costs more than the copy.
#[cfg(target_os = "linux")]
fn populate(bytes: &[u8]) {
    use rustix::{mm, param::page_size};

    let within = bytes.as_ptr().addr() % page_size();
    let start = bytes.as_ptr().wrapping_sub(within).cast_mut();
    // SAFETY: the pages hold the bytes, and nothing in them changes. A failure costs time alone.
    let _ = unsafe { mm::madvise(start.cast(), bytes.len() + within, mm::Advice::LinuxPopulateRead) };
}

#[cfg(not(target_os = "linux"))]
fn populate(_: &[u8]) {}
