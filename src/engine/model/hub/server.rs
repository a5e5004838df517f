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
use crate::error::Error;

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
    /// The server cannot be reached, or the connection broke off.
    Broken(String),
    /// The answer makes no sense, and will make none again.
    Strange(String),
}

impl From<ureq::Error> for Failure {
    fn from(why: ureq::Error) -> Self {
        match &why {
            // A certificate that is not trusted, or a server that does not speak TLS.
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => {
                Failure::Strange(format!("with {io}"))
            }
            _ => Failure::Broken(why.to_string()),
        }
    }
}

impl Failure {
    /// Whether the same request may succeed in a moment.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Refused { status, .. } => *status == 429 || *status >= 500,
            Failure::Broken(_) => true,
            Failure::Strange(_) => false,
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
    ///
    /// # Errors
    /// [`Error::Setting`] when that is no address, or the user's token has characters that a token cannot have.
    pub fn of_environment() -> Result<Self, Error> {
        let (endpoint, token) = (endpoint(), cache::token());
        let schemes = ["http://", "https://"];
        if !schemes.iter().any(|scheme| endpoint.starts_with(scheme)) || endpoint.parse::<Uri>().is_err() {
            let expected = "the address of a server, such as https://huggingface.co";
            return Err(Error::setting("HF_ENDPOINT", expected, endpoint, "set it to one, or unset it"));
        }
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let fix = "copy it once more, without quotes or spaces";
            return Err(Error::setting("HF_TOKEN", "letters, digits and _", "other characters", fix));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("streamtrace/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        Ok(Server { endpoint, agent: config.build().into(), token })
    }

    /// Asks for the files of a repository.
    pub fn describe(&self, name: &Name) -> Result<Repository, Failure> {
        let revision = encoded(&name.revision, "");
        let answer = self.get(&format!("{}/api/models/{}/revision/{revision}", self.endpoint, name.id), 0)?;
        let mut text = String::new();
        let read = answer.reader().take(MOST_DESCRIBED).read_to_string(&mut text);
        read.map_err(|why| Failure::Broken(why.to_string()))?;
        serde_json::from_str(&text).map_err(|_| Failure::Strange("with something else".into()))
    }

    /// Asks for a file of a commit, from byte `start` on.
    pub fn file(&self, id: &str, commit: &str, file: &str, start: u64) -> Result<Answer, Failure> {
        self.get(&format!("{}/{id}/resolve/{commit}/{}", self.endpoint, encoded(file, "/")), start)
    }

    /// Follows redirects itself: the hub says in the first answer what the last one does not, and the token is for
    /// the hub alone.
    fn get(&self, url: &str, start: u64) -> Result<Answer, Failure> {
        let strange = |what: &str| Failure::Strange(what.into());
        let (mut url, mut said) = (url.to_string(), Said::default());
        for _ in 0..=MOST_REDIRECTS {
            let uri: Uri = url.parse().map_err(|_| strange("with a redirect to no address"))?;
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
                    let to =
                        text(answer.headers(), "location").ok_or(strange("with a redirect to nowhere"))?;
                    url = joined(&uri, &to);
                }
                200 | 206 => return said.answer(answer),
                status => return Err(Failure::Refused { status, code: said.code }),
            }
        }
        Err(strange("with redirects in a circle"))
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
                return Err(Failure::Strange(format!("with what it compresses by {other}, unasked")));
            }
        };
        let is_part = answer.status() == 206;
        // "bytes 100-199/200"
        let range = text(headers, "content-range").filter(|_| is_part);
        let range =
            range.as_deref().and_then(|range| range.trim_start_matches("bytes").trim().split_once('/'));
        let start = match range.and_then(|(range, _)| range.split('-').next()?.parse().ok()) {
            Some(start) => start,
            None if is_part => {
                return Err(Failure::Strange("with a part of the file, and not with which one".into()));
            }
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
    use proptest::prelude::*;
    use ureq::http::{HeaderName, HeaderValue};

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

    /// Headers that answers have, with anything in them.
    fn headers() -> impl Strategy<Value = HeaderMap> {
        let names =
            ["etag", "x-linked-etag", "x-linked-size", "content-range", "content-length", "content-encoding"];
        let value = "(bytes )?(W/)?[\"0-9a-f./*-]{0,12}|gzip|-?[0-9]{1,30}|[ -~é]{0,9}";
        let header = (prop::sample::select(names.to_vec()), value);
        prop::collection::vec(header, 0..8).prop_map(|headers| {
            let valid = |(name, value): (&'static str, String)| {
                Some((HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).ok()?))
            };
            headers.into_iter().filter_map(valid).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a server answers, a blob's name is that of a file in the cache.
        #[test]
        fn hostile_answers_name_no_other_file(
            all in prop::collection::vec(headers(), 1..3),
            status in prop::sample::select(vec![200u16, 206]),
            to in "(https?:)?[a-z:/?#%. é-]{0,30}",
            description in r#"\{"sha": ?("[a-f0-9./]{0,9}"|null|1), "siblings": ?\[(\{"rfilename": "[a./]{0,9}"\},?)*\]\}?"#,
        ) {
            let mut said = Said::default();
            all.iter().for_each(|headers| said.read(headers));
            let mut answer = Response::builder().status(status).body(Body::builder().data("")).unwrap();
            *answer.headers_mut() = all[0].clone();
            if let Ok(answer) = said.answer(answer) {
                let is_name = |mark: &String| !mark.contains('/') && !mark.starts_with('.') && !mark.is_empty();
                prop_assert!(answer.mark.as_ref().is_none_or(is_name), "{:?}", answer.mark);
            }
            let from: Uri = "https://hub.co/a/b".parse().unwrap();
            let _ = joined(&from, &to).parse::<Uri>().map(|uri| origin(&uri));
            let _ = serde_json::from_str::<Repository>(&description).map(Repository::files);
        }
    }
}
