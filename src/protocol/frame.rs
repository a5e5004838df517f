//! The frames in which a notebook and its engine speak, over the engine's standard input and output.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `STRM` |
//! | 2 | version of this protocol, little-endian (4) |
//! | 1 | what the body is: 0 nothing, 1 a trace file, 2 bytes, 3 where a trace file is open on this machine |
//! | 1 | 0 |
//! | 4 | length of the header, little-endian |
//! | 8 | length of the body, little-endian |
//! | … | header: JSON, one [`Request`](super::Request) or one [`Message`] |
//! | … | body |
//!
//! The engine answers each request with any number of `Message::Progress` and then one `Message::Reply` or
//! `Message::Error`; a trace that is asked for in pieces comes in `Message::Piece`s before the reply, each
//! packed by zlib. It ends when its standard input does. Its words for a person go to standard error.

use std::{
    io::{self, BufWriter, Read, Seek, Write},
    path::Path,
};

use flate2::read::ZlibDecoder;
#[cfg(feature = "engine")]
use flate2::{Compression, write::ZlibEncoder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Payload, Progress, Reply};
use crate::{error::Error, trace::Trace};

pub const VERSION: u16 = 5;

const MAGIC: &[u8; 4] = b"STRM";

/// Bytes before the header.
const N_START: usize = 20;

/// No request or message is as long as this; a longer header means that something else is speaking.
const MAX_HEADER: usize = 1 << 30;

/// A message from an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Progress(Progress),
    /// A part of a trace comes with it.
    Piece,
    Reply(Reply),
    Error(Error),
}

/// Writes one frame.
///
/// # Errors
/// The writer's own errors.
pub fn write(out: &mut impl Write, header: &impl Serialize, payload: &Payload) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    let handle = match payload {
        Payload::Beside(trace) => trace.handle()?,
        _ => None,
    };
    let (kind, n_body) = match (payload, &handle) {
        (Payload::None, _) => (0, 0),
        (Payload::Beside(_), Some(handle)) => (3, handle.len() as u64),
        (Payload::Trace(trace) | Payload::Beside(trace), _) => (1, trace.n_bytes()?),
        (Payload::Bytes(bytes), _) => (2, bytes.len() as u64),
    };
    let mut out = BufWriter::with_capacity(buffer(n_body), out);
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&[kind, 0])?;
    out.write_all(&(header.len() as u32).to_le_bytes())?;
    out.write_all(&n_body.to_le_bytes())?;
    out.write_all(&header)?;
    match (payload, &handle) {
        (Payload::None, _) => {}
        (Payload::Beside(_), Some(handle)) => out.write_all(handle)?,
        (Payload::Trace(trace) | Payload::Beside(trace), _) => trace.write_to(&mut out)?,
        (Payload::Bytes(bytes), _) => out.write_all(bytes)?,
    }
    out.flush()
}

/// Returns the bytes that a body is copied by: a call of the system for each 8 kB takes longer than they do.
fn buffer(n_body: u64) -> usize {
    n_body.clamp(1 << 13, 1 << 20) as usize
}

/// Reads one frame; `None` when the stream ends before it starts.
///
/// # Errors
/// [`Error::Engine`] when the stream breaks off or speaks another language or version, [`Error::Trace`] for a
/// damaged body.
pub fn read<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<(T, Payload)>, Error> {
    let mut start = Vec::new();
    input.by_ref().take(N_START as u64).read_to_end(&mut start).map_err(broken)?;
    if start.is_empty() {
        return Ok(None);
    }
    if !start.iter().zip(MAGIC).all(|(byte, magic)| byte == magic) {
        return Err(foreign(format!("it said {:?}", String::from_utf8_lossy(&start))));
    }
    let Ok(start) = <[u8; N_START]>::try_from(start) else {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    };
    let [_, _, _, _, v0, v1, kind, _, h0, h1, h2, h3, body @ ..] = start;
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        let fix = "build the engine and the notebook from the same version of streamtrace";
        return Err(Error::engine(format!("protocol version {version} instead of {VERSION}"), fix));
    }
    let (n_header, n_body) = (u32::from_le_bytes([h0, h1, h2, h3]) as usize, u64::from_le_bytes(body));
    if n_header > MAX_HEADER {
        return Err(foreign(format!("a header of {n_header} bytes")));
    }
    // The header is not allocated by the announced length, but as it arrives.
    let mut header = Vec::new();
    input.by_ref().take(n_header as u64).read_to_end(&mut header).map_err(broken)?;
    if header.len() < n_header {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    let payload = read_payload(input, kind, n_body)?;
    let header = serde_json::from_slice(&header).map_err(|e| foreign(e.to_string()))?;
    Ok(Some((header, payload)))
}

