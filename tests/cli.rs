//! The command line on the bundled model: its output on both streams, its files, its exit codes.
#![cfg(feature = "engine")]

#[path = "cli/aliases.rs"]
mod aliases;
#[path = "cli/batch.rs"]
mod batch;
#[path = "cli/compare.rs"]
mod compare;
#[path = "cli/ends.rs"]
mod ends;
#[path = "cli/first_hour.rs"]
mod first_hour;
#[path = "cli/ranks.rs"]
mod ranks;
#[path = "cli/ruler.rs"]
mod ruler;
#[path = "cli/saved.rs"]
mod saved;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/texts.rs"]
mod texts;
#[path = "cli/trace.rs"]
mod trace;

use std::{
    path::Path,
    process::{Command, Output},
    sync::LazyLock,
};

use serde_json::Value;
use streamtrace::{
    DeviceChoice, LoadOptions, Tracer,
    tasks::{Prompt, RulerConfig, Task},
};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/needle-6m");

/// A prompt of a thousand tokens with a needle among others.
static NEEDLE: LazyLock<Prompt> = LazyLock::new(|| {
    let options = LoadOptions { model: MODEL.into(), device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let task = RulerConfig { task: Task::NiahMultikey1, n_tokens: 1000, seed: 3, ..RulerConfig::default() };
    Tracer::load_with(options).unwrap().prompt(&task).unwrap()
});

/// Runs the program; it reports every step.
fn streamtrace(arguments: &[&str]) -> Output {
    streamtrace_every("0", arguments)
}

/// Runs the program; it reports every so many seconds.
fn streamtrace_every(seconds: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
    command.args(arguments).env("STREAMTRACE_PROGRESS_SECONDS", seconds).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs `command` on the bundled model; it must succeed.
#[track_caller]
fn run(command: &str, arguments: &[&str]) -> Output {
    let output = streamtrace(
        &[&[command, "--device", "cpu", "--model", MODEL, "--prompt", &NEEDLE.text][..], arguments].concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

/// Returns the one JSON object on standard output.
#[track_caller]
fn object(output: &Output) -> Value {
    assert_eq!(stdout(output).lines().count(), 1, "{}", stdout(output));
    let value: Value = serde_json::from_str(stdout(output)).unwrap();
    assert!(value.is_object());
    value
}

fn fields(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Returns a saved trace of the prompt.
fn saved(folder: &Path) -> String {
    let path = folder.join("a.trace").display().to_string();
    run("trace", &["--out", &path, "--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4"]);
    path
}

/// The fields of a trace's summary, as its file has them.
const SUMMARY_FIELDS: [&str; 14] = [
    "config",
    "device",
    "fidelity",
    "focus",
    "keys_read_per_query_block",
    "model",
    "n_tokens",
    "next_token",
    "peak_memory_bytes",
    "planned_memory_bytes",
    "pruned",
    "recall",
    "seconds",
    "version",
];

/// Checks that standard error ends with one sentence after the progress, and that standard output is empty.
#[track_caller]
fn assert_fails(arguments: &[&str], words: &[&str]) {
    let output = streamtrace(arguments);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""), "{arguments:?}: {}", stderr(&output));
    let said = stderr(&output).lines().last().unwrap_or_default();
    assert!(
        said.starts_with("streamtrace: ") && words.iter().all(|word| said.contains(word)),
        "{arguments:?}: {said}"
    );
}
