//! The cache that all of the hub's tools share: contents by their hash in `blobs`, each commit's files as links to
//! them in `snapshots`, and the commits of branches in `refs`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use super::name::{Name, is_word};
use crate::error::Error;

/// The cache's folder.
pub struct Cache {
    pub folder: PathBuf,
}

impl Cache {
    /// Finds the cache by the variables that the hub's own tools know.
    pub fn of_environment() -> Self {
        let folder = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(path_in);
        let folder = folder.unwrap_or_else(|| home().join("hub"));
        Cache { folder: std::path::absolute(&folder).unwrap_or(folder) }
    }

    /// Returns the folder of a repository `owner/name`.
    pub fn repository(&self, id: &str) -> PathBuf {
        self.folder.join(format!("models--{}", id.replace('/', "--")))
    }

    /// Returns the folder of the files of one commit.
    pub fn snapshot(&self, id: &str, commit: &str) -> PathBuf {
        self.repository(id).join("snapshots").join(commit)
    }

    /// Returns the cached snapshot that a name's revision means: a branch's, or a commit's own.
    pub fn snapshot_of(&self, name: &Name) -> Option<PathBuf> {
        let branch = fs::read_to_string(self.repository(&name.id).join("refs").join(&name.revision)).ok();
        let commit = branch.map(|commit| commit.trim().to_string()).filter(|commit| is_word(commit));
        let folder = self.snapshot(&name.id, commit.as_ref().unwrap_or(&name.revision));
        folder.is_dir().then_some(folder)
    }

    /// Writes down the commit that a revision means.
    pub fn remember(&self, name: &Name, commit: &str) -> Result<(), Error> {
        let path = self.repository(&name.id).join("refs").join(&name.revision);
        if name.revision == commit || fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        create_parent(&path)?;
        fs::write(&path, commit).map_err(Error::io("write", &path))
    }

    /// Takes the lock that the hub's tools hold while they download a blob; `None` where another program has it.
    pub fn lock(&self, id: &str, blob: &str) -> Result<Option<fs::File>, Error> {
        let folder = self.repository(id);
        let folder = self.folder.join(".locks").join(folder.file_name().unwrap_or_default());
        let path = folder.join(format!("{blob}.lock"));
        create_parent(&path)?;
        let file = fs::File::create(&path).map_err(Error::io("write", &path))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            // Some shared folders know no locks.
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Some(file)),
        }
    }

    /// Gives a blob its name in a snapshot: by a link or, where there are none, by moving it.
    pub fn link(&self, blob: &Path, snapshot: &Path, file: &str) -> Result<(), Error> {
        let path = snapshot.join(file);
        create_parent(&path)?;
        let up = "../".repeat(file.split('/').count() + 1);
        let to = format!("{up}blobs/{}", blob.file_name().unwrap_or_default().to_string_lossy());
        let linked = || match std::os::unix::fs::symlink(&to, &path) {
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                // A link to a blob that is gone, or one that another program has just made.
                fs::remove_file(&path).and_then(|()| std::os::unix::fs::symlink(&to, &path))
            }
            done => done,
        };
        linked().or_else(|_| fs::rename(blob, &path)).map_err(Error::io("write", &path))
    }
}

/// Returns the user's token: `HF_TOKEN`, or the one that the hub's tools keep.
pub fn token() -> Option<String> {
    let said = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| env::var(name).ok());
    let file = || path_in("HF_TOKEN_PATH").unwrap_or_else(|| home().join("token"));
    let token = said.filter(|token| !token.trim().is_empty()).or_else(|| fs::read_to_string(file()).ok())?;
    Some(token.trim().to_string()).filter(|token| !token.is_empty())
}

/// Returns the names of all files in a snapshot, with `/` between folders.
pub fn files(snapshot: &Path) -> Vec<String> {
    let (mut names, mut folders) = (Vec::new(), vec![snapshot.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let (true, Ok(name)) = (path.exists(), path.strip_prefix(snapshot)) {
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    names
}

/// Makes the folder that a file lies in.
pub fn create_parent(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io("write", folder))
}

fn home() -> PathBuf {
    let caches = || path_in("XDG_CACHE_HOME").unwrap_or_else(|| user().join(".cache"));
    path_in("HF_HOME").unwrap_or_else(|| caches().join("huggingface"))
}

fn user() -> PathBuf {
    env::home_dir().unwrap_or_default()
}

/// Returns the path in a variable. A shell replaces ~ only at the start of a word.
fn path_in(variable: &str) -> Option<PathBuf> {
    let path = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    Some(path.strip_prefix("~").map(|inside| user().join(inside)).unwrap_or(path))
}
