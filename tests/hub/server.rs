//! A local server that answers like the hub, with the files of one folder as the model `tiny/llama`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::json;

/// The server's behaviour.
#[derive(Clone, Copy)]
pub enum Answer {
    Whole,
    /// Drops the connection in the middle of the weights, unless only the first byte is requested.
    Half,
    /// Lists the files, but sends none.
    Gated,
    /// Answers only requests with a token.
    ForToken(&'static str),
}

pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    /// Offset of the first byte of each file that was sent.
    starts: Arc<Mutex<Vec<usize>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn of(folder: &Path, commit: &'static str, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, folder) = (listener.local_addr().unwrap(), folder.to_path_buf());
        let (stopped, starts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = thread::spawn({
            let (stopped, starts) = (stopped.clone(), starts.clone());
            move || {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    // A client may disconnect at any time.
                    let _ = serve(stream.unwrap(), &folder, commit, answer, &starts);
                }
            }
        });
        Server { address, stopped, starts, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn starts(&self) -> Vec<usize> {
        self.starts.lock().unwrap().clone()
    }

    pub fn n_files_sent(&self) -> usize {
        self.starts().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(
    stream: TcpStream,
    folder: &Path,
    commit: &str,
    answer: Answer,
    starts: &Mutex<Vec<usize>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let headers: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_lowercase())
        .collect();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let is_known = match answer {
        Answer::ForToken(token) => headers.contains(&format!("authorization: bearer {token}").to_lowercase()),
        _ => true,
    };
    let file = path
        .strip_prefix("/tiny/llama/resolve/main/")
        .map(|file| folder.join(file))
        .filter(|file| file.is_file());
    match (path, file, answer) {
        _ if !is_known => refuse(&stream, "401 Unauthorized"),
        ("/api/models/tiny/llama/revision/main", ..) => describe(&stream, folder, commit),
        (_, Some(_), Answer::Gated) => refuse(&stream, "403 Forbidden"),
        (_, Some(file), _) => {
            let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("0-");
            send(&stream, &file, range, commit, answer, starts)
        }
        _ => refuse(&stream, "404 Not Found"),
    }
}

fn refuse(mut stream: &TcpStream, status: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn describe(mut stream: &TcpStream, folder: &Path, commit: &str) -> std::io::Result<()> {
    let names = fs::read_dir(folder)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = names.map(|name| json!({ "rfilename": name })).collect();
    let body = json!({ "id": "tiny/llama", "sha": commit, "siblings": files }).to_string();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn send(
    mut stream: &TcpStream,
    file: &PathBuf,
    range: &str,
    commit: &str,
    answer: Answer,
    starts: &Mutex<Vec<usize>>,
) -> std::io::Result<()> {
    let bytes = fs::read(file)?;
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
    let is_probe = end == 1;
    if !is_probe {
        starts.lock().unwrap().push(start);
    }
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nETag: \"{}\"\r\nX-Repo-Commit: \
         {commit}\r\nConnection: close\r\n\r\n",
        end - start,
        end - 1,
        bytes.len(),
        file.file_name().unwrap().to_string_lossy().replace('.', "-"),
    );
    stream.write_all(head.as_bytes())?;
    let breaks_off =
        matches!(answer, Answer::Half) && !is_probe && file.extension().is_some_and(|e| e == "safetensors");
    let end = if breaks_off { start + (end - start) / 2 } else { end };
    stream.write_all(&bytes[start..end])
}
