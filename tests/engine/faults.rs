//! Faults at every stage: saved files stay, temporary files vanish, and the next call works.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use streamtrace::{
    Error, LoadOptions, StreamConfig, Trace, Tracer,
    protocol::{
        Engine, Payload, Progress, Request,
        process::{self, Process},
    },
};
use tempfile::TempDir;

use crate::{
    common,
    fixture::{BINARY, load, model, options, shell},
};

fn prompt() -> String {
    common::prompt(300)
}

/// A folder for engines: their temporary files, output and process ids.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("temporary")).unwrap();
        Place(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a shell command in this folder.
    fn shell(&self, line: &str) -> process::Command {
        shell(&format!("cd {} && export TMPDIR=$PWD/temporary && {line}", self.0.path().display()))
    }

    /// Returns an engine; the first one is killed after it has written `n_bytes`.
    fn killed_after(&self, n_bytes: usize) -> process::Command {
        self.shell(&format!(
            "[ -e pipe ] && exec {BINARY} serve; mkfifo pipe; exec 3<&0; {BINARY} serve <&3 > pipe & \
             dd bs=1 count={n_bytes} status=none < pipe; kill -9 $!"
        ))
    }

    /// Returns an engine that writes down its process id.
    fn known(&self) -> process::Command {
        self.shell(&format!("echo $$ > pid; exec {BINARY} serve"))
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.file("pid")).unwrap();
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
    }

    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(std::fs::read_dir(self.file("temporary")).unwrap().count(), 0);
    }
}

fn assert_same(trace: &Trace, expected: &Trace) {
    assert_eq!(
        (trace.logits(), trace.mask(5).unwrap().kept),
        (expected.logits(), expected.mask(5).unwrap().kept)
    );
}

/// Kills the engine while it loads, after each layer, while it writes the trace, and while it sends the
/// trace.
#[test]
fn an_engine_killed_at_any_stage_is_replaced() {
    let place = Place::new();
    let tracer = load(place.shell(&format!("{BINARY} serve | tee said"))).unwrap();
    let expected = tracer.trace(&prompt()).unwrap();
    expected.save(place.file("a.trace")).unwrap();
    // The output before an answer has been recorded when the next answer arrives.
    tracer.count_tokens("w1").unwrap();
    let said = std::fs::read(place.file("said")).unwrap();
    let places = |word: &'static [u8]| (0..said.len()).filter(|&at| said[at..].starts_with(word));
    let n_loaded = places(b"STRM").nth(1).expect("a frame after the model's");
    let mut stages: Vec<usize> =
        [0, 10, n_loaded - 1, n_loaded].into_iter().chain(places(b"\"stage\":")).collect();
    assert_eq!(stages.len(), 4 + 6, "each layer is reported");
    stages.extend([said.len() / 2, said.len() * 9 / 10]);
    for n_bytes in stages {
        let place = Place::new();
        let ended = |error: Option<Error>| {
            assert!(matches!(error, Some(Error::Engine { .. })), "{n_bytes}: {error:?}")
        };
        let tracer = if n_bytes < n_loaded {
            ended(load(place.killed_after(n_bytes)).err());
            load(place.killed_after(n_bytes)).unwrap()
        } else {
            let tracer = load(place.killed_after(n_bytes)).unwrap();
            ended(tracer.trace(&prompt()).err());
            tracer
        };
        assert_same(&tracer.trace(&prompt()).unwrap(), &expected);
        place.assert_clean();
    }
    assert_same(&Trace::open(place.file("a.trace")).unwrap(), &expected);
}

#[test]
fn an_engine_that_is_asked_to_end_does_at_once_and_is_replaced() {
    let place = Place::new();
    let mut engine = Process::new(place.known());
    let mut call =
        |request, progress: &mut dyn FnMut(Progress)| engine.call(request, Payload::None, progress);
    call(Request::Load(options()), &mut |_| {}).unwrap();
    for layer in [1, 4] {
        let request = Request::Trace { prompt: common::prompt(2000), config: StreamConfig::default() };
        let ended = call(request, &mut |progress| {
            if matches!(progress, Progress::Layer(done) if done.layer == layer) {
                place.signal("-TERM");
            }
        });
        let error = ended.err().expect("an end").to_string();
        assert!(
            error.contains("signal: 15") && error.contains("the next call starts a new engine"),
            "{error}"
        );
        assert!(call(Request::CountTokens { text: "w1".into() }, &mut |_| {}).is_ok());
        place.assert_clean();
    }
}

/// If the mapped weights' file is truncated, a signal kills the engine, and nothing else is lost.
#[test]
fn weights_that_are_cut_off_while_they_are_in_use_are_an_error() {
    let model = common::random_model(serde_json::json!({ "model_type": "llama" }));
    let weights = model.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let place = Place::new();
    let load = || {
        let process = Process::new(place.shell(&format!("exec {BINARY} serve")));
        Tracer::over(Box::new(process), common::cpu(model.path()))
    };
    let tracer = load().unwrap();
    let expected = tracer.trace(&prompt()).unwrap();
    File::options().write(true).open(&weights).unwrap().set_len(0).unwrap();
    let error = tracer.trace(&prompt()).err().unwrap().to_string();
    assert!(error.contains("model.safetensors") && error.contains("load the model again"), "{error}");
    let error = load().err().unwrap().to_string();
    assert!(error.contains("model.safetensors") && error.contains("download it again"), "{error}");
    std::fs::write(&weights, whole).unwrap();
    assert_eq!(load().unwrap().trace(&prompt()).unwrap().logits(), expected.logits());
}

fn saved_at_once(tracers: &[Tracer], path: &Path) {
    thread::scope(|scope| {
        for tracer in tracers {
            scope.spawn(move || (0..5).for_each(|_| tracer.trace(&prompt()).unwrap().save(path).unwrap()));
        }
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(20));
            // A concurrent reader finds either no trace or a whole one.
            if path.exists() {
                Trace::open(path).unwrap();
            }
        }
    });
}

#[test]
fn two_notebooks_on_one_engine_and_one_folder_do_not_meet() {
    let place = Place::new();
    let tracers = [0, 1].map(|_| load(place.shell(&format!("exec {BINARY} serve"))).unwrap());
    saved_at_once(&tracers, &place.file("a.trace"));
    assert_same(
        &Trace::open(place.file("a.trace")).unwrap(),
        &common::load(model()).unwrap().trace(&prompt()).unwrap(),
    );
    drop(tracers);
    place.assert_clean();
    assert_eq!(
        std::fs::read_dir(place.file(".")).unwrap().count(),
        2,
        "the trace, and the folder of temporary files"
    );
}

/// A run that does not fit is refused, and the same engine then runs one that fits.
#[test]
fn a_run_that_memory_does_not_allow_leaves_the_engine_as_it_was() {
    let place = Place::new();
    let enough = common::load(model()).unwrap().plan(2000).unwrap().total();
    let options = LoadOptions { memory: Some(enough), ..options() };
    let tracer = Tracer::over(Box::new(Process::new(place.known())), options).unwrap();
    let pid = std::fs::read(place.file("pid")).unwrap();
    assert!(matches!(tracer.trace(&common::prompt(20_000)), Err(Error::Memory { .. })));
    assert!(tracer.trace(&prompt()).is_ok());
    assert_eq!(std::fs::read(place.file("pid")).unwrap(), pid);
}
