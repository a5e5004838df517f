//! Requests to the hub or one of its mirrors: redirects, the user's token, ranges, and what the answers say of a file.

use std::{
    env,
    io::{self, Read},
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, Uri, header},
};

use super::{cache, name::Name};

/// Most redirects of one request.
const MOST_REDIRECTS: usize = 10;

/// Most bytes of a repository's description.
const MOST_DESCRIBED: u64 = 64 << 20;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answers as the hub does.
pub struct Server {
    /// Without a slash at its end.
    pub endpoint: String,
    agent: Agent,
    pub token: Option<String>,
}

/// What a server knows of a repository at a revision.
#[derive(Deserialize)]
pub struct Repository {
    /// The commit that the revision means.
    pub sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Repository {
    /// Returns the paths of all files.
    pub fn files(self) -> Vec<String> {
        self.siblings.into_iter().map(|file| file.rfilename).collect()
    }
}

/// Why there is no answer that helps.
#[derive(Debug)]
pub enum Failure {
    /// The server refused, with a status and, if it is the hub, its own word for the reason.
    Refused { status: u16, code: Option<String> },
    /// The server cannot be reached, or the connection broke off, or its answer makes no sense.
    Broken(String),
}

impl From<ureq::Error> for Failure {
    fn from(why: ureq::Error) -> Self {
        Failure::Broken(why.to_string())
    }
}

impl Failure {
    /// Whether the same request may succeed in a moment.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Refused { status, .. } => *status == 429 || *status >= 500,
            Failure::Broken(_) => true,
        }
    }
}

/// A file on its way, and what the server says of it.
pub struct Answer {
    pub body: Body,
    /// The hash or the mark of the content, which names its blob; `None` if the server gives none.
    pub mark: Option<String>,
    /// SHA-256 of the content, in hexadecimal digits.
    pub sha256: Option<String>,
    /// Bytes of the whole content.
    pub n_bytes: Option<u64>,
    /// The first byte that is sent.
    pub start: u64,
    is_compressed: bool,
}

impl Answer {
    /// Returns the content, from its start on.
    pub fn reader(self) -> Box<dyn Read> {
        let reader = self.body.into_reader();
        if self.is_compressed { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) }
    }
}

impl Server {
    /// The server in `HF_ENDPOINT`, or the hub.
    pub fn of_environment() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("streamtrace/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        Server { endpoint: endpoint(), agent: config.build().into(), token: cache::token() }
    }

    /// Asks for the files of a repository.
    pub fn describe(&self, name: &Name) -> Result<Repository, Failure> {
        let revision = encoded(&name.revision, "");
        let answer = self.get(&format!("{}/api/models/{}/revision/{revision}", self.endpoint, name.id), 0)?;
        let mut text = String::new();
        let read = answer.reader().take(MOST_DESCRIBED).read_to_string(&mut text);
        read.map_err(|why| Failure::Broken(why.to_string()))?;
        serde_json::from_str(&text).map_err(|_| Failure::Broken("its answer is not that of a hub".into()))
    }

    /// Asks for a file of a commit, from byte `start` on.
    pub fn file(&self, id: &str, commit: &str, file: &str, start: u64) -> Result<Answer, Failure> {
        self.get(&format!("{}/{id}/resolve/{commit}/{}", self.endpoint, encoded(file, "/")), start)
    }

    /// Follows redirects itself: the hub says in the first answer what the last one does not, and the token is for
    /// the hub alone.
    fn get(&self, url: &str, start: u64) -> Result<Answer, Failure> {
        let broken = |what: &str| Failure::Broken(what.into());
        let (mut url, mut said) = (url.to_string(), Said::default());
        for _ in 0..=MOST_REDIRECTS {
            let uri: Uri = url.parse().map_err(|_| broken("it redirects to no address"))?;
            let mut request = self.agent.get(&uri);
            if let Some(token) = self.token.as_ref().filter(|_| origin(&uri) == self.own_origin()) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let answer = request.call()?;
            said.read(answer.headers());
            match answer.status().as_u16() {
                300..=399 => {
                    let to = text(answer.headers(), "location").ok_or(broken("it redirects to nowhere"))?;
                    url = joined(&uri, &to);
                }
                200 | 206 => return said.answer(answer),
                status => return Err(Failure::Refused { status, code: said.code }),
            }
        }
        Err(broken("it redirects in a circle"))
    }

    fn own_origin(&self) -> Option<String> {
        origin(&self.endpoint.parse().ok()?)
    }
}

