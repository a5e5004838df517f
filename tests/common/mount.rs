//! Full disks and read-only folders, for one command in a mount namespace of its own, which needs root.

use std::{
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_streamtrace");

/// Smaller than any model and most traces.
pub const SMALL_DISK: &str = "-t tmpfs -o size=64k none";

/// Runs a script in which `$D` is a folder with this mounted on it; prints why and returns `None` if mounting
/// is not allowed.
pub fn with_mount(mount: &str, script: &str, variables: &[(&str, &Path)]) -> Option<Output> {
    let folder = TempDir::new().unwrap();
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).env("D", folder.path()).env("STREAMTRACE", BINARY);
        command.envs(variables.iter().copied()).output()
    };
    let mount = format!("mount {mount} \"$D\"");
    match run(&mount) {
        Ok(output) if output.status.success() => Some(run(&format!("{mount} && {script}")).unwrap()),
        Ok(output) => skip(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => skip(&error.to_string()),
    }
}

fn skip(why: &str) -> Option<Output> {
    println!("skipped, as nothing can be mounted here (root can): {}", why.trim());
    None
}
