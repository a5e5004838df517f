//! A local server that answers like the hub, or as badly as its mirrors, with the files of one folder as the model
//! `tiny/llama`.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use flate2::{Compression, read::GzEncoder};
use serde_json::json;

use crate::hash::sha256;

/// How the server answers.
#[derive(Clone)]
pub struct Manner {
    pub compress: Compress,
    /// Whether it knows ranges.
    pub ranges: bool,
    /// Whether answers say how long they are.
    pub lengths: bool,
    /// Whether answers have an ETag.
    pub marks: bool,
    pub redirect: Redirect,
    /// Answers only requests with this token.
    pub token: Option<&'static str>,
    /// Describes the repository so.
    pub description: Option<&'static str>,
    /// Refuses files with this status and word of the hub.
    pub refusal: Option<(&'static str, &'static str)>,
    /// Drops the connection after this many bytes of the weights.
    pub cut: Option<usize>,
    /// Changes a byte of the weights.
    pub damaged: bool,
    /// Requests for files that are answered with 503 before any other.
    pub n_busy: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Compress {
    Never,
    /// Files of JSON, where the request offers it.
    WhenOffered,
    Always,
}

#[derive(Clone, PartialEq)]
pub enum Redirect {
    None,
    /// Small files to another path of this server.
    Relative,
    /// The weights to a store, another server that wants no token.
    Store(String),
    /// Everything from `tiny/llama` to `new/name`.
    Renamed,
    Circle,
}

impl Default for Manner {
    fn default() -> Self {
        Manner {
            compress: Compress::Never,
            ranges: true,
            lengths: true,
            marks: true,
            redirect: Redirect::None,
            token: None,
            description: None,
            refusal: None,
            cut: None,
            damaged: false,
            n_busy: 0,
        }
    }
}

/// What a server did.
#[derive(Default)]
struct Seen {
    /// Offset of the first byte of each file that was sent.
    starts: Mutex<Vec<usize>>,
    n_files: AtomicUsize,
    /// Whether a token was sent to a store.
    has_leaked: AtomicBool,
}

pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    seen: Arc<Seen>,
    thread: Option<thread::JoinHandle<()>>,
}

/// One request.
struct Request {
    path: String,
    headers: Vec<String>,
}

