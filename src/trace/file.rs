//! The trace file: safetensors, written layer by layer to a temporary file, renamed when complete, read piece
//! by piece.
//!
//! | tensor | shape | type | |
//! |---|---|---|---|
//! | `tokens` | `[n_tokens]` | U32 | token ids |
//! | `offsets` | `[n_tokens, 2]` | U32 | bytes of `text` that a token covers |
//! | `text` | `[n_bytes]` | U8 | the prompt in UTF-8 |
//! | `logits` | `[vocab_size]` | F32 | of the token after the prompt |
//! | `layers.N.received` | `[n_heads, n_tokens]` | F32 | attention mass a key received, summed over queries |
//! | `layers.N.top_k` | `[n_heads]` | U32 | key blocks in a row of a head |
//! | `layers.N.recall` | `[n_heads]` | F32 | told recall of a head |
//! | `layers.N.on_sink` | `[n_heads, n_query_blocks]` | F32 | mean mass of queries on the head's learned sink |
//! | `layers.N.experts` | `[n_tokens, per_token]` | U16 | experts that a token took, best scores first |
//! | `layers.N.mass` | rows of query blocks | F16 | mean mass of queries on a kept block |
//! | `layers.N.focus` | rows of focus tokens, by key | F16 | focus probabilities by key |
//! | `layers.N.written` | `[n_heads, n_key_blocks]` | F32 | weighted mean of ‖W_O v‖ over a block |
//! | `layers.N.residual` | `[n_query_blocks]` | F32 | mean length of the residual stream at a block |
//! | `layers.N.proximity` | rows of query blocks | F16 | share by L1 proximity |
//! | `layers.N.vertical` | `[n_heads, n_sentences]` | F32 | vertical score of each sentence |
//! | `sentences` | `[n_sentences, 2]` | U32 | tokens of each sentence, first and end; they make up the prompt |
//! | `layers.N.kept` | rows of query blocks | U16 or U32 | kept key blocks, ascending |
//!
//! Rows lie one after the other: all of the first head, then all of the second; a row of head `h` has
//! `top_k[h]` numbers, and by key `top_k[h] · block_size_k`. So the row of query block `q` starts at
//! `n_query_blocks · (top_k[0] + … + top_k[h-1]) + q · top_k[h]`.
//!
//! `mass` is the mean over a block's queries. `focus` holds the probabilities of the focus tokens on the keys
//! of their kept blocks. `written` weighs the keys by the attention that they received. `residual` is
//! measured before the layer, at a block's queries. `proximity` is the share of a kept block in the later
//! residual stream of its query block; it is there only if asked for. The largest value of its type fills up
//! a row of `kept`. `recall` is there if query blocks were sampled, `on_sink` if the model's heads have learned
//! sinks: what is missing to 1 in their rows of `mass`. `experts` is there if asked for, in layers that have some.
//! `vertical` is NaN for the special tokens
//! between turns and for what follows the chain of thought: their attention does not count in the other scores.
//!
//! Version 2 had no `top_k` and `recall`: all heads had the summary's `top_k`, and rows were arrays
//! `[n_heads, n_rows, top_k]`.
//! Version 1 had no `written`, `residual`, `vertical` and `sentences`; such a trace is read, but has no
//! routes.
//!
//! The metadata holds `format` ("streamtrace"), `version` and `summary` (JSON of [`Summary`]); and `layers`,
//! a JSON list, if only those layers are there.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

use half::{f16, slice::HalfFloatSliceExt};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::{
    Budget, LayerRecord, StreamConfig, Summary, Trace, name,
    packed::{is_packed_name, pack, unpacked},
    sentences::{recorded_sentences, spread},
    tensors::Tensors,
};
use crate::{atomic_file::save, error::Error};

/// Version of the layout above; a reader refuses a newer one.
const FORMAT_VERSION: u32 = 3;

/// Numbers that are converted together: few enough for a processor's cache.
const AT_A_TIME: usize = 1 << 16;

/// So many times that, one thread converts and writes about as fast as several.
const FEW: usize = 64;

