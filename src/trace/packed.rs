//! Trace files that are packed by gzip, to be kept or sent: unpacked into a temporary file when they are
//! opened.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use crate::error::Error;

/// The first bytes of a file packed by gzip. No trace starts so: the length of its head, which comes first,
/// is a multiple of 8.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Returns whether a file of this name is to be packed.
pub(super) fn is_packed_name(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

/// Packs the output of `write`.
pub(super) fn pack(
    out: &mut File,
    write: impl FnOnce(&mut GzEncoder<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut packer = GzEncoder::new(out, Compression::best());
    write(&mut packer)?;
    packer.finish()?.flush()
}

/// Returns the file itself, or its content unpacked.
///
/// # Errors
/// [`Error::Trace`] when it is damaged, [`Error::File`] when it cannot be read or the disk is full.
pub(super) fn unpacked(mut file: File, path: &Path) -> Result<File, Error> {
    let mut start = Vec::new();
    (&file)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .and_then(|_| file.rewind())
        .map_err(Error::io("read", path))?;
    if start != MAGIC {
        return Ok(file);
    }
    let folder = std::env::temp_dir();
    let mut whole = tempfile::tempfile().map_err(Error::io("create", &folder))?;
    io::copy(&mut GzDecoder::new(io::BufReader::new(file)), &mut whole).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::trace(
                path.display(),
                "a whole file packed by gzip",
                e.to_string(),
                "copy it again, or trace the prompt again",
            )
        }
        _ => Error::io("write", &folder)(e),
    })?;
    Ok(whole)
}
