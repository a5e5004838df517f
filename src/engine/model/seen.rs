//! Whether a file is still the one that was opened: a mapped file must not change under a run.

use std::{
    fs::{File, Metadata},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::error::Error;

/// A file as it was when it was opened.
#[derive(Clone)]
pub struct Seen {
    path: PathBuf,
    n_bytes: u64,
    /// `None` where the system does not keep it.
    modified: Option<SystemTime>,
}

impl Seen {
    /// Remembers the file that was opened at `path`.
    ///
    /// # Errors
    /// [`Error::File`] when the system does not tell its size.
    pub fn open(path: &Path, file: &File) -> Result<Self, Error> {
        let now = file.metadata().map_err(Error::io("read", path))?;
        Ok(Seen { path: path.into(), n_bytes: now.len(), modified: now.modified().ok() })
    }

    /// Checks that the file is as it was. One that has been removed is: what was opened stays until the end.
    ///
    /// # Errors
    /// [`Error::Model`] when its size or its time of modification is another one.
    pub fn check(&self) -> Result<(), Error> {
        match std::fs::metadata(&self.path) {
            Ok(now) if self.differs(&now) => Err(Error::model(
                self.path.display(),
                "the file that was loaded",
                "one that has been written since",
                "load the model again",
            )),
            _ => Ok(()),
        }
    }

    fn differs(&self, now: &Metadata) -> bool {
        (now.len(), now.modified().ok()) != (self.n_bytes, self.modified)
    }
}