impl Server {
    pub fn of(folder: &Path, commit: &'static str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, folder) = (listener.local_addr().unwrap(), folder.to_path_buf());
        let (stopped, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let thread = thread::spawn({
            let (stopped, seen) = (stopped.clone(), seen.clone());
            move || {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    // A client may disconnect at any time.
                    let _ = serve(&stream.unwrap(), &folder, commit, &manner, &seen);
                }
            }
        });
        Server { address, stopped, seen, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn starts(&self) -> Vec<usize> {
        self.seen.starts.lock().unwrap().clone()
    }

    pub fn n_files_sent(&self) -> usize {
        self.starts().len()
    }

    pub fn has_leaked(&self) -> bool {
        self.seen.has_leaked.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Request {
    fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
        let path = request.split(' ').nth(1).unwrap_or_default().to_string();
        Ok(Request { path, headers: headers.map(|line| line.to_lowercase()).collect() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn serve(
    stream: &TcpStream,
    folder: &Path,
    commit: &str,
    manner: &Manner,
    seen: &Seen,
) -> std::io::Result<()> {
    let request = Request::read(stream)?;
    let authorization = request.header("authorization");
    let is_known =
        manner.token.is_none_or(|token| authorization == Some(&format!("bearer {token}").to_lowercase()));
    let path = request.path.as_str();
    if let Some(name) = path.strip_prefix("/store/") {
        seen.has_leaked.fetch_or(authorization.is_some(), Ordering::SeqCst);
        return send(stream, &folder.join(name), commit, &request, manner, seen);
    }
    if !is_known {
        return refuse(stream, "401 Unauthorized", "");
    }
    let name = if manner.redirect == Redirect::Renamed { "new/name" } else { "tiny/llama" };
    if name == "new/name" && path.contains("/tiny/llama/") {
        return redirect(stream, &path.replace("tiny/llama", name), "");
    }
    if path == format!("/api/models/{name}/revision/main") {
        return match manner.description {
            Some(description) => say(stream, description),
            None => describe(stream, folder, commit),
        };
    }
    let file = path.strip_prefix(&format!("/{name}/resolve/{commit}/")).or(path.strip_prefix("/cached/"));
    let Some(file) = file.map(|file| folder.join(file)).filter(|file| file.is_file()) else {
        let code =
            if path.starts_with("/api/models/tiny/llama/") { "RevisionNotFound" } else { "RepoNotFound" };
        return refuse(stream, "404 Not Found", code);
    };
    if let Some((status, code)) = manner.refusal {
        return refuse(stream, status, code);
    }
    if seen.n_files.fetch_add(1, Ordering::SeqCst) < manner.n_busy {
        return refuse(stream, "503 Service Unavailable", "");
    }
    let last = file.file_name().unwrap().to_string_lossy().into_owned();
    match &manner.redirect {
        Redirect::Circle => redirect(stream, path, ""),
        Redirect::Relative if !path.starts_with("/cached/") && !is_large(&file) => redirect(
            stream,
            &format!("/cached/{last}"),
            &format!("ETag: \"first-{}\"\r\n", last.replace('.', "-")),
        ),
        Redirect::Store(url) if is_large(&file) => {
            let bytes = fs::read(&file)?;
            let (hash, n) = (sha256(&bytes), bytes.len());
            let linked =
                format!("X-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {n}\r\nX-Repo-Commit: {commit}\r\n");
            redirect(stream, &format!("{url}/store/{last}"), &linked)
        }
        _ => send(stream, &file, commit, &request, manner, seen),
    }
}

fn is_large(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "safetensors" || ending == "gguf")
}

fn refuse(mut stream: &TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let code = if code.is_empty() { String::new() } else { format!("X-Error-Code: {code}\r\n") };
    write!(stream, "HTTP/1.1 {status}\r\n{code}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

fn redirect(mut stream: &TcpStream, to: &str, headers: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 302 Found\r\nLocation: {to}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn describe(stream: &TcpStream, folder: &Path, commit: &str) -> std::io::Result<()> {
    let names = fs::read_dir(folder)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = names.map(|name| json!({ "rfilename": name })).collect();
    let body = json!({ "id": "tiny/llama", "sha": commit, "siblings": files }).to_string();
    say(stream, &body)
}

fn say(mut stream: &TcpStream, body: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn send(
    mut stream: &TcpStream,
    file: &PathBuf,
    commit: &str,
    request: &Request,
    manner: &Manner,
    seen: &Seen,
) -> std::io::Result<()> {
    let mut bytes = fs::read(file)?;
    let n_whole = bytes.len();
    if manner.damaged && is_large(file) {
        bytes[n_whole - 1] ^= 1;
    }
    let mut head = String::new();
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let start: usize = match range.filter(|_| manner.ranges) {
        Some(range) => range.split('-').next().unwrap().parse().unwrap(),
        None => 0,
    };
    let offers_gzip = request.header("accept-encoding").is_some_and(|offered| offered.contains("gzip"));
    let compresses = match manner.compress {
        Compress::Never => false,
        Compress::WhenOffered => offers_gzip && !is_large(file),
        Compress::Always => true,
    };
    if compresses {
        let mut packed = Vec::new();
        GzEncoder::new(&bytes[..], Compression::fast()).read_to_end(&mut packed)?;
        bytes = packed;
        head += "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n";
    } else if manner.ranges && range.is_some() {
        bytes.drain(..start);
        head += &format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{n_whole}\r\n",
            n_whole - 1
        );
    } else {
        head += "HTTP/1.1 200 OK\r\n";
    }
    if manner.lengths {
        head += &format!("Content-Length: {}\r\n", bytes.len());
    }
    if manner.marks {
        let mark = file.file_name().unwrap().to_string_lossy().replace('.', "-");
        head +=
            &format!("ETag: {}\"{mark}\"\r\nX-Repo-Commit: {commit}\r\n", if compresses { "W/" } else { "" });
    }
    seen.starts.lock().unwrap().push(start);
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    let n_sent = manner.cut.filter(|_| is_large(file)).unwrap_or(usize::MAX).min(bytes.len());
    stream.write_all(&bytes[..n_sent])
}
