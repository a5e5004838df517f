//! Commands that are not engines, and an engine's answers to foreign input.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use streamtrace::{
    Error, Tracer,
    protocol::{
        Payload, Reply,
        frame::{self, Message},
        process::{self, Process},
    },
};
use tempfile::TempDir;

use crate::{
    common,
    fixture::{BINARY, load, options, shell},
};

#[track_caller]
fn refusal(command: process::Command) -> String {
    match load(command).err() {
        Some(error @ Error::Engine { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands_that_are_no_engines_are_told_apart() {
    let missing = process::Command { program: "/nowhere/streamtrace".into(), arguments: Vec::new() };
    for (command, says) in [
        (missing, &["cannot start /nowhere/streamtrace", "No such file", "check the engine's command"][..]),
        (shell("echo hello"), &["something else than an engine answered", "hello"]),
        (shell("cat"), &["something else than an engine answered"]),
        (shell("exit 3"), &["it ended (exit status: 3)"]),
        (
            shell("echo 'no GPU, no engine' >&2; exit 1"),
            &["it ended (exit status: 1)", "its last words: no GPU, no engine"],
        ),
        (shell("exec 1>&-; cat > /dev/null"), &["was still running"]),
    ] {
        let error = refusal(command.clone());
        assert!(says.iter().all(|word| error.contains(word)), "{command:?}: {error}");
    }
}

/// Returns the frames that an engine could have sent, as bytes.
fn frames(messages: &[(Message, Payload)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|(message, payload)| frame::write(&mut bytes, message, payload).unwrap());
    bytes
}

/// Returns an "engine" that sends these bytes, whatever the request, and then runs a shell command.
fn recording(folder: &Path, bytes: &[u8], then: &str) -> process::Command {
    let file = folder.join("recording");
    std::fs::write(&file, bytes).unwrap();
    shell(&format!("cat {}; {then}", file.display()))
}

fn loaded() -> (Message, Payload) {
    let model = common::load(crate::fixture::model()).unwrap().model().clone();
    (Message::Reply(Reply::Loaded { model, device: "cpu".into() }), Payload::None)
}

#[test]
fn a_frame_cut_off_half_way_says_how_the_engine_ended() {
    let (folder, whole) = (TempDir::new().unwrap(), frames(&[loaded()]));
    for n in [3, 19, 20, 40, whole.len() - 1] {
        let error = refusal(recording(folder.path(), &whole[..n], "head -c 1 > /dev/null; exit 7"));
        assert!(error.contains("broke off") && error.contains("exit status: 7"), "{n}: {error}");
    }
    assert!(
        load(recording(folder.path(), &whole, "cat > /dev/null")).is_ok(),
        "the whole frame is none the worse"
    );
}

#[test]
fn another_protocol_version_asks_for_one_build() {
    let (folder, mut frame) = (TempDir::new().unwrap(), frames(&[loaded()]));
    frame[4] = frame::VERSION as u8 + 1;
    let error = refusal(recording(folder.path(), &frame, "cat > /dev/null"));
    assert!(
        error.contains(&format!("protocol version {} instead of", frame::VERSION + 1))
            && error.contains("the same version of streamtrace"),
        "{error}"
    );
}

#[test]
fn an_answer_to_another_question_is_an_error() {
    let folder = TempDir::new().unwrap();
    let bytes = frames(&[loaded(), (Message::Reply(Reply::Count(1)), Payload::None)]);
    let tracer = load(recording(folder.path(), &bytes, "cat > /dev/null")).unwrap();
    let error = tracer.trace("w1").err().unwrap().to_string();
    assert!(error.contains("answer to another question"), "{error}");
}

#[test]
fn a_damaged_trace_from_an_engine_is_an_error_and_the_next_call_works() {
    let folder = TempDir::new().unwrap();
    let mut traced = frames(&[(Message::Reply(Reply::Traced), Payload::Bytes(vec![7; 100]))]);
    // The body claims to be a trace.
    traced[6] = 1;
    let bytes = [frames(&[loaded()]), traced].concat();
    let tracer = load(recording(folder.path(), &bytes, "cat > /dev/null")).unwrap();
    assert!(matches!(tracer.trace("w1"), Err(Error::Trace { .. })));
    assert!(tracer.trace("w1").is_err());
}

/// Returns an engine's exit code and standard error after bytes that are not requests.
fn served(bytes: &[u8]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    let mut engine = command
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The engine may already have exited.
    let _ = engine.stdin.take().unwrap().write_all(bytes);
    let output = engine.wait_with_output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_engine_ends_with_a_sentence_when_something_else_speaks() {
    let request = |name: &str| {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, &serde_json::json!({ name: {} }), &Payload::None).unwrap();
        bytes
    };
    let whole = request("compare");
    for (bytes, says) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "GET / HTTP"),
        (b"hi".to_vec(), "hi"),
        (whole[..whole.len() - 2].to_vec(), "broke off"),
        (request("make_coffee"), "make_coffee"),
    ] {
        let (code, said) = served(&bytes);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(says) && said.starts_with("streamtrace: engine: "), "{said}");
    }
}

/// The environment belongs to the whole process, so this test runs itself again in a new process.
#[test]
fn an_engine_named_by_the_environment_must_be_there() {
    const HERE: &str = "STREAMTRACE_TEST_OF_THE_ENVIRONMENT";
    if std::env::var_os(HERE).is_none() {
        let test = ["--exact", "strangers::an_engine_named_by_the_environment_must_be_there"];
        let run = |engine: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(test).env(HERE, "1").env("STREAMTRACE_ENGINE", engine).output().unwrap()
        };
        for engine in ["/nowhere/streamtrace", BINARY] {
            let output = run(engine);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        return;
    }
    match process::Command::find() {
        Ok(command) => {
            assert_eq!(command.program, BINARY);
            let tracer = Tracer::over(Box::new(Process::new(command)), options()).unwrap();
            assert_eq!(tracer.count_tokens(&common::prompt(5)), Ok(5));
        }
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.contains("STREAMTRACE_ENGINE names /nowhere/streamtrace, which is not a file"),
                "{error}"
            );
            assert!(error.contains("cargo build --release --features engine"), "{error}");
        }
    }
}
