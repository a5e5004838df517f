//! The one error type: what was expected, what was found, and what to do about it.

use std::{
    fmt::{self, Display},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Every error, in words for the person at the keyboard.
///
/// Serialisable, because an engine in another process reports its errors to the notebook unchanged.
#[derive(Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {reason}")]
    File { action: String, path: String, reason: String },

    /// A model folder that cannot be used: files, architecture, tensors, tokenizer.
    #[error("model {path}: expected {expected}, found {found}; {fix}")]
    Model { path: String, expected: String, found: String, fix: String },

    /// A prompt that cannot be traced.
    #[error("prompt: expected {expected}, found {found}; {fix}")]
    Prompt { expected: String, found: String, fix: String },

    /// A setting of the search or the tracer that makes no sense.
    #[error("{setting}: expected {expected}, found {found}; {fix}")]
    Setting { setting: String, expected: String, found: String, fix: String },

    /// The run would need more memory than it may take; nothing was run.
    #[error("memory: this run needs {needed} and may take {limit}; {fix}")]
    Memory { needed: String, limit: String, fix: String },

    /// A trace file that cannot be used.
    #[error("trace {path}: expected {expected}, found {found}; {fix}")]
    Trace { path: String, expected: String, found: String, fix: String },

    /// A layer, head, token or span that does not exist, or a text that does not occur.
    #[error("{what} {index} does not exist: {available}")]
    Missing { what: String, index: String, available: String },

    /// The engine process could not be started, ended, or spoke another protocol.
    #[error("engine: {what}; {fix}")]
    Engine { what: String, fix: String },

    /// NaN or infinite weights or activations.
    #[error("not a number: {found} in {place}; {fix}")]
    NotFinite { place: String, found: String, fix: String },

    /// The GPU or its libraries cannot be used.
    #[error("device {device}: {what}; {fix}")]
    Device { device: String, what: String, fix: String },
}

impl Error {
    /// Makes the error for a model folder or file that cannot be used.
    pub fn model(path: impl Display, expected: impl Display, found: impl Display, fix: impl Display) -> Self {
        let [path, expected, found, fix] =
            [&path as &dyn Display, &expected, &found, &fix].map(ToString::to_string);
        Error::Model { path, expected, found, fix }
    }

    /// Makes the error for a prompt that cannot be traced.
    pub fn prompt(expected: impl Display, found: impl Display, fix: impl Display) -> Self {
        let [expected, found, fix] = [&expected as &dyn Display, &found, &fix].map(ToString::to_string);
        Error::Prompt { expected, found, fix }
    }

    /// Makes the error for a setting that makes no sense.
    pub fn setting(
        setting: impl Display,
        expected: impl Display,
        found: impl Display,
        fix: impl Display,
    ) -> Self {
        let [setting, expected, found, fix] =
            [&setting as &dyn Display, &expected, &found, &fix].map(ToString::to_string);
        Error::Setting { setting, expected, found, fix }
    }

    /// Makes the error for a trace file that cannot be used.
    pub fn trace(path: impl Display, expected: impl Display, found: impl Display, fix: impl Display) -> Self {
        let [path, expected, found, fix] =
            [&path as &dyn Display, &expected, &found, &fix].map(ToString::to_string);
        Error::Trace { path, expected, found, fix }
    }

    /// Makes the error for a layer, head, token, span or text that does not exist.
    pub fn missing(what: impl Display, index: impl Display, available: impl Display) -> Self {
        let [what, index, available] = [&what as &dyn Display, &index, &available].map(ToString::to_string);
        Error::Missing { what, index, available }
    }

    /// Makes the error for an engine that could not be started, ended, or spoke another protocol.
    pub fn engine(what: impl Display, fix: impl Display) -> Self {
        Error::Engine { what: what.to_string(), fix: fix.to_string() }
    }

    /// Makes the error for a GPU, or a library of it, that cannot be used.
    pub fn device(device: impl Display, what: impl Display, fix: impl Display) -> Self {
        let [device, what, fix] = [&device as &dyn Display, &what, &fix].map(ToString::to_string);
        Error::Device { device, what, fix }
    }

    /// Makes the error for a failed file operation: `action` reads as "read", "write", "create".
    pub(crate) fn file(action: &str, path: &Path, reason: impl Display) -> Self {
        Error::File { action: action.into(), path: path.display().to_string(), reason: reason.to_string() }
    }

    /// Returns a function for `map_err` on I/O: `file.read(..).map_err(Error::io("read", path))`.
    pub fn io<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |e| {
            let reason = match e.kind() {
                io::ErrorKind::StorageFull => {
                    "the disk is full; free some space or choose another folder".into()
                }
                _ => e.to_string(),
            };
            Error::file(action, path, reason)
        }
    }
}

/// Notebooks print errors with `{:?}`: the message, not the fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
