//! An engine in a process of its own: started when it is needed, again when it has ended.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use super::{
    Engine, LoadOptions, Payload, Progress, Reply, Request,
    protocol::{self, Message},
};
use crate::error::Error;

/// How an engine is started.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub program: OsString,
    pub arguments: Vec<OsString>,
}

impl Command {
    /// Where the binary can be: `$STREAMTRACE_ENGINE`, this crate's own release build, the `PATH`, cargo's binaries.
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
        let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(std::env::home_dir().map(|home| home.join(".cargo")));
        let folders = built.chain(std::env::split_paths(&path)).chain(cargo.map(|folder| folder.join("bin")));
        let places = named.clone().into_iter().chain(folders.map(|folder| folder.join(&name)).filter(|_| named.is_none()));
        let found = places.into_iter().find(|place| place.is_file());
        found.map(|program| Command { program: program.into(), arguments: vec!["serve".into()] }).ok_or_else(|| Error::Engine {
            what: match named {
                Some(named) => format!("STREAMTRACE_ENGINE names {}, which is not a file", named.display()),
                None => format!("the program {name} is not in {}/target/release nor on the PATH", env!("CARGO_MANIFEST_DIR")),
            },
            fix: "build it with `cargo build --release --features engine` in the crate's folder".into(),
        })
    }
}

/// An engine process, or the wish for one.
pub struct Process {
    command: Command,
    running: Option<Running>,
    /// The model that was loaded, for a new engine after the old one has ended.
    loaded: Option<LoadOptions>,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The last lines of standard error.
    said: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

/// Lines of standard error that are kept to explain an engine's end.
const LINES_KEPT: usize = 20;

impl Process {
    /// An engine that is started with this command at the first call.
    pub fn new(command: Command) -> Self {
        Process { command, running: None, loaded: None }
    }

    /// The engine, started if need be, with the model that the last one had.
    fn running(&mut self, request: &Request) -> Result<&mut Running, Error> {
        if self.running.is_none() {
            let running = self.running.insert(Running::start(&self.command)?);
            let needs_model = !matches!(request, Request::Load(_) | Request::Rasterize { .. });
            if let Some(options) = self.loaded.clone().filter(|_| needs_model) {
                let loading = running.call(&Request::Load(options), &Payload::None, &mut |_| {});
                if let Err(e) = loading {
                    self.running = None;
                    return Err(e);
                }
            }
        }
        self.running.as_mut().ok_or_else(|| Error::Engine { what: "it did not start".into(), fix: "call again".into() })
    }
}

impl Engine for Process {
    fn call(&mut self, request: Request, payload: Payload, progress: &mut dyn FnMut(Progress)) -> Result<(Reply, Payload), Error> {
        let result = self.running(&request)?.call(&request, &payload, progress);
        match (&result, request) {
            (Ok(_), Request::Load(options)) => self.loaded = Some(options),
            // The engine's own trouble, not the request's: what is left of it goes, and the next call starts afresh.
            (Err(Error::Engine { .. }), _) => self.running = None,
            _ => {}
        }
        result
    }
}

impl Running {
    fn start(command: &Command) -> Result<Self, Error> {
        let mut process = std::process::Command::new(&command.program);
        process.args(&command.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |what: String| Error::Engine { what, fix: "check the engine's command, or build it again".into() };
        let mut child = process.spawn().map_err(|e| failed(format!("cannot start {}: {e}", command.program.display())))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(failed("it has no standard input and output".into()));
        };
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let listener = std::thread::spawn({
            let said = said.clone();
            move || listen(stderr, &said)
        });
        Ok(Running { child, stdin, stdout: BufReader::new(stdout), said, listener: Some(listener) })
    }

    fn call(&mut self, request: &Request, payload: &Payload, progress: &mut dyn FnMut(Progress)) -> Result<(Reply, Payload), Error> {
        if protocol::write(&mut self.stdin, request, payload).is_err() {
            return Err(self.ended());
        }
        loop {
            match protocol::read(&mut self.stdout) {
                Ok(Some((Message::Progress(step), _))) => progress(step),
                Ok(Some((Message::Reply(reply), payload))) => return Ok((reply, payload)),
                Ok(Some((Message::Error(error), _))) => return Err(error),
                Ok(None) => return Err(self.ended()),
                Err(e @ Error::Engine { .. }) if self.child.try_wait().is_ok_and(|status| status.is_none()) => return Err(e),
                Err(Error::Engine { .. }) => return Err(self.ended()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Why the engine is gone, by its exit status and last words.
    fn ended(&mut self) -> Error {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < patience {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        self.listener.take().map(JoinHandle::join);
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect::<Vec<_>>().join("\n");
        let words = if said.is_empty() { String::new() } else { format!("; its last words: {said}") };
        Error::Engine { what: format!("it ended ({status}){words}"), fix: "your traces are kept; the next call starts a new engine".into() }
    }
}

/// An engine ends with its handle, also one in the middle of a run.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
