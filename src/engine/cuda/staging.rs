//! Pinned memory between pageable memory and the card: several threads copy a piece while the card copies
//! another.

use std::sync::Arc;

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
    way: Way,
    pieces: Vec<Piece>,
    /// Pieces that were copied to the card so far.
    n_copied: usize,
}

struct Piece {
    bytes: PinnedHostSlice<u8>,
    /// Memory on the card that is as long, for bytes that a kernel takes from there.
    on_card: Option<OnCard>,
    /// When the last copy is done.
    copied: CudaEvent,
}

/// Bytes of a piece, and of what a thread copies of it at a time.
pub const PIECE: usize = 16 << 20;
const PART: usize = 1 << 17;

impl Staging {
    pub fn new(way: Way) -> Self {
        Staging { way, pieces: Vec::new(), n_copied: 0 }
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
        for (i, bytes) in from.chunks(PIECE).enumerate() {
            let piece = self.piece(self.n_copied, stream)?;
            piece.copied.synchronize()?;
            let pinned = &mut piece.bytes.as_mut_slice()?[..bytes.len()];
            copy(bytes, pinned);
            // SAFETY: the piece lies inside `to`; the pinned memory is not written again before the event
            // below.
            unsafe { result::memcpy_htod_async(to + (i * PIECE) as u64, pinned, stream.cu_stream())? };
            piece.copied.record(stream)?;
            self.n_copied += 1;
        }
        Ok(())
    }

    /// Copies bytes, at most a piece, to memory on the card that they have until [`Staging::release`] and then
    /// until what the stream does with them is done; waits until the last but one are.
    pub fn stage(&mut self, stream: &Arc<CudaStream>, from: &[u8]) -> Result<DevicePointer<u8>, DriverError> {
        let piece = self.piece(self.n_copied, stream)?;
        piece.copied.synchronize()?;
        let pinned = &mut piece.bytes.as_mut_slice()?[..from.len()];
        copy(from, pinned);
        if piece.on_card.is_none() {
            piece.on_card = Some(OnCard::new(stream.context())?);
        }
        let address = piece.on_card.as_ref().map_or(0, |on_card| on_card.address);
        // SAFETY: both pieces are as long; neither is written again before the event of `release`.
        unsafe { result::memcpy_htod_async(address, pinned, stream.cu_stream())? };
        Ok(DevicePointer::new(address))
    }

    /// Gives back the bytes of [`Staging::stage`], whose work is on the stream.
    pub fn release(&mut self, stream: &Arc<CudaStream>) -> Result<(), DriverError> {
        self.piece(self.n_copied, stream)?.copied.record(stream)?;
        self.n_copied += 1;
        Ok(())
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
        for (i, to) in to.chunks_mut(PIECE).enumerate() {
            let piece = self.piece(i, stream)?;
            let pinned = &mut piece.bytes.as_mut_slice()?[..to.len()];
            // SAFETY: the piece lies inside what is read; it was copied on two turns ago.
            unsafe { result::memcpy_dtoh_async(pinned, from + (i * PIECE) as u64, stream.cu_stream())? };
            piece.copied.record(stream)?;
            if let Some((i, to)) = before.replace((i, to)) {
                self.collect(i, stream, to)?;
            }
        }
        before.map_or(Ok(()), |(i, to)| self.collect(i, stream, to))
    }

    /// Copies to `to` what a piece brought from the card.
    fn collect(&mut self, i: usize, stream: &Arc<CudaStream>, to: &mut [u8]) -> Result<(), DriverError> {
        let piece = self.piece(i, stream)?;
        piece.copied.synchronize()?;
        copy(&piece.bytes.as_slice()?[..to.len()], to);
        Ok(())
    }

    /// Returns the piece whose turn it is.
    fn piece(&mut self, i: usize, stream: &Arc<CudaStream>) -> Result<&mut Piece, DriverError> {
        if self.pieces.len() <= i % 2 {
            let bytes = pinned(stream.context(), PIECE, self.way)?;
            self.pieces.push(Piece { bytes, on_card: None, copied: stream.record_event(None)? });
        }
        Ok(&mut self.pieces[i % 2])
    }
}

/// A piece's memory on the card, apart from that of runs.
struct OnCard {
    address: u64,
    context: Arc<CudaContext>,
}

impl OnCard {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: written before it is read.
        let address = unsafe { result::malloc_sync(PIECE)? };
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

fn copy(from: &[u8], to: &mut [u8]) {
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
        populate(from);
        to.copy_from_slice(from);
    });
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
