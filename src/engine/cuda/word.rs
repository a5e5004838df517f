//! Numbers in the host's memory that kernels write.

use cudarc::driver::PinnedHostSlice;

use super::pointer::DevicePointer;

/// One number, which the host reads once the kernels are done.
pub struct Word {
    pub number: PinnedHostSlice<u32>,
    /// Kernels know it by the same address.
    pub on_card: DevicePointer<u32>,
}
