//! Copies between the host's memory and the card's.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice, result};

use super::{array::Array, gpu::Gpu, pointer::DevicePointer, staging::Staging, word::Word};
use crate::error::Error;

impl Gpu {
    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<Array<T>, Error> {
        let mut to = self.alloc(values.len())?;
        if !values.is_empty() {
            self.stream
                .memcpy_htod(values, &mut *to)
                .map_err(|e| self.failed("a copy to the card failed", e))?;
        }
        Ok(to)
    }

    /// Returns the first `len` values; waits for everything before.
    pub fn download<T: DeviceRepr + Default + Clone>(
        &self,
        from: &Array<T>,
        len: usize,
    ) -> Result<Vec<T>, Error> {
        self.make_current()?;
        self.bring(&self.from_card, &self.stream, from, len)
    }

    /// Marks the point to which the card has work.
    pub fn mark(&self) -> Result<CudaEvent, Error> {
        self.mark_of(&self.stream)
    }

    pub fn mark_of(&self, stream: &CudaStream) -> Result<CudaEvent, Error> {
        stream.record_event(None).map_err(|e| self.failed("its work cannot be marked", e))
    }

    /// Lets a stream wait for a mark of another.
    pub fn after(&self, stream: &CudaStream, mark: &CudaEvent) -> Result<(), Error> {
        stream.wait(mark).map_err(|e| self.failed("its work cannot be waited for", e))
    }

    /// Returns the first `len` values as they are at a mark, while the card goes on.
    pub fn collect<T: DeviceRepr + Default + Clone>(
        &self,
        mark: &CudaEvent,
        from: &Array<T>,
        len: usize,
    ) -> Result<Vec<T>, Error> {
        self.make_current()?;
        self.after(&self.records, mark)?;
        self.bring(&self.of_records, &self.records, from, len)
    }

    /// As [`Gpu::collect`], for what the host waits for: no record is before it.
    pub fn answer<T: DeviceRepr + Default + Clone>(
        &self,
        mark: &CudaEvent,
        from: &Array<T>,
        len: usize,
    ) -> Result<Vec<T>, Error> {
        self.make_current()?;
        self.after(&self.answers, mark)?;
        self.bring(&self.from_card, &self.answers, from, len)
    }

    fn bring<T: DeviceRepr + Default + Clone>(
        &self,
        staging: &Mutex<Staging>,
        stream: &Arc<CudaStream>,
        from: &Array<T>,
        len: usize,
    ) -> Result<Vec<T>, Error> {
        let (from, mut values) = (from.slice(..len), vec![T::default(); len]);
        let mut staging = staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the bytes of plain numbers; both are as long.
        let copied = unsafe { staging.download(stream, from.device_ptr(stream).0, bytes_of(&mut values)) };
        copied.map_err(|e| self.failed("a copy from the card failed", e))?;
        Ok(values)
    }

    /// Returns what stands at some addresses, of each as many numbers as beside it, one after the other.
    ///
    /// # Safety
    /// The numbers must be there.
    pub unsafe fn download_all(&self, from: &[(DevicePointer<u16>, usize)]) -> Result<Vec<u16>, Error> {
        self.make_current()?;
        let mut values = vec![0; from.iter().map(|from| from.1).sum()];
        let mut staging = self.from_card.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller vouches for it.
        let copied = unsafe { staging.download_all(&self.stream, from, bytes_of(&mut values)) };
        copied.map_err(|e| self.failed("a copy from the card failed", e))?;
        Ok(values)
    }

    /// Takes memory of the host that the card copies to and from at full speed.
    pub fn pinned<T: DeviceRepr>(&self, len: usize) -> Result<PinnedHostSlice<T>, Error> {
        // SAFETY: written before it is read.
        let pinned = unsafe { self.stream.context().alloc_pinned(len) };
        pinned.map_err(|e| {
            let n_bytes = size_of::<T>() * len;
            self.failed(&format!("{n_bytes} bytes of the host's memory could not be pinned"), e)
        })
    }

    /// Returns a 0 in the host's memory that nobody else holds, for what the stream does next.
    pub fn word(&self) -> Result<Arc<Word>, Error> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let free = words.iter().find(|word| Arc::strong_count(word) == 1).cloned();
        let word = match free {
            Some(word) => word,
            None => {
                let number = self.pinned(1)?;
                let address =
                    number.as_ptr().map_err(|e| self.failed("the host's memory is not there", e))?;
                words.push(Arc::new(Word { on_card: DevicePointer::new(address as u64), number }));
                words[words.len() - 1].clone()
            }
        };
        self.make_current()?;
        let (address, stream) = (word.on_card.address(), self.stream.cu_stream());
        // SAFETY: the bytes of a number; what was started before is through with it when the stream comes to this.
        let set = unsafe { result::memset_d8_async(address, 0, size_of::<u32>(), stream) };
        set.map_err(|e| self.failed("its memory cannot be set", e))?;
        Ok(word)
    }

    pub fn store<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        from: &Array<T>,
        to: &mut PinnedHostSlice<T>,
    ) -> Result<(), Error> {
        stream.memcpy_dtoh(&**from, to).map_err(|e| self.failed("a copy to the host failed", e))
    }

    pub fn fetch(
        &self,
        stream: &Arc<CudaStream>,
        from: &PinnedHostSlice<u16>,
        to: &mut Array<u16>,
    ) -> Result<(), Error> {
        stream.memcpy_htod(from, &mut **to).map_err(|e| self.failed("a copy from the host failed", e))
    }

    /// Copies `len` values.
    pub fn copy<T: DeviceRepr>(
        &self,
        from: &Array<T>,
        at: usize,
        to: &mut Array<T>,
        to_at: usize,
        len: usize,
    ) -> Result<(), Error> {
        let copied =
            self.stream.memcpy_dtod(&from.slice(at..at + len), &mut to.slice_mut(to_at..to_at + len));
        copied.map_err(|e| self.failed("a copy on the card failed", e))
    }
}

/// Returns the bytes of numbers.
///
/// # Safety
/// They must be plain, so that whatever is written is a number.
unsafe fn bytes_of<T>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as many bytes as the numbers have; the caller vouches for the rest.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}