/// More do not write faster.
const MOST_THREADS: usize = 8;

/// Writes a trace layer by layer into a temporary file that vanishes unless the trace is saved.
pub struct TraceWriter {
    file: BufWriter<File>,
    n_written: usize,
    tensors: Vec<(String, TensorInfo)>,
    /// For each sentence whether its vertical score was recorded. `[n_sentences]`
    counted: Vec<bool>,
}

impl TraceWriter {
    /// # Errors
    /// [`Error::File`] when the system's temporary folder cannot be written.
    pub fn new(tokens: &[u32], offsets: &[(usize, usize)], text: &str) -> Result<Self, Error> {
        let sentences = recorded_sentences(text, offsets);
        let mut writer = TraceWriter::empty()?;
        writer.counted = sentences.iter().map(|(_, counts)| *counts).collect();
        let sentences: Vec<u32> =
            sentences.iter().flat_map(|(s, _)| [s.start as u32, s.end as u32]).collect();
        let offsets: Vec<u32> = offsets.iter().flat_map(|o| [o.0 as u32, o.1 as u32]).collect();
        writer.write("tokens", Dtype::U32, &[tokens.len()], tokens, u32::to_le_bytes)?;
        writer.write("offsets", Dtype::U32, &[tokens.len(), 2], &offsets, u32::to_le_bytes)?;
        writer.write("sentences", Dtype::U32, &[sentences.len() / 2, 2], &sentences, u32::to_le_bytes)?;
        writer.write("text", Dtype::U8, &[text.len()], text.as_bytes(), u8::to_le_bytes)?;
        Ok(writer)
    }

    pub(super) fn empty() -> Result<Self, Error> {
        let file = tempfile::tempfile().map_err(Error::io("create", &std::env::temp_dir()))?;
        Ok(TraceWriter { file: BufWriter::new(file), n_written: 0, tensors: Vec::new(), counted: Vec::new() })
    }

    /// Appends a layer.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full.
    pub fn layer(&mut self, layer: usize, record: &LayerRecord) -> Result<(), Error> {
        let mask = &record.mask;
        let (n_heads, n_query_blocks) = (mask.n_heads(), mask.blocks.n_query_blocks());
        let top_k: Vec<u32> = mask.budgets.as_slice().iter().map(|&k| k as u32).collect();
        self.write(&name(layer, "top_k"), Dtype::U32, &[n_heads], &top_k, u32::to_le_bytes)?;
        if !record.recall.is_empty() {
            self.write(&name(layer, "recall"), Dtype::F32, &[n_heads], &record.recall, f32::to_le_bytes)?;
        }
        if !record.on_sink.is_empty() {
            let (name, shape) = (name(layer, "on_sink"), [n_heads, n_query_blocks]);
            self.write(&name, Dtype::F32, &shape, &record.on_sink, f32::to_le_bytes)?;
        }
        if !record.experts.is_empty() {
            let n_tokens = mask.blocks.n_tokens;
            let shape = [n_tokens, record.experts.len() / n_tokens];
            self.write(&name(layer, "experts"), Dtype::U16, &shape, &record.experts, u16::to_le_bytes)?;
        }
        let vertical = spread(&record.vertical, &self.counted, n_heads);
        let n_sentences = vertical.len() / n_heads.max(1);
        for (what, shape, values) in [
            ("vertical", &[n_heads, n_sentences][..], &vertical),
            ("written", &[n_heads, mask.blocks.n_key_blocks()], &record.written),
            ("residual", &[n_query_blocks], &record.residual),
            ("received", &[n_heads, mask.blocks.n_tokens], &record.received),
        ] {
            self.write(&name(layer, what), Dtype::F32, shape, values, f32::to_le_bytes)?;
        }
        let rows = [("mass", &record.mass), ("focus", &record.focus), ("proximity", &record.proximity)];
        for (what, values) in
            rows.into_iter().filter(|(what, values)| *what != "proximity" || !values.is_empty())
        {
            self.write_halves(&name(layer, what), values)?;
        }
        let (kept, shape) = (name(layer, "kept"), [mask.kept.len()]);
        match mask.blocks.n_key_blocks() < u16::MAX as usize {
            true => self.write(&kept, Dtype::U16, &shape, &mask.kept, |b| (b as u16).to_le_bytes()),
            false => self.write(&kept, Dtype::U32, &shape, &mask.kept, u32::to_le_bytes),
        }
    }