/// Returns the address in `HF_ENDPOINT`, or the hub's, without a slash at its end.
pub fn endpoint() -> String {
    let own = env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.trim().is_empty());
    own.as_deref().unwrap_or("https://huggingface.co").trim().trim_end_matches('/').into()
}

/// What the answers on the way to a file say of it.
#[derive(Default)]
struct Said {
    mark: Option<String>,
    sha256: Option<String>,
    n_bytes: Option<u64>,
    code: Option<String>,
}

impl Said {
    fn read(&mut self, headers: &HeaderMap) {
        let mark = |name| {
            let mark = text(headers, name)?;
            let mark = mark.trim().trim_start_matches("W/").trim_matches('"').to_string();
            let is_name =
                mark.len() > 3 && mark.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            (is_name && !mark.starts_with('.')).then_some(mark)
        };
        let linked = mark("x-linked-etag");
        let is_hash = |mark: &&String| mark.len() == 64 && mark.bytes().all(|b| b.is_ascii_hexdigit());
        self.sha256 = self.sha256.take().or(linked.as_ref().filter(is_hash).cloned());
        self.mark = self.mark.take().or(linked).or_else(|| mark("etag"));
        let linked = text(headers, "x-linked-size").and_then(|n| n.trim().parse().ok());
        self.n_bytes = self.n_bytes.or(linked);
        self.code = self.code.take().or_else(|| text(headers, "x-error-code"));
    }

    fn answer(self, answer: Response<Body>) -> Result<Answer, Failure> {
        let headers = answer.headers();
        let is_compressed = match text(headers, "content-encoding").as_deref() {
            None | Some("" | "identity") => false,
            Some("gzip" | "x-gzip") => true,
            Some(other) => {
                return Err(Failure::Broken(format!("it compresses by {other}, which was not asked for")));
            }
        };
        let is_part = answer.status() == 206;
        // "bytes 100-199/200"
        let range = text(headers, "content-range").filter(|_| is_part);
        let range =
            range.as_deref().and_then(|range| range.trim_start_matches("bytes").trim().split_once('/'));
        let start = match range.and_then(|(range, _)| range.split('-').next()?.parse().ok()) {
            Some(start) => start,
            None if is_part => return Err(Failure::Broken("it does not say which part it sends".into())),
            None => 0,
        };
        let length = text(headers, "content-length").and_then(|n| n.parse().ok());
        let whole = match range {
            Some((_, whole)) => whole.parse().ok(),
            None => length.filter(|_| !is_compressed),
        };
        let (mark, sha256, n_bytes) = (self.mark, self.sha256, self.n_bytes.or(whole));
        Ok(Answer { mark, sha256, n_bytes, start, is_compressed, body: answer.into_body() })
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

/// Returns scheme, host and port.
fn origin(url: &Uri) -> Option<String> {
    Some(format!("{}://{}", url.scheme_str()?, url.authority()?))
}

/// Returns the address that `to` means in an answer of `from`.
fn joined(from: &Uri, to: &str) -> String {
    let here = origin(from).unwrap_or_default();
    match to {
        _ if to.contains("://") => to.into(),
        _ if to.starts_with("//") => format!("{}:{to}", from.scheme_str().unwrap_or("https")),
        _ if to.starts_with('/') => format!("{here}{to}"),
        _ => format!("{here}{}/{to}", from.path().rsplit_once('/').map_or("", |(folder, _)| folder)),
    }
}

/// Writes a text for an address; the characters `kept` stay.
fn encoded(text: &str, kept: &str) -> String {
    let write = |byte: u8| match byte as char {
        c if c.is_ascii_alphanumeric() || "-_.~".contains(c) || kept.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(write).collect()
}

/// Reads errors of a connection as failures.
pub fn broken(why: io::Error) -> Failure {
    Failure::Broken(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_as_browsers_do() {
        let from: Uri = "https://hub.co/a/b/resolve/main/c?x=1".parse().unwrap();
        for (to, whole) in [
            ("https://cdn.co/x?y", "https://cdn.co/x?y"),
            ("//cdn.co/x", "https://cdn.co/x"),
            ("/api/x", "https://hub.co/api/x"),
            ("d", "https://hub.co/a/b/resolve/main/d"),
        ] {
            assert_eq!(joined(&from, to), whole);
        }
        assert_eq!(encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/ü.json", "/"), "a%20b/%C3%BC.json");
    }
}
