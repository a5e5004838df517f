//! Arrays on the card: each takes memory of its own, but while work is kept to be done again. Then they share memory that
//! belongs to this work.

use std::{
    collections::HashMap,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError};

/// Numbers on the card.
pub struct Array<T> {
    numbers: ManuallyDrop<CudaSlice<T>>,
    /// Whose memory it is, if not its own.
    of_work: Option<Arc<Pieces>>,
}

impl<T: DeviceRepr> Array<T> {
    /// Takes memory whose content is not set, in the order of the stream's work.
    ///
    /// # Safety
    /// It must be written before it is read.
    pub unsafe fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, DriverError> {
        // SAFETY: the caller vouches for it.
        let numbers = ManuallyDrop::new(unsafe { stream.alloc(len)? });
        Ok(Array { numbers, of_work: None })
    }
}

impl<T> Deref for Array<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.numbers
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.numbers
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: taken once.
        let numbers = unsafe { ManuallyDrop::take(&mut self.numbers) };
        if let Some(pieces) = &self.of_work {
            let n_bytes = numbers.num_bytes();
            pieces.give_back(numbers.leak(), n_bytes);
        }
    }
}

/// Pieces of memory that arrays take one after the other, for work that the card does again and again.
#[derive(Default)]
pub struct Pieces {
    /// All of them.
    taken: Mutex<Vec<CudaSlice<u8>>>,
    /// Addresses of those that no array has, by their bytes.
    free: Mutex<HashMap<usize, Vec<u64>>>,
}

impl Pieces {
    /// Takes a piece that is free, or a new one by `stream`, which keeps no work.
    ///
    /// # Safety
    /// As [`Array::new`]; what uses the array must be part of the work.
    pub unsafe fn array<T: DeviceRepr>(
        self: &Arc<Self>,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<Array<T>, DriverError> {
        let n_bytes = len * size_of::<T>();
        let free = self.lock_free().get_mut(&n_bytes).and_then(Vec::pop);
        let address = match free {
            Some(address) => address,
            None => {
                // SAFETY: the caller vouches for it.
                let piece = unsafe { stream.alloc::<u8>(n_bytes)? };
                let address = piece.device_ptr(stream).0;
                self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
                address
            }
        };
        // SAFETY: a piece of as many bytes, which no other array has.
        let numbers = ManuallyDrop::new(unsafe { stream.upgrade_device_ptr(address, len) });
        Ok(Array { numbers, of_work: Some(self.clone()) })
    }

    fn give_back(&self, address: u64, n_bytes: usize) {
        self.lock_free().entry(n_bytes).or_default().push(address);
    }

    fn lock_free(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<u64>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