    /// Closes the file and opens it as a trace.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full, [`Error::Trace`] when the layers do not fit the summary.
    pub fn finish(mut self, summary: Summary, logits: &[f32]) -> Result<Trace, Error> {
        self.write("logits", Dtype::F32, &[logits.len()], logits, f32::to_le_bytes)?;
        let layers = (0..summary.model.n_layers).collect();
        self.close(summary, layers)
    }

    /// Returns the written trace, which holds these layers, ascending.
    pub(super) fn close(self, summary: Summary, layers: Vec<usize>) -> Result<Trace, Error> {
        let temporary = std::env::temp_dir();
        let file = self.file.into_inner().map_err(|e| Error::io("write", &temporary)(e.into_error()))?;
        let metadata = Metadata::new(None, self.tensors).map_err(|e| Error::file("write", &temporary, e))?;
        let mut tensors = Tensors::new(file, &temporary, metadata, 0)?;
        tensors.layers = layers;
        tensors.check(&summary).map_err(|found| tensors.damaged("tensors that fit the summary", found))?;
        Ok(Trace { summary, tensors: Arc::new(tensors) })
    }

    /// Appends a tensor; `bytes` gives those of a number as they stand in the file.
    pub(super) fn write<T: Copy + Sync, const N: usize>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        values: &[T],
        bytes: impl Fn(T) -> [u8; N] + Sync,
    ) -> Result<(), Error> {
        self.append(values, N, |values, buffer| {
            buffer.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, &value)| *to = bytes(value));
        })?;
        self.note(name, dtype, shape, values.len() * N);
        Ok(())
    }

    /// Appends a tensor of one dimension in f16.
    fn write_halves(&mut self, name: &str, values: &[f32]) -> Result<(), Error> {
        self.append(values, 2, |values, buffer| {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            buffer.as_chunks_mut().0.iter_mut().zip(&halves).for_each(|(to, half)| *to = half.to_le_bytes());
        })?;
        self.note(name, Dtype::F16, &[values.len()], 2 * values.len());
        Ok(())
    }

    /// Appends numbers of `width` bytes as `to_bytes` writes them; many of them in several threads.
    fn append<T: Sync>(
        &mut self,
        values: &[T],
        width: usize,
        to_bytes: impl Fn(&[T], &mut [u8]) + Sync,
    ) -> Result<(), Error> {
        let temporary = std::env::temp_dir();
        let failed = |e| Error::io("write", &temporary)(e);
        let parts: Vec<&[T]> = values.chunks(AT_A_TIME).collect();
        let in_bytes = |part: &[T], buffer: &mut Vec<u8>| {
            buffer.resize(part.len() * width, 0);
            to_bytes(part, buffer);
        };
        if parts.len() <= FEW {
            let mut buffer = Vec::new();
            return parts.into_iter().try_for_each(|part| {
                in_bytes(part, &mut buffer);
                self.file.write_all(&buffer).map_err(failed)
            });
        }
        self.file.flush().map_err(failed)?;
        let (file, start, next) = (self.file.get_ref(), self.n_written as u64, AtomicUsize::new(0));
        let write = || {
            let mut buffer = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(part) = parts.get(i) else { return Ok(()) };
                in_bytes(part, &mut buffer);
                write_at(file, &buffer, start + (i * AT_A_TIME * width) as u64)?;
            }
        };
        thread::scope(|scope| {
            let n = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS);
            let writing: Vec<_> = (0..n).map(|_| scope.spawn(write)).collect();
            let written = |writing: ScopedJoinHandle<_>| {
                writing.join().unwrap_or_else(|_| Err(io::Error::other("lost")))
            };
            writing.into_iter().try_for_each(written)
        })
        .map_err(failed)?;
        self.file.seek(SeekFrom::End(0)).map_err(failed).map(drop)
    }

    /// Notes the tensor whose bytes were appended.
    fn note(&mut self, name: &str, dtype: Dtype, shape: &[usize], n_bytes: usize) {
        let data_offsets = (self.n_written, self.n_written + n_bytes);
        self.n_written = data_offsets.1;
        self.tensors.push((name.into(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets }));
    }
}

