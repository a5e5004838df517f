//! Disks that are full and folders that cannot be written. They are made for one command in a mount namespace of its own,
//! which takes root.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{common, names};

const BINARY: &str = env!("CARGO_BIN_EXE_streamtrace");

/// Runs a script in which `$D` is a folder with this mounted on it; `None`, with a printed reason, where that is not allowed.
fn with_mount(mount: &str, script: &str, variables: &[(&str, &Path)]) -> Option<Output> {
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

/// A file of that size is larger than the disk.
const SMALL_DISK: &str = "-t tmpfs -o size=64k none";

#[track_caller]
fn assert_failed(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} not in: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// What a command of the binary says on a mounted folder `$D`, where nothing may remain.
fn assert_nothing_remains(mount: &str, command: &str, words: &[&str]) {
    let model = common::random_model(json!({ "model_type": "llama" }));
    let prompt = model.path().join("prompt");
    std::fs::write(&prompt, common::prompt(2000)).unwrap();
    let before = names(model.path());
    let script = format!("{command}; echo \"exit $?, left: $(ls -A \"$D\")\"");
    let variables = [("MODEL", model.path()), ("PROMPT", prompt.as_path())];
    if let Some(output) = with_mount(mount, &script, &variables) {
        assert_failed(&output, words);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "exit 1, left:", "{command}");
    }
    assert_eq!(names(model.path()), before);
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    assert_nothing_remains(
        SMALL_DISK,
        "$STREAMTRACE trace --device cpu --json --model $MODEL --prompt-file $PROMPT --out $D/a.trace",
        &["cannot write", "a.trace", "the disk is full; free some space or choose another folder"],
    );
}

/// A trace is collected in the folder for temporary files before it is saved.
#[test]
fn a_full_disk_of_temporary_files_is_named() {
    let command = "TMPDIR=$D $STREAMTRACE trace --device cpu --model $MODEL --prompt-file $PROMPT --out $MODEL/a.trace";
    assert_nothing_remains(SMALL_DISK, command, &["cannot write", "the disk is full"]);
}

#[test]
fn a_picture_is_not_half_written() {
    let model = common::random_model(json!({ "model_type": "llama" }));
    let trace = model.path().join("a.trace");
    common::load(model.path()).unwrap().trace(&common::prompt(300)).unwrap().save(&trace).unwrap();
    let script = "for n in map overview; do
        \"$STREAMTRACE\" $n \"$TRACE\" $([ $n = map ] && echo --layer 0 --head 0) --out \"$D\"/a.svg; echo \"exit $?, left: $(ls -A \"$D\")\"
    done";
    if let Some(output) = with_mount("-t tmpfs -o size=4k none", script, &[("TRACE", &trace)]) {
        assert_failed(&output, &["cannot write", "a.svg", "the disk is full"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "exit 1, left: \n".repeat(2));
    }
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let words = ["cannot write", "a.trace", "Read-only file system"];
    assert_nothing_remains(
        "-t tmpfs -o ro none",
        "$STREAMTRACE trace --device cpu --model $MODEL --prompt-file $PROMPT --out $D/a.trace",
        &words,
    );
}

/// Standard output on a full disk is an error as any other.
#[test]
fn a_summary_that_cannot_be_printed_is_an_error() {
    let model = common::random_model(json!({ "model_type": "llama" }));
    for json in [&[][..], &["--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(BINARY);
        let output = command
            .args(["trace", "--device", "cpu", "--prompt", "w1 w2", "--model"])
            .arg(model.path())
            .args(json)
            .stdout(full)
            .output()
            .unwrap();
        assert_failed(&output, &["cannot write standard output", "the disk is full"]);
        assert_eq!(output.status.code(), Some(1));
    }
}
