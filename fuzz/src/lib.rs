//! Helpers of the targets: files of hostile bytes, and a limit on the memory that reading them may take.

use std::{
    alloc::System,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use cap::Cap;
use tempfile::TempDir;

/// An allocation past the limit fails and ends the process, which counts as a finding.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Memory that any file may take, and memory per byte of the file: a number of one byte in a list becomes a value of 32 bytes
/// while the list grows to twice its size.
const MEMORY: usize = 16 << 20;
const MEMORY_PER_BYTE: usize = 128;

/// Runs a reader of `n_bytes` bytes within the memory that they justify, plus `more`.
pub fn limited<T>(n_bytes: usize, more: usize, run: impl FnOnce() -> T) -> T {
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + MEMORY + MEMORY_PER_BYTE * n_bytes + more).expect("a limit above what is taken");
    let result = run();
    ALLOCATOR.set_limit(usize::MAX).expect("no limit");
    result
}

/// Lets panics be caught; only an uncaught panic ends the process.
pub fn let_panics_be_caught() {
    drop(std::panic::take_hook());
}

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder for files")
});

/// The folder of the files.
pub fn folder() -> &'static Path {
    FOLDER.path()
}

/// Writes a file `name` with these bytes.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// Mutates the header of a safetensors file every other time and corrects its length, so that the code after it is reached.
pub fn mutate_safetensors(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let n_header = data.get(..8).map(|n| u64::from_le_bytes(n.try_into().expect("8 bytes")) as usize);
    let Some(end) = n_header.and_then(|n| n.checked_add(8)).filter(|&end| end <= size && seed.is_multiple_of(2)) else {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    };
    let rest = data[end..size].to_vec();
    let room = max_size - rest.len();
    let mut header = vec![0; room - 8];
    header[..end - 8].copy_from_slice(&data[8..end]);
    let n_header = libfuzzer_sys::fuzzer_mutate(&mut header, end - 8, room - 8);
    let whole = [&(n_header as u64).to_le_bytes(), &header[..n_header], &rest].concat();
    data[..whole.len()].copy_from_slice(&whole);
    whole.len()
}
