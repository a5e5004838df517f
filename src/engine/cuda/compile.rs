//! Kernels from source to machine code: compiled by NVRTC for the card at hand, kept in the user's cache
//! folder.

use std::{
    ffi::{CStr, CString, c_int},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::PathBuf,
};

use cudarc::nvrtc::{
    result::{self as nvrtc, NvrtcError},
    sys,
};

use super::macros::Macro;
use crate::{atomic_file::save, error::Error};

/// Returns the machine code of a source for an architecture such as "sm_90a".
///
/// # Errors
/// [`Error::Device`] with the compiler's words.
pub fn cubin(
    name: &str,
    source: &str,
    macros: &[(&str, Macro)],
    architecture: &str,
) -> Result<Vec<u8>, Error> {
    let mut options =
        vec![format!("--gpu-architecture={architecture}"), "-default-device".into(), "--std=c++17".into()];
    options.extend(macros.iter().map(|(name, value)| format!("-D{name}={value}")));
    let cached = cached(name, source, &options);
    if let Some(code) = cached.as_ref().and_then(|file| std::fs::read(file).ok()) {
        return Ok(code);
    }
    let code = compile(name, source, &options)?;
    if let Some(file) = cached {
        let _ = keep(&file, &code); // a cache that cannot be written costs time, nothing else
    }
    Ok(code)
}

/// Returns where machine code is kept: the name contains everything that the code depends on.
fn cached(name: &str, source: &str, options: &[String]) -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    let [a, b] = [0, 1].map(|salt| {
        let mut hasher = DefaultHasher::new();
        (salt, source, options, compiler()).hash(&mut hasher);
        hasher.finish()
    });
    Some(folder.join("streamtrace/kernels").join(format!("{name}-{a:016x}{b:016x}.cubin")))
}

fn keep(file: &std::path::Path, code: &[u8]) -> Result<(), Error> {
    let folder = file.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    save(file, |to| to.write_all(code))
}

/// Returns NVRTC's version, such as "13.0".
pub fn compiler() -> String {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: writes two integers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    format!("{major}.{minor}")
}

fn compile(name: &str, source: &str, options: &[String]) -> Result<Vec<u8>, Error> {
    let failed = |what: String| {
        Error::device(
            "cuda",
            format!("kernel {name} does not compile with NVRTC {}: {what}", compiler()),
            "please report this; the CPU still works",
        )
    };
    let text = |text: &str| CString::new(text).map_err(|_| failed("a zero byte in its source".into()));
    let program = Program::new(&text(source)?, &text(name)?).map_err(|e| failed(e.to_string()))?;
    // SAFETY: the program lives.
    let compiled = unsafe { nvrtc::compile_program(program.0, options) };
    compiled.map_err(|_| failed(program.log()))?;
    program.code().map_err(|e| failed(e.to_string()))
}

/// An NVRTC program, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &CStr, name: &CStr) -> Result<Self, NvrtcError> {
        nvrtc::create_program(source, Some(name)).map(Program)
    }

    /// Returns the machine code of the compiled program.
    fn code(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut n_bytes = 0;
        // SAFETY: the program lives; the buffer is as long as NVRTC says.
        unsafe {
            sys::nvrtcGetCUBINSize(self.0, &mut n_bytes).result()?;
            let mut code = vec![0u8; n_bytes];
            sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        }
    }

    fn log(&self) -> String {
        // SAFETY: the program lives.
        let log = unsafe { nvrtc::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.into_iter().map(|byte| byte as u8).collect();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().into()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by nvrtcCreateProgram, destroyed once.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}
