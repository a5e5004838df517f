//! Addresses on the card, as kernels take them.

use std::{marker::PhantomData, num::NonZeroU64};

/// Address of numbers of type `T` on the card; `Option` of it is a pointer that may be null.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct DevicePointer<T> {
    address: NonZeroU64,
    numbers: PhantomData<T>,
}

impl<T> DevicePointer<T> {
    /// `address` must be that of memory on the card.
    pub(super) fn new(address: u64) -> Self {
        let address = NonZeroU64::new(address).expect("memory of the card, which never starts at 0");
        DevicePointer { address, numbers: PhantomData }
    }

    pub(super) fn address(self) -> u64 {
        self.address.get()
    }

    /// Returns the address `n` numbers further on.
    pub(super) fn after(self, n: usize) -> Self {
        DevicePointer::new(self.address() + (n * size_of::<T>()) as u64)
    }
}

/// A map of a tensor for Hopper's copy engine, which must be aligned like this.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap {
    pub opaque: [u64; 16],
}
