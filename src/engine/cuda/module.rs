//! Loaded kernels: the macros they are compiled with, and their launch geometry, which they state themselves.

use std::sync::Arc;

use cudarc::{
    driver::{CudaFunction, CudaStream, DevicePtr, DriverError, LaunchConfig, result},
    nvrtc::Ptx,
};

use super::{compile, kernels, macros::Macro};
use crate::error::Error;

/// A kernel's file (or several that belong together), name and macros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub file: &'static str,
    pub entry: &'static str,
    pub macros: Vec<(&'static str, Macro)>,
}

impl Kernel {
    pub fn new(file: &'static str, entry: &'static str) -> Self {
        Kernel { file, entry, macros: Vec::new() }
    }

    /// Returns the same kernel with one more macro.
    pub fn with(mut self, name: &'static str, value: usize) -> Self {
        self.macros.push((name, Macro::Number(value)));
        self
    }

    /// Returns the machine code for an architecture such as "sm_90a".
    pub fn compile(&self, architecture: &str) -> Result<Vec<u8>, Error> {
        compile::cubin(self.file, &kernels::source(self.file), &self.macros, architecture)
    }
}

/// The work of a launch, which the kernel's geometry divides among thread blocks.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// In the grid's x, as the kernel's header says: query blocks, nodes, vectors, ...
    pub items: usize,
    /// In the grid's y.
    pub heads: usize,
    /// Kept blocks or nodes that a thread block holds in shared memory.
    pub held: usize,
}

impl Work {
    pub fn new(items: usize, heads: usize) -> Self {
        Work { items, heads, held: 0 }
    }
}

/// How a kernel is launched, as `Geometry` in kernels/prelude.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    threads: u32,
    /// Items that a thread block takes.
    pub items: usize,
    heads: usize,
    shared: usize,
    shared_per_held: usize,
}

impl Geometry {
    fn from_card([threads, items, heads, shared, shared_per_held]: [u32; 5]) -> Self {
        let [items, heads, shared, shared_per_held] =
            [items, heads, shared, shared_per_held].map(|n| n as usize);
        Geometry { threads, items, heads, shared, shared_per_held }
    }

    pub fn launch(&self, work: Work) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (work.items.div_ceil(self.items) as u32, work.heads.div_ceil(self.heads) as u32, 1),
            block_dim: (self.threads, 1, 1),
            shared_mem_bytes: (self.shared + work.held * self.shared_per_held) as u32,
        }
    }
}

/// A kernel in the card's memory.
#[derive(Clone)]
pub struct Loaded {
    pub function: CudaFunction,
    pub geometry: Geometry,
}

impl Loaded {
    pub fn new(stream: &Arc<CudaStream>, kernel: &Kernel, code: Vec<u8>) -> Result<Self, DriverError> {
        let module = stream.context().load_module(Ptx::from_binary(code))?;
        let function = module.load_function(kernel.entry)?;
        let symbol = module.get_global(&format!("{}_geometry", kernel.entry), stream)?;
        let mut numbers = [0u32; 5];
        // SAFETY: the symbol is a `Geometry`, five numbers, which the module holds from its loading on.
        unsafe { result::memcpy_dtoh_sync(&mut numbers, symbol.device_ptr(stream).0)? };
        Ok(Loaded { function, geometry: Geometry::from_card(numbers) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_rounds_up_and_adds_what_is_held() {
        let geometry = Geometry::from_card([128, 32, 4, 1000, 16]);
        let config = geometry.launch(Work { items: 65, heads: 5, held: 10 });
        assert_eq!((config.grid_dim, config.block_dim), ((3, 2, 1), (128, 1, 1)));
        assert_eq!(config.shared_mem_bytes, 1160);
    }
}
