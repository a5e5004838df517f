//! Full disks and read-only folders.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::json;

use crate::{
    common,
    mount::{SMALL_DISK, with_mount},
    names,
};

#[track_caller]
fn assert_failed(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} not in: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Returns the output of a command of the binary on a mounted folder `$D`, in which no file may remain.
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
    let command =
        "TMPDIR=$D $STREAMTRACE trace --device cpu --model $MODEL --prompt-file $PROMPT --out $MODEL/a.trace";
    assert_nothing_remains(SMALL_DISK, command, &["cannot write", "the disk is full"]);
}

/// Every verb that writes a file, on a disk too small for it and in a read-only folder.
#[test]
fn nothing_is_half_written() {
    let folder = tempfile::TempDir::new().unwrap();
    let trace = folder.path().join("a.trace");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    let prompt = "The harp is green. A door is a door, as they say here. ".repeat(12) + "What is green? The";
    common::load(&model).unwrap().trace(&prompt).unwrap().save(&trace).unwrap();
    let script = r#"
        said() { echo "$1 exit $?, left: $(ls -A "$D")"; }
        run() { verb=$1 ending=$2; shift 2; "$STREAMTRACE" $verb "$@" --out "$D/a.$ending" > /dev/null; said $verb; }
        on() { run "$@" --device cpu --model "$MODEL"; }
        run map svg "$TRACE" --layer 0 --head 0
        run map png "$TRACE" --layer 0 --head 0
        run overview svg "$TRACE"
        run explore html "$TRACE"
        run report html "$TRACE"
        run report md "$TRACE"
        run edges csv "$TRACE"
        run edges parquet "$TRACE"
        run edges csv "$TRACE" --sentences
        run anchors svg "$TRACE"
        run anchors html "$TRACE"
        run routes svg "$TRACE" --from "The harp"
        on knock-out png "$TRACE" --from "The harp" --controls 2
        on compare svg --prompt "The harp is green."
        on heads svg --task niah_single_2 --tokens 600 --samples 1
        on ruler svg --task niah_single_2 --tokens 600 --samples 1
    "#;
    let variables = [("TRACE", trace.as_path()), ("MODEL", &model)];
    for (mount, words) in [
        ("-t tmpfs -o size=4k none", &["cannot write", "the disk is full; free some space"]),
        ("-t tmpfs -o ro none", &["cannot write", "Read-only file system"]),
    ] {
        let Some(output) = with_mount(mount, script, &variables) else { return };
        assert_failed(&output, words);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.lines().count(), 16, "{said}");
        assert!(said.lines().all(|line| line.ends_with("exit 1, left: ")), "{said}");
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

/// Standard output on a full disk is an error like any other.
#[test]
fn a_summary_that_cannot_be_printed_is_an_error() {
    let model = common::random_model(json!({ "model_type": "llama" }));
    for json in [&[][..], &["--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
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
