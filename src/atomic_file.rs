//! Files that are whole or not there: written without a name, or under a temporary one, beside their place,
//! then renamed.

use std::{fs::File, io, path::Path};

use crate::error::Error;

/// Puts the output of `write` in the place of `path`; the old content stays until all is written. A link
/// leads to the place, and a device or a pipe is written to.
///
/// On Linux the file has no name until it is whole, so that nothing of it remains when the process is killed.
///
/// # Errors
/// [`Error::File`] when the folder cannot be written or the disk is full, and the errors of `write`.
pub(crate) fn save(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let place = path.canonicalize();
    let place = place.as_deref().unwrap_or(path);
    let result = match place.metadata() {
        Ok(there) if !there.is_file() && !there.is_dir() => {
            File::options().write(true).open(place).and_then(|mut file| write(&mut file))
        }
        _ => replace(place, write),
    };
    result.map_err(Error::io("write", path))
}

/// Returns the ending of a file's name in lower case, one of `known`: it decides the format.
///
/// # Errors
/// [`Error::Setting`] for another ending; `what` names the file's content.
pub(crate) fn ending(path: &Path, what: &str, known: &[&str]) -> Result<String, Error> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    if known.contains(&ending.as_str()) {
        return Ok(ending);
    }
    let dotted: Vec<String> = known.iter().map(|ending| format!(".{ending}")).collect();
    Err(Error::setting(
        format!("file name of {what}"),
        format!("an ending of {}", dotted.join(" or ")),
        path.display(),
        "choose another ending",
    ))
}

fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // A temporary file is its owner's alone; a saved one is as readable as any other new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let whole = |file: &mut File| write(file).and_then(|()| file.sync_all());
    #[cfg(target_os = "linux")]
    if let Some(mut file) = nameless::file(folder) {
        whole(&mut file)?;
        builder.make_in(folder, |name| nameless::link(&file, name))?.persist(path)?;
        return Ok(());
    }
    let mut temporary = builder.tempfile_in(folder)?;
    whole(temporary.as_file_mut())?;
    temporary.persist(path)?;
    Ok(())
}

/// Files that get their name when they are whole.
#[cfg(target_os = "linux")]
mod nameless {
    use std::{
        fs::{File, OpenOptions},
        io,
        os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
        path::Path,
    };

    use rustix::fs::{AtFlags, CWD, OFlags};

    /// The folder whose entries give an open file a name.
    const OPEN_FILES: &str = "/proc/self/fd";

    /// Opens a nameless file in a folder; `None` where the file system has no such files.
    pub fn file(folder: &Path) -> Option<File> {
        let flags = OFlags::TMPFILE.bits() as i32;
        Path::new(OPEN_FILES)
            .exists()
            .then(|| OpenOptions::new().write(true).mode(0o666).custom_flags(flags).open(folder).ok())?
    }

    pub fn link(file: &File, name: &Path) -> io::Result<()> {
        let open = format!("{OPEN_FILES}/{}", file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, open, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn what_was_there_stays_until_all_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        save(&path, |file| file.write_all(b"first")).unwrap();
        let failed = save(&path, |file| file.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into())));
        assert!(failed.unwrap_err().to_string().contains("the disk is full"));
        assert_eq!(
            (std::fs::read(&path).unwrap(), names(folder.path())),
            (b"first".to_vec(), vec!["a".to_string()])
        );
        save(&path, |file| file.write_all(b"second")).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap(), names(folder.path())),
            (b"second".to_vec(), vec!["a".to_string()])
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_their_place_and_devices_stay_devices() {
        use std::os::unix::fs::{FileTypeExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let [link, place, null] = ["link", "place", "null"].map(|name| folder.path().join(name));
        std::fs::write(&place, "first").unwrap();
        symlink(&place, &link).unwrap();
        save(&link, |file| file.write_all(b"second")).unwrap();
        assert!(link.is_symlink() && std::fs::read(&place).unwrap() == b"second");
        symlink("/dev/null", &null).unwrap();
        save(&null, |file| file.write_all(b"nothing")).unwrap();
        assert!(null.metadata().unwrap().file_type().is_char_device());
        if Path::new("/dev/full").exists() {
            let error = save(Path::new("/dev/full"), |file| file.write_all(b"much")).unwrap_err().to_string();
            assert!(error.contains("cannot write /dev/full: the disk is full"), "{error}");
        }
    }

    /// A process that is killed here leaves nothing behind.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_being_written_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            nameless::file(folder.path()).is_some(),
            "a file system for temporary files that has such files"
        );
        save(&folder.path().join("a"), |file| {
            file.write_all(b"half")?;
            assert!(names(folder.path()).is_empty());
            Ok(())
        })
        .unwrap();
        assert_eq!(names(folder.path()), ["a"]);
    }
}
