//! What is left in place of a large file that was not fetched: Git's pointer to it, or the page of a web site.

use std::{fs, io::Read, path::Path};

use crate::error::Error;

/// What Git leaves in place of a file that Git LFS keeps.
const POINTER: &[u8] = b"version https://git-lfs";

/// Most of a file's first bytes that tell what it is.
const N_FIRST: u64 = 64;

/// Checks that the file whose first bytes these are does not stand in place of another one.
///
/// # Errors
/// [`Error::Model`] for a pointer of Git LFS, or a web page.
pub fn check(path: &Path, first: &[u8]) -> Result<(), Error> {
    let (found, fix) = match first {
        first if first.starts_with(POINTER) => {
            ("a pointer of Git LFS to it", "run `git lfs pull` in its folder, or download the file")
        }
        first if first.trim_ascii_start().starts_with(b"<") => {
            ("a web page", "download the file that the page is about: its address has /resolve/, not /blob/")
        }
        _ => return Ok(()),
    };
    Err(Error::model(path.display(), "the file itself", found, fix))
}

/// Checks the same of a file.
///
/// # Errors
/// As [`check`].
pub fn check_file(path: &Path) -> Result<(), Error> {
    let mut first = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(N_FIRST).read_to_end(&mut first)) {
        Ok(_) => check(path, &first),
        Err(_) => Ok(()),
    }
}