fn read_payload(input: &mut impl Read, kind: u8, n_body: u64) -> Result<Payload, Error> {
    let mut body = input.take(n_body);
    let payload = match kind {
        0 => Payload::None,
        1 => {
            let folder = std::env::temp_dir();
            let file = tempfile::tempfile().map_err(Error::io("create", &folder))?;
            let mut file = BufWriter::with_capacity(buffer(n_body), file);
            let n = io::copy(&mut body, &mut file).map_err(Error::io("write", &folder))?;
            if n < n_body {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut file = file.into_inner().map_err(|e| Error::io("write", &folder)(e.into_error()))?;
            file.rewind().map_err(Error::io("read", &folder))?;
            Payload::Trace(Trace::from_file(file, Path::new("from the engine"))?)
        }
        2 | 3 => {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).map_err(broken)?;
            if (bytes.len() as u64) < n_body {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            if kind == 2 { Payload::Bytes(bytes) } else { Payload::Trace(Trace::from_handle(&bytes)?) }
        }
        other => return Err(foreign(format!("a body of kind {other}"))),
    };
    match body.limit() {
        0 => Ok(payload),
        _ => Err(broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Packs a piece of a trace for its way.
///
/// # Errors
/// Only for lack of memory.
#[cfg(feature = "engine")]
pub(crate) fn packed(piece: &[u8]) -> io::Result<Payload> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(piece)?;
    packer.finish().map(Payload::Bytes)
}

/// Unpacks a piece of a trace that has arrived.
///
/// # Errors
/// [`Error::Engine`] when it is no piece.
pub(super) fn unpacked(payload: Payload) -> Result<Vec<u8>, Error> {
    let Payload::Bytes(packed) = payload else {
        return Err(foreign("a piece of a trace without content".into()));
    };
    let mut piece = Vec::new();
    ZlibDecoder::new(packed.as_slice())
        .read_to_end(&mut piece)
        .map_err(|e| foreign(format!("a piece of a trace: {e}")))?;
    Ok(piece)
}

fn broken(e: io::Error) -> Error {
    Error::engine(format!("the connection broke off: {e}"), "call again: a new engine is started")
}

pub(super) fn foreign(found: String) -> Error {
    Error::engine(format!("something else than an engine answered: {found}"), "check the engine's command")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Request;

    fn frame(request: &Request, payload: &Payload) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, request, payload).unwrap();
        bytes
    }

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let request = Request::CountTokens { text: "näïve \u{0}".into() };
        let mut bytes = frame(&request, &Payload::Bytes(vec![1, 2, 3]));
        bytes.extend(frame(&Request::CountTokens { text: "b".into() }, &Payload::None));
        let mut input = bytes.as_slice();
        let (first, payload) = read::<Request>(&mut input).unwrap().unwrap();
        assert_eq!(first, request);
        assert!(matches!(payload, Payload::Bytes(b) if b == [1, 2, 3]));
        assert_eq!(
            read::<Request>(&mut input).unwrap().unwrap().0,
            Request::CountTokens { text: "b".into() }
        );
        assert!(read::<Request>(&mut input).unwrap().is_none());
    }

    #[test]
    fn a_trace_beside_is_opened_where_it_is() {
        let trace = crate::trace::synthetic::trace(&crate::trace::synthetic::Shape::default());
        let [sent, beside] = [Payload::Trace(trace.clone()), Payload::Beside(trace.clone())]
            .map(|payload| frame(&Request::Model, &payload));
        if cfg!(target_os = "linux") {
            assert!(beside.len() < sent.len() && beside[6] == 3);
        }
        for bytes in [&sent, &beside] {
            let (_, payload) = read::<Request>(&mut bytes.as_slice()).unwrap().unwrap();
            let Payload::Trace(read) = payload else { panic!("no trace arrived") };
            assert_eq!(read.summary(), trace.summary());
            assert_eq!(read.head(1, 0).unwrap(), trace.head(1, 0).unwrap());
        }
        let Some(path) = beside.windows(6).rposition(|bytes| bytes == b"/proc/") else { return };
        let mut gone = beside;
        gone[path..path + 6].copy_from_slice(b"/gone/");
        let error = read::<Request>(&mut gone.as_slice()).err().unwrap();
        assert!(error.to_string().contains("cannot be opened"), "{error}");
    }

    #[test]
    fn a_cut_frame_is_an_error_at_every_byte() {
        let bytes = frame(&Request::CountTokens { text: "text".into() }, &Payload::Bytes(vec![7; 9]));
        for n in 1..bytes.len() {
            let error = read::<Request>(&mut &bytes[..n]).err().unwrap();
            assert!(error.to_string().contains("broke off"), "{n}: {error}");
        }
    }

    #[test]
    fn other_speakers_are_named() {
        let mut newer = frame(&Request::CountTokens { text: "b".into() }, &Payload::None);
        newer[4] = 9;
        for (bytes, says) in [
            (b"Welcome to this server!".to_vec(), "Welcome"),
            (b"hello\n".to_vec(), "hello"),
            (newer, "version 9"),
        ] {
            let error = read::<Request>(&mut bytes.as_slice()).err().unwrap();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
