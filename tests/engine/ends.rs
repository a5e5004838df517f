//! Ways in which engines end, and what their users see.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use streamtrace::{
    Error, Search, StreamConfig, Tracer,
    protocol::{
        Payload, Request,
        frame::{self, Message},
    },
};

use crate::{
    common,
    fixture::{BINARY, Engines, is_running, kill, options},
};

/// Returns a prompt and settings that keep an engine busy for many seconds.
fn long_run() -> (String, StreamConfig) {
    (common::prompt(40_000), StreamConfig { search: Search::Exhaustive, ..StreamConfig::default() })
}

#[track_caller]
fn assert_killed(error: Option<Error>) {
    let Some(Error::Engine { what, fix }) = error else { panic!("{error:?}") };
    assert!(what.contains("it ended (signal: 9"), "{what}");
    assert!(fix.contains("the next call starts a new engine"), "{fix}");
}

#[test]
fn an_engine_killed_in_the_middle_of_a_run_is_replaced_by_the_next_call() {
    let engines = Engines::new();
    let tracer = engines.load();
    let trace = tracer.trace(&common::prompt(100)).unwrap();
    let (prompt, config) = long_run();
    let (long, started) = (tracer.with(config), Instant::now());
    let run = thread::spawn(move || long.trace(&prompt));
    thread::sleep(Duration::from_millis(500));
    engines.kill();
    assert_killed(run.join().unwrap().err());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    assert_eq!(trace.head(5, 3).unwrap().received().len(), 100);
    assert!(trace.attention_map(0, 0).is_ok());

    let again = tracer.trace(&common::prompt(100)).unwrap();
    assert_eq!(again.logits(), trace.logits());
    assert_eq!(engines.pids().len(), 2, "one new engine");
}

#[test]
fn an_idle_engine_that_was_killed_is_replaced_after_one_error() {
    let engines = Engines::new();
    let tracer = engines.load();
    engines.kill();
    assert_killed(tracer.count_tokens("w1").err());
    assert_eq!(tracer.count_tokens("w1"), Ok(1));
    assert_eq!(engines.pids().len(), 2);
}

#[test]
fn a_new_engine_whose_model_is_gone_says_so() {
    let engines = Engines::new();
    let folder = common::random_model(serde_json::json!({ "model_type": "llama" }));
    let mut options = options();
    options.model = folder.path().into();
    let script = format!("echo $$ >> {}; exec {BINARY} serve", engines.file().display());
    let process = streamtrace::protocol::process::Process::new(crate::fixture::shell(&script));
    let tracer = Tracer::over(Box::new(process), options).unwrap();
    folder.close().unwrap();
    engines.kill();
    assert_killed(tracer.count_tokens("w1").err());
    for _ in 0..2 {
        assert!(matches!(tracer.count_tokens("w1"), Err(Error::Model { .. })));
    }
}

#[test]
fn an_engine_ends_with_its_tracer() {
    let engines = Engines::new();
    let tracer = engines.load();
    let pid = engines.pids().remove(0);
    assert!(is_running(&pid));
    drop(tracer);
    assert!(!is_running(&pid));
}

/// Returns an engine that has received these requests.
fn engine(requests: &[Request]) -> Child {
    let mut engine =
        Command::new(BINARY).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    for request in requests {
        frame::write(engine.stdin.as_mut().unwrap(), request, &Payload::None).unwrap();
    }
    engine
}

/// Closes an engine's standard input and waits for its end.
fn close(mut engine: Child) -> (Duration, std::process::ExitStatus) {
    let closed = Instant::now();
    drop(engine.stdin.take());
    while engine.try_wait().unwrap().is_none() && closed.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
    let took = closed.elapsed();
    kill_if_running(&mut engine);
    (took, engine.wait().unwrap())
}

fn kill_if_running(engine: &mut Child) {
    if engine.try_wait().unwrap().is_none() {
        kill(&engine.id().to_string());
    }
}

#[test]
fn the_end_of_its_input_ends_an_idle_engine() {
    let (took, status) = close(engine(&[]));
    assert!(took < Duration::from_secs(1) && status.success(), "{took:?} {status}");
}

#[test]
fn the_end_of_its_input_ends_an_engine_in_the_middle_of_a_run() {
    let (prompt, config) = long_run();
    let mut engine = engine(&[Request::Load(options()), Request::Trace { prompt, config }]);
    let mut output = engine.stdout.take().unwrap();
    assert!(matches!(frame::read(&mut output).unwrap(), Some((Message::Reply(_), _))), "loaded");
    thread::sleep(Duration::from_millis(500));
    let (took, status) = close(engine);
    assert!(took < Duration::from_secs(1) && status.success(), "{took:?} {status}");
    let rest = std::iter::from_fn(|| frame::read::<Message>(&mut output).unwrap());
    assert!(rest.into_iter().all(|(message, _)| matches!(message, Message::Progress(_))), "it answered");
}

/// Nobody reads the engine's output.
#[test]
fn an_engine_without_listeners_ends_with_a_sentence() {
    let mut engine = Command::new(BINARY)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(engine.stdout.take());
    // Its input stays open, so that a closed input cannot end it.
    let mut input = engine.stdin.take().unwrap();
    frame::write(&mut input, &Request::Load(options()), &Payload::None).unwrap();
    let status = engine.wait().unwrap();
    let said = std::io::read_to_string(engine.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("nobody listens"), "{said}");
}
