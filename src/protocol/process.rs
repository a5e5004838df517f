//! An engine in a process of its own: started when it is needed, again when it has ended.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Engine, LoadOptions, Payload, Progress, Reply, Request,
    beside::Shown,
    frame::{self, Message},
};
use crate::{
    error::Error,
    trace::{Pieces, Trace},
};

/// The command that starts an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub program: OsString,
    pub arguments: Vec<OsString>,
}

impl Command {
    /// Makes a command of a line for the shell, such as `ssh gpu streamtrace serve`.
    pub fn line(line: &str) -> Self {
        let (shell, option) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        Command { program: shell.into(), arguments: vec![option.into(), line.into()] }
    }

    /// Finds the binary: `$STREAMTRACE_ENGINE`, this crate's own release build, the `PATH`, cargo's binaries.
    ///
    /// # Errors
    /// [`Error::Engine`] naming the places and how to build it.
    pub fn find() -> Result<Self, Error> {
        let name = format!("streamtrace{}", std::env::consts::EXE_SUFFIX);
        let named = std::env::var_os("STREAMTRACE_ENGINE").map(PathBuf::from);
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let built = [target, Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))];
        let built = built.into_iter().flatten().map(|folder| folder.join("release"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let cargo = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or(std::env::home_dir().map(|home| home.join(".cargo")));
        let folders = built.chain(std::env::split_paths(&path)).chain(cargo.map(|folder| folder.join("bin")));
        let places = named
            .clone()
            .into_iter()
            .chain(folders.map(|folder| folder.join(&name)).filter(|_| named.is_none()));
        let found = places.into_iter().find(|place| place.is_file());
        found.map(|program| Command { program: program.into(), arguments: vec!["serve".into()] }).ok_or_else(
            || {
                Error::engine(
                    match named {
                        Some(named) => {
                            format!("STREAMTRACE_ENGINE names {}, which is not a file", named.display())
                        }
                        None => format!(
                            "the program {name} is not in {}/target/release nor on the PATH",
                            env!("CARGO_MANIFEST_DIR")
                        ),
                    },
                    "build it with `cargo build --release --features engine` in the crate's folder",
                )
            },
        )
    }
}

/// An engine process, or the wish for one.
pub struct Process {
    command: Command,
    running: Option<Running>,
    /// The model that was loaded, for a new engine after the old one has ended.
    loaded: Option<LoadOptions>,
    /// The part that arrived of a trace whose engine has gone.
    arrived: Option<Trace>,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The last lines of standard error.
    said: Arc<Mutex<VecDeque<String>>>,
    listener: JoinHandle<()>,
    /// Held open for the engine to read: so it knows that it need not send its traces.
    _shown: Option<Shown>,
}

/// How long an engine that has stopped answering may take to end by itself, which tells more than killing it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Lines of standard error that are kept to explain an engine's end.
const LINES_KEPT: usize = 20;

impl Process {
    /// Makes an engine that is started with this command at the first call.
    pub fn new(command: Command) -> Self {
        #[cfg(unix)]
        super::kernel::end_with_kernel();
        Process { command, running: None, loaded: None, arrived: None }
    }

    /// Returns the engine, started if need be, with the model that the last one had.
    fn running(&mut self, request: &Request) -> Result<&mut Running, Error> {
        if self.running.is_none() {
            let running = self.running.insert(Running::start(&self.command)?);
            let needs_model = !matches!(request, Request::Load(_) | Request::Rasterize { .. });
            if let Some(options) = self.loaded.clone().filter(|_| needs_model) {
                let loading = running.call(
                    &Request::Load(options),
                    &Payload::None,
                    &mut |_| {},
                    &mut Pieces::default(),
                );
                if let Err(e) = loading.flatten() {
                    self.running = None;
                    return Err(e);
                }
            }
        }
        self.running.as_mut().ok_or_else(|| Error::engine("it did not start", "call again"))
    }
}

impl Engine for Process {
    fn call(
        &mut self,
        request: Request,
        payload: Payload,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Reply, Payload), Error> {
        let mut pieces = Pieces::default();
        let answer = self.running(&request)?.call(&request, &payload, progress, &mut pieces);
        match (answer, request) {
            (Ok(Ok((Reply::Traced, Payload::None))), _) => Ok((Reply::Traced, whole(pieces)?)),
            (Ok(Ok(answer)), Request::Load(options)) => {
                self.loaded = Some(options);
                Ok(answer)
            }
            (Ok(answer), _) => answer,
            // The engine failed, not the request: its remains go, and the next call starts afresh.
            (Err(error), _) => {
                self.running = None;
                let Ok(Some(arrived)) = pieces.trace() else { return Err(error) };
                let error = with_arrived(error, &arrived);
                self.arrived = Some(arrived);
                Err(error)
            }
        }
    }