/// Writes all bytes at a place of a file.
#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        (bytes, at) = (&bytes[n..], at + n as u64);
    }
    Ok(())
}

impl Trace {
    /// Opens a trace file; layers are read when they are asked for.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Trace`] when it is not a whole trace of this or an
    /// older version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("read", path))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::file("read", path, "it is a directory, not a trace file"));
        }
        Trace::from_file(unpacked(file, path)?, path)
    }

    /// Writes the trace to a file: first to a temporary one beside it, so that `path` never holds half a
    /// trace. It packs a file whose name ends in `.gz`, for a repository or a slow connection; such a file is
    /// opened like any other.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be written or the disk is full; the old content of `path` is
    /// untouched.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        save(path, |file| match is_packed_name(path) {
            true => pack(file, |packer| self.write_to(packer)),
            false => self.write_to(file),
        })
    }

    /// Writes the bytes of the trace file.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        let header = self.header()?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        self.tensors.write_to(out)
    }

    /// Counts the bytes that [`Trace::write_to`] writes.
    pub(crate) fn n_bytes(&self) -> std::io::Result<u64> {
        Ok((8 + self.header()?.len() + self.tensors.metadata.data_len()) as u64)
    }

    fn header(&self) -> std::io::Result<Vec<u8>> {
        let tensors = self.tensors.metadata.tensors();
        let mut tensors: Vec<_> = tensors.into_iter().map(|(name, info)| (name, info.clone())).collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let header = Metadata::new(Some(self.notes()?), tensors).map_err(std::io::Error::other)?;
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }

    /// Returns the file's metadata.
    pub(super) fn notes(&self) -> std::io::Result<HashMap<String, String>> {
        let summary = serde_json::to_string(&self.summary)?;
        // JSON has no NaN: rather no file than one that cannot be read.
        serde_json::from_str::<Summary>(&summary)?;
        let mut notes = HashMap::from([
            ("format".to_string(), "streamtrace".to_string()),
            ("version".to_string(), FORMAT_VERSION.to_string()),
            ("summary".to_string(), summary),
        ]);
        if self.layers().len() < self.n_layers() {
            notes.insert("layers".to_string(), serde_json::to_string(self.layers())?);
        }
        Ok(notes)
    }

    /// Returns the start of the numbers in this process's file (8 bytes, little-endian), the length of a trace file's
    /// header (8 bytes), this header and the path by which others on this machine open the file; `None` where open
    /// files have no path.
    pub(crate) fn handle(&self) -> std::io::Result<Option<Vec<u8>>> {
        let Some((path, start)) = self.tensors.handle() else { return Ok(None) };
        let header = self.header()?;
        let numbers = [start, header.len() as u64].map(u64::to_le_bytes).concat();
        Ok(Some([numbers, header, path.into_bytes()].concat()))
    }

    /// Opens the trace that [`Trace::handle`] tells of, as long as its process holds it.
    pub(crate) fn from_handle(handle: &[u8]) -> Result<Self, Error> {
        let gone = |e: String| Error::engine(format!("its trace cannot be opened: {e}"), "call again");
        let cut_off = || gone("its handle was cut off".into());
        let (&start, rest) = handle.split_first_chunk().ok_or_else(cut_off)?;
        let (&n_header, rest) = rest.split_first_chunk().ok_or_else(cut_off)?;
        let n_header = usize::try_from(u64::from_le_bytes(n_header)).map_err(|_| cut_off())?;
        let (header, path) = rest.split_at_checked(n_header).ok_or_else(cut_off)?;
        let metadata = serde_json::from_slice(header).map_err(|e| gone(e.to_string()))?;
        let file = File::open(String::from_utf8_lossy(path).as_ref()).map_err(|e| gone(e.to_string()))?;
        let start = u64::from_le_bytes(start);
        Self::from_tensors(Tensors::new(file, Path::new("from the engine"), metadata, start)?)
    }

    /// Opens a trace in an open file; `path` is named in errors.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Self, Error> {
        Self::from_tensors(Tensors::open(file, path)?)
    }

    fn from_tensors(mut tensors: Tensors) -> Result<Self, Error> {
        let notes = tensors.metadata.metadata().clone().unwrap_or_default();
        if notes.get("format").map(String::as_str) != Some("streamtrace") {
            return Err(tensors.damaged("a file written by streamtrace", "another safetensors file".into()));
        }
        let version = notes.get("version").map(|v| v.parse::<u32>());
        match version.clone() {
            Some(Ok(1..=FORMAT_VERSION)) => {}
            Some(Ok(version)) if version > FORMAT_VERSION => {
                let fix = "update streamtrace to read it";
                let (expected, found) =
                    (format!("format version {FORMAT_VERSION} or older"), format!("version {version}"));
                return Err(Error::trace(tensors.path.display(), expected, found, fix));
            }
            other => {
                return Err(tensors.damaged(
                    "a format version",
                    other.map_or("none".into(), |_| format!("{:?}", notes["version"])),
                ));
            }
        }
        let summary = notes.get("summary").ok_or_else(|| tensors.damaged("a summary", "none".into()))?;
        let mut summary: Summary = serde_json::from_str(summary)
            .map_err(|e| tensors.damaged("a readable summary", e.to_string()))?;
        if !matches!(version, Some(Ok(FORMAT_VERSION))) {
            summary.config = StreamConfig { budget: Budget::Uniform, sample: 0, ..summary.config };
        }
        let layers = layers(&notes, &summary, tensors.metadata.tensors().len());
        tensors.layers = layers.map_err(|found| tensors.damaged("a list of its layers", found))?;
        tensors.check(&summary).map_err(|found| tensors.damaged("tensors that fit the summary", found))?;
        Ok(Trace { summary, tensors: Arc::new(tensors) })
    }
}

