//! Engine processes whose process ids are known.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::json;
use streamtrace::{
    Error, LoadOptions, Tracer,
    protocol::process::{Command, Process},
};
use tempfile::TempDir;

use crate::common;

pub const BINARY: &str = env!("CARGO_BIN_EXE_streamtrace");

static MODEL: LazyLock<TempDir> =
    LazyLock::new(|| common::random_model(json!({ "model_type": "llama", "num_hidden_layers": 6 })));

/// Returns a small model.
pub fn model() -> &'static Path {
    MODEL.path()
}

pub fn options() -> LoadOptions {
    common::cpu(model())
}

/// Returns a shell command in place of an engine.
pub fn shell(script: &str) -> Command {
    Command { program: "sh".into(), arguments: ["-c", script].map(Into::into).to_vec() }
}

/// Returns an engine process that is told which model to load.
pub fn load(command: Command) -> Result<Tracer, Error> {
    Tracer::over(Box::new(Process::new(command)), options())
}

/// Engines that record their process ids, one per line.
pub struct Engines {
    folder: TempDir,
}

impl Engines {
    pub fn new() -> Self {
        Engines { folder: TempDir::new().unwrap() }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("pids")
    }

    pub fn load(&self) -> Tracer {
        load(shell(&format!("echo $$ >> {}; exec {BINARY} serve", self.file().display()))).unwrap()
    }

    /// Returns the process ids of all engines that were started so far.
    pub fn pids(&self) -> Vec<String> {
        std::fs::read_to_string(self.file()).unwrap().lines().map(Into::into).collect()
    }

    /// Kills the newest engine.
    pub fn kill(&self) {
        kill(self.pids().last().unwrap());
    }
}

pub fn kill(pid: &str) {
    assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
}

/// Returns whether a process is alive, and not a zombie.
pub fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}