    fn arrived(&mut self) -> Option<Trace> {
        self.arrived.take()
    }
}

/// Returns the trace that came in pieces.
fn whole(pieces: Pieces) -> Result<Payload, Error> {
    pieces.trace()?.map(Payload::Trace).ok_or_else(|| frame::foreign("a trace without layers".into()))
}

/// Returns the error for an engine's end in the middle of a trace.
fn with_arrived(error: Error, trace: &Trace) -> Error {
    let Error::Engine { what, fix } = error else { return error };
    let (n, all) = (trace.layers().len(), trace.n_layers());
    Error::engine(
        format!("{what}; {n} of {all} layers of the trace arrived"),
        format!("Tracer::arrived has them; {fix}"),
    )
}

/// An engine's answer, which may be an error; or the reason why there is no answer.
type Answer = Result<Result<(Reply, Payload), Error>, Error>;

impl Running {
    fn start(command: &Command) -> Result<Self, Error> {
        let mut process = std::process::Command::new(&command.program);
        process.args(&command.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = Shown::new();
        process.envs(shown.as_ref().and_then(Shown::variable));
        let failed = |what: String| Error::engine(what, "check the engine's command, or build it again");
        let mut child = process
            .spawn()
            .map_err(|e| failed(format!("cannot start {}: {e}", command.program.display())))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("it has no standard input and output".into()));
        };
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let listener = std::thread::spawn({
            let said = said.clone();
            move || listen(stderr, &said)
        });
        Ok(Running { child, stdin, stdout: BufReader::new(stdout), said, listener, _shown: shown })
    }

    fn call(
        &mut self,
        request: &Request,
        payload: &Payload,
        progress: &mut dyn FnMut(Progress),
        pieces: &mut Pieces,
    ) -> Answer {
        if frame::write(&mut self.stdin, request, payload).is_err() {
            let said = self.last_answer();
            return Err(self.ended(said));
        }
        loop {
            match frame::read(&mut self.stdout) {
                Ok(Some((Message::Progress(step), _))) => progress(step),
                Ok(Some((Message::Piece, payload))) => {
                    let added =
                        frame::unpacked(payload).and_then(|piece| pieces.add(&piece).map_err(frame::foreign));
                    if let Err(Error::Engine { what, fix }) = added {
                        return Err(self.ended(Some((what, fix))));
                    }
                }
                Ok(Some((Message::Reply(reply), payload))) => return Ok(Ok((reply, payload))),
                Ok(Some((Message::Error(error), _))) => return Ok(Err(error)),
                Ok(None) => return Err(self.ended(None)),
                Err(Error::Engine { what, fix }) => return Err(self.ended(Some((what, fix)))),
                Err(e) => return Err(e),
            }
        }
    }

    /// Returns the fault in the last answer of an engine that did not take its request, once it has ended.
    fn last_answer(&mut self) -> Option<(String, String)> {
        wait_for(PATIENCE, || !matches!(self.child.try_wait(), Ok(None)));
        match self.child.try_wait() {
            Ok(Some(_)) => match frame::read::<Message>(&mut self.stdout) {
                Err(Error::Engine { what, fix }) => Some((what, fix)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the reason why the engine is gone, from the fault in its answer and the remedy, its exit
    /// status and its last words.
    fn ended(&mut self, heard: Option<(String, String)>) -> Error {
        wait_for(PATIENCE, || !matches!(self.child.try_wait(), Ok(None)));
        let end = match self.child.try_wait() {
            Ok(Some(status)) => format!("it ended ({status})"),
            _ => "it was still running, and was ended".into(),
        };
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A process that the engine started may outlive it and hold its standard error open.
        wait_for(Duration::from_millis(500), || self.listener.is_finished());
        let said = self
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        let words = (!said.is_empty()).then(|| format!("its last words: {said}"));
        let (heard, fix) = heard.unzip();
        let what = heard.into_iter().chain([end]).chain(words).collect::<Vec<_>>().join("; ");
        Error::engine(
            what,
            fix.unwrap_or_else(|| "your traces are kept; the next call starts a new engine".into()),
        )
    }
}

/// An engine ends with its handle, also one in the middle of a run.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something has happened, but not for ever.
fn wait_for(patience: Duration, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() && start.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listen(stderr: impl Read, said: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == LINES_KEPT {
            said.pop_front();
        }
        said.push_back(line);
    }
}
