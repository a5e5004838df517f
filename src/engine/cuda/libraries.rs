//! Finds the driver, NVRTC and cuBLAS at run time, and NCCL where several cards work together: on the system's path, under `CUDA_HOME`, or in the
//! `nvidia-*` wheels of the active virtual environment. This program builds and starts without CUDA.

use std::{
    mem,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use cudarc::get_lib_name_candidates;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

use crate::error::Error;

/// Starts of the libraries' file names, in the order in which they need each other.
const IN_ORDER: [&str; 4] = ["libnvrtc-builtins.so", "libnvrtc.so", "libcublasLt.so", "libcublas.so"];

/// Makes the driver available, and returns whether it was found.
pub fn has_driver() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| open("cuda") || open("nvcuda"))
}

/// Makes the driver, NVRTC and cuBLAS available, and returns which of them were found.
pub fn found() -> [bool; 3] {
    static FOUND: OnceLock<[bool; 2]> = OnceLock::new();
    let [nvrtc, cublas] = *FOUND.get_or_init(|| {
        let others = || ["nvrtc", "cublas"].map(open);
        let found = others();
        if found == [true; 2] {
            return found;
        }
        // SAFETY: the folders of NVIDIA's toolkit and wheels.
        folders().iter().for_each(|folder| unsafe { open_all(folder) });
        others()
    });
    [has_driver(), nvrtc, cublas]
}

/// Opens a library under one of the names that cudarc looks for, for the rest of the program's life: cuBLAS takes
/// 60 ms the first time.
fn open(name: &str) -> bool {
    // SAFETY: runs the library's initialisers; the vendor's libraries may be loaded at any time.
    let open = |file: String| unsafe { Library::open(Some(file), RTLD_LAZY | RTLD_LOCAL) };
    get_lib_name_candidates(name).into_iter().any(|file| open(file).map(mem::forget).is_ok())
}

/// Makes all three available, or returns an error that says what to install.
///
/// # Errors
/// [`Error::Device`] naming what was not found.
pub fn load() -> Result<(), Error> {
    let [driver, nvrtc, cublas] = found();
    let missing = |what: &str, fix: &str| Err(Error::device("cuda", what, fix));
    match (driver, nvrtc, cublas) {
        (false, ..) => {
            missing("no NVIDIA driver was found (libcuda.so)", "install the driver, or choose the CPU")
        }
        (_, false, _) => missing(
            "NVRTC was not found (libnvrtc.so)",
            "pip install nvidia-cuda-nvrtc in the active environment, or set CUDA_HOME",
        ),
        (.., false) => missing(
            "cuBLAS was not found (libcublas.so)",
            "pip install nvidia-cublas in the active environment, or set CUDA_HOME",
        ),
        _ => Ok(()),
    }
}

/// Opens NCCL, under the names that its packages and wheels give it.
pub fn nccl() -> Option<Library> {
    const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
    let in_folders = folders().into_iter().flat_map(|folder| NAMES.map(|name| folder.join(name)));
    let mut places = NAMES.into_iter().map(PathBuf::from).chain(in_folders);
    // SAFETY: as of `found`.
    places.find_map(|place| unsafe { Library::open(Some(place), RTLD_NOW | RTLD_LOCAL) }.ok())
}

/// Returns the folders where the libraries may lie beside the system's path.
fn folders() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(set)
        .flat_map(|home| [home.join("lib64"), home.join("lib")]);
    let environments =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set).flat_map(|prefix| wheels(&prefix));
    toolkits.chain(environments).filter(|folder| folder.is_dir()).collect()
}

/// Returns `lib/python*/site-packages/nvidia/*/lib` of a virtual environment.
fn wheels(environment: &Path) -> Vec<PathBuf> {
    let list =
        |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let pythons = list(environment.join("lib")).map(|python| python.join("site-packages/nvidia"));
    pythons.flat_map(list).map(|package| package.join("lib")).collect()
}

/// Opens the libraries in a folder, for the rest of the program's life and visible to each other.
///
/// # Safety
/// The folder must hold NVIDIA's libraries under these names.
unsafe fn open_all(folder: &Path) {
    for start in IN_ORDER {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files
            .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
        {
            // SAFETY: the caller vouches for the library.
            if let Ok(library) = unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) } {
                mem::forget(library);
            }
        }
    }
}
