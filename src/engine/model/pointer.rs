//! What Git leaves in place of a large file that was not fetched.

use std::{fs, io::Read, path::Path};

use crate::error::Error;

/// What Git leaves in place of a file that Git LFS keeps.
const POINTER: &[u8] = b"version https://git-lfs";

/// Checks that the file whose first bytes these are is not what Git leaves in place of a large file.
///
/// # Errors
/// [`Error::Model`] for a pointer of Git LFS.
pub fn check(path: &Path, first: &[u8]) -> Result<(), Error> {
    if !first.starts_with(POINTER) {
        return Ok(());
    }
    Err(Error::model(
        path.display(),
        "the file itself",
        "a pointer of Git LFS to it",
        "run `git lfs pull` in its folder, or download the file",
    ))
}

/// Checks the same of a file.
///
/// # Errors
/// As [`check`].
pub fn check_file(path: &Path) -> Result<(), Error> {
    let mut first = vec![0; POINTER.len()];
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)) {
        Ok(()) => check(path, &first),
        Err(_) => Ok(()),
    }
}
