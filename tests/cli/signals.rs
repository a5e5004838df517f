//! A command that a signal ends leaves no files behind.
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::MODEL;

/// Returns whether this process and its children ignore a signal, as a shell makes its background jobs ignore
/// interrupts.
fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.unwrap_or(0) >> (number - 1) & 1 == 1
}

#[test]
fn a_run_that_is_ended_leaves_what_was_there() {
    for (name, number) in [("-TERM", 15), ("-INT", 2)].into_iter().filter(|(_, number)| !is_ignored(*number))
    {
        let folder = TempDir::new().unwrap();
        let [out, temporary, prompt] =
            ["a.trace", "temporary", "prompt"].map(|name| folder.path().join(name));
        std::fs::create_dir(&temporary).unwrap();
        std::fs::write(&out, "what was there").unwrap();
        std::fs::write(&prompt, "A prompt that takes its time. ".repeat(120)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
        command.args(["trace", "--device", "cpu", "--model", MODEL]).arg("--prompt-file").arg(&prompt);
        command
            .arg("--out")
            .arg(&out)
            .env("TMPDIR", &temporary)
            .env("STREAMTRACE_PROGRESS_SECONDS", "0")
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut run = command.spawn().unwrap();
        let mut progress = BufReader::new(run.stderr.take().unwrap()).lines();
        assert!(progress.any(|line| line.unwrap().contains("layer 1 of 6")));
        assert!(Command::new("kill").args([name, &run.id().to_string()]).status().unwrap().success());
        assert_eq!(run.wait().unwrap().signal(), Some(number));
        assert_eq!(std::fs::read(&out).unwrap(), b"what was there");
        assert_eq!(
            (std::fs::read_dir(&folder).unwrap().count(), std::fs::read_dir(&temporary).unwrap().count()),
            (3, 0)
        );
    }
}
