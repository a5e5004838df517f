//! Files that are whole or not there: written to a temporary file beside their place, then renamed.

use std::{fs::File, io, path::Path};

use crate::error::Error;

/// Puts what `write` writes in the place of `path`; what was there stays until all is written.
///
/// # Errors
/// [`Error::File`] when the folder cannot be written or the disk is full, and what `write` fails with.
pub(crate) fn save(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let failed = || Error::io("write", path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // A temporary file is its owner's alone; a saved one is as readable as any other new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(failed())?;
    write(temporary.as_file_mut()).map_err(failed())?;
    temporary.as_file().sync_all().map_err(failed())?;
    temporary.persist(path).map_err(|e| failed()(e.error))?;
    Ok(())
}