/// Returns the layers that a file holds, ascending: those that its notes list, or all.
///
/// A summary may claim more layers than there is memory for; a file with fewer tensors lacks one of them.
fn layers(
    notes: &HashMap<String, String>,
    summary: &Summary,
    n_tensors: usize,
) -> Result<Vec<usize>, String> {
    let n_layers = summary.model.n_layers;
    let Some(listed) = notes.get("layers") else { return Ok((0..n_layers.min(n_tensors)).collect()) };
    let layers: Vec<usize> = serde_json::from_str(listed).map_err(|e| e.to_string())?;
    match layers.is_sorted_by(|a, b| a < b) && layers.last().is_some_and(|&last| last < n_layers) {
        true => Ok(layers),
        false => Err(format!("{listed} of {n_layers}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn long_tensors_are_written_as_short_ones_are() {
        let long: Vec<u32> =
            (0..(FEW * AT_A_TIME + 77) as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let halves: Vec<f32> = long.iter().map(|&i| (i % 2048) as f32).collect();
        let mut writer = TraceWriter::empty().unwrap();
        writer.write("short", Dtype::U32, &[3], &[1, 2, 3], u32::to_le_bytes).unwrap();
        writer.write("long", Dtype::U32, &[long.len()], &long, u32::to_le_bytes).unwrap();
        writer.write_halves("halves", &halves).unwrap();
        writer.write("last", Dtype::U32, &[1], &[4], u32::to_le_bytes).unwrap();
        let (n_written, mut file) = (writer.n_written, writer.file.into_inner().unwrap());
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let expected: Vec<u8> = [1, 2, 3].iter().chain(&long).flat_map(|n| n.to_le_bytes()).collect();
        let of_halves = halves.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes());
        let expected: Vec<u8> = expected.into_iter().chain(of_halves).chain([4, 0, 0, 0]).collect();
        assert!(bytes.len() == n_written && bytes == expected);
    }
}
