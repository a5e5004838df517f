//! The trace file: safetensors, written layer by layer to a temporary file, renamed when complete, read through a memory map.
//!
//! | tensor | shape | type | |
//! |---|---|---|---|
//! | `tokens` | `[n_tokens]` | U32 | token ids |
//! | `offsets` | `[n_tokens, 2]` | U32 | bytes of `text` that a token covers |
//! | `text` | `[n_bytes]` | U8 | the prompt in UTF-8 |
//! | `logits` | `[vocab_size]` | F32 | of the token after the prompt |
//! | `layers.N.received` | `[n_heads, n_tokens]` | F32 | attention mass a key received, summed over queries |
//! | `layers.N.mass` | `[n_heads, n_query_blocks, top_k]` | F16 | mean over the block's queries of the mass on a kept block |
//! | `layers.N.focus` | `[n_heads, n_focus, top_k · block_size_k]` | F16 | probabilities of the focus tokens on the keys of their kept blocks |
//! | `layers.N.written` | `[n_heads, n_key_blocks]` | F32 | mean of ‖W_O v‖ over a block's keys, weighted by what they received |
//! | `layers.N.residual` | `[n_query_blocks]` | F32 | mean length of the residual stream before the layer at a block's queries |
//! | `layers.N.proximity` | `[n_heads, n_query_blocks, top_k]` | F16 | share of a kept block in what its query block's residual stream becomes, by L1 proximity; only if asked for |
//! | `layers.N.vertical` | `[n_heads, n_sentences]` | F32 | vertical score of each sentence |
//! | `sentences` | `[n_sentences, 2]` | U32 | tokens of each sentence, first and end |
//! | `layers.N.kept` | `[n_heads, n_query_blocks, top_k]` | U16 or U32 | kept key blocks, ascending; the type's largest value fills up |
//!
//! Version 1 had no `written`, `residual`, `vertical` and `sentences`; such a trace is read, but has no routes.
//!
//! The metadata holds `format` ("streamtrace"), `version` and `summary` (JSON of [`Summary`]); and `layers`, a JSON list, if
//! only those layers are there.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use half::{f16, slice::HalfFloatSliceExt};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::Metadata, tensor::TensorInfo};

use super::{
    BlockMask, LayerRecord, Summary, Trace, name,
    packed::{is_packed_name, pack, unpacked},
    sentences::token_sentences,
};
use crate::{error::Error, save::save};

/// Version of the layout above; a reader refuses a newer one.
const FORMAT_VERSION: u32 = 2;

/// Writes a trace layer by layer into a temporary file that vanishes unless the trace is saved.
pub struct TraceWriter {
    file: BufWriter<File>,
    n_written: usize,
    tensors: Vec<(String, TensorInfo)>,
}

impl TraceWriter {
    /// # Errors
    /// [`Error::File`] when the system's temporary folder cannot be written.
    pub fn new(tokens: &[u32], offsets: &[(usize, usize)], text: &str) -> Result<Self, Error> {
        let sentences: Vec<u32> = token_sentences(text, offsets).iter().flat_map(|s| [s.start as u32, s.end as u32]).collect();
        let mut writer = TraceWriter::empty()?;
        let offsets: Vec<u32> = offsets.iter().flat_map(|o| [o.0 as u32, o.1 as u32]).collect();
        writer.write("tokens", Dtype::U32, &[tokens.len()], &bytes(tokens, u32::to_le_bytes))?;
        writer.write("offsets", Dtype::U32, &[tokens.len(), 2], &bytes(&offsets, u32::to_le_bytes))?;
        writer.write("sentences", Dtype::U32, &[sentences.len() / 2, 2], &bytes(&sentences, u32::to_le_bytes))?;
        writer.write("text", Dtype::U8, &[text.len()], text.as_bytes())?;
        Ok(writer)
    }

    pub(super) fn empty() -> Result<Self, Error> {
        let file = tempfile::tempfile().map_err(Error::io("create", &std::env::temp_dir()))?;
        Ok(TraceWriter { file: BufWriter::new(file), n_written: 0, tensors: Vec::new() })
    }

    /// Appends a layer.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full.
    pub fn layer(&mut self, layer: usize, record: &LayerRecord) -> Result<(), Error> {
        let mask = &record.mask;
        let (n_heads, n_query_blocks) = (mask.n_heads, mask.blocks.n_query_blocks());
        let shape = [n_heads, n_query_blocks, mask.top_k];
        let n_focus_keys = mask.top_k * mask.blocks.block_size_k;
        let n_focus = record.focus.len().checked_div(n_heads * n_focus_keys).unwrap_or_default();
        let focus_shape = [n_heads, n_focus, n_focus_keys];
        let received = bytes(&record.received, f32::to_le_bytes);
        let vertical = bytes(&record.vertical, f32::to_le_bytes);
        self.write(&name(layer, "vertical"), Dtype::F32, &[n_heads, record.vertical.len() / n_heads.max(1)], &vertical)?;
        let (written, residual) = (bytes(&record.written, f32::to_le_bytes), bytes(&record.residual, f32::to_le_bytes));
        self.write(&name(layer, "written"), Dtype::F32, &[n_heads, mask.blocks.n_key_blocks()], &written)?;
        self.write(&name(layer, "residual"), Dtype::F32, &[n_query_blocks], &residual)?;
        self.write(&name(layer, "received"), Dtype::F32, &[n_heads, mask.blocks.n_tokens], &received)?;
        self.write(&name(layer, "mass"), Dtype::F16, &shape, &f16_bytes(&record.mass))?;
        self.write(&name(layer, "focus"), Dtype::F16, &focus_shape, &f16_bytes(&record.focus))?;
        if !record.proximity.is_empty() {
            self.write(&name(layer, "proximity"), Dtype::F16, &shape, &f16_bytes(&record.proximity))?;
        }
        match mask.blocks.n_key_blocks() < u16::MAX as usize {
            true => self.write(&name(layer, "kept"), Dtype::U16, &shape, &bytes(&mask.kept, |b| (b as u16).to_le_bytes())),
            false => self.write(&name(layer, "kept"), Dtype::U32, &shape, &bytes(&mask.kept, u32::to_le_bytes)),
        }
    }

    /// Closes the file and opens it as a trace.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full, [`Error::Trace`] when the layers do not fit the summary.
    pub fn finish(mut self, summary: Summary, logits: &[f32]) -> Result<Trace, Error> {
        self.write("logits", Dtype::F32, &[logits.len()], &bytes(logits, f32::to_le_bytes))?;
        let layers = (0..summary.model.n_layers).collect();
        self.close(summary, layers)
    }

    /// The trace of what was written, which holds these layers, ascending.
    pub(super) fn close(self, summary: Summary, layers: Vec<usize>) -> Result<Trace, Error> {
        let temporary = std::env::temp_dir();
        let file = self.file.into_inner().map_err(|e| Error::io("write", &temporary)(e.into_error()))?;
        let metadata = Metadata::new(None, self.tensors).map_err(|e| Error::file("write", &temporary, e))?;
        let tensors = Tensors::new(file, temporary, metadata, layers)?;
        tensors.check(&summary).map_err(|found| tensors.damaged("tensors that fit the summary", found))?;
        Ok(Trace { summary, tensors: Arc::new(tensors) })
    }

    pub(super) fn write(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io("write", &std::env::temp_dir()))?;
        let data_offsets = (self.n_written, self.n_written + bytes.len());
        self.n_written = data_offsets.1;
        self.tensors.push((name.into(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets }));
        Ok(())
    }
}

/// Numbers as they stand in the file.
fn bytes<T: Copy, const N: usize>(values: &[T], of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, &value)| *to = of(value));
    bytes
}

fn f16_bytes(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    bytes(&halves, f16::to_le_bytes)
}

impl Trace {
    /// Opens a trace file; layers are read when they are asked for.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Trace`] when it is not a whole trace of this or an older version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("read", path))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::file("read", path, "it is a directory, not a trace file"));
        }
        Trace::from_file(unpacked(file, path)?, path)
    }

    /// Writes the trace to a file: first to a temporary one beside it, so that `path` never holds half a trace. A name that ends
    /// in `.gz` has it packed, for a repository or a long way; it is opened like any other.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be written or the disk is full; what `path` held before is untouched.
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
        out.write_all(self.tensors.data())
    }

    /// Bytes that [`Trace::write_to`] writes.
    pub(crate) fn n_bytes(&self) -> std::io::Result<u64> {
        Ok((8 + self.header()?.len() + self.tensors.data().len()) as u64)
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

    /// The file's metadata.
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

    /// Opens a trace in an open file; `path` is named in errors.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Self, Error> {
        let bad = |expected: &str, found: String| Error::Trace {
            path: path.display().to_string(),
            expected: expected.into(),
            found,
            fix: "trace the prompt again".into(),
        };
        let map = map(&file, path)?;
        let (n_header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            bad("a whole safetensors file", format!("{} bytes that were cut off or are another kind of file: {e}", map.len()))
        })?;
        let notes = metadata.metadata().clone().unwrap_or_default();
        if notes.get("format").map(String::as_str) != Some("streamtrace") {
            return Err(bad("a file written by streamtrace", "another safetensors file".into()));
        }
        match notes.get("version").map(|v| v.parse::<u32>()) {
            Some(Ok(1..=FORMAT_VERSION)) => {}
            Some(Ok(version)) if version > FORMAT_VERSION => {
                let fix = "update streamtrace to read it".into();
                let (expected, found) = (format!("format version {FORMAT_VERSION} or older"), format!("version {version}"));
                return Err(Error::Trace { path: path.display().to_string(), expected, found, fix });
            }
            _ => return Err(bad("a format version", notes.get("version").map_or("none".into(), |v| format!("{v:?}")))),
        }
        let summary = notes.get("summary").ok_or_else(|| bad("a summary", "none".into()))?;
        let summary: Summary = serde_json::from_str(summary).map_err(|e| bad("a readable summary", e.to_string()))?;
        let layers = layers(&notes, &summary, metadata.tensors().len()).map_err(|found| bad("a list of its layers", found))?;
        let tensors = Tensors { map, path: path.into(), metadata, start: 8 + n_header, layers };
        tensors.check(&summary).map_err(|found| bad("tensors that fit the summary", found))?;
        Ok(Trace { summary, tensors: Arc::new(tensors) })
    }
}

/// Layers that a file holds, ascending: those that its notes list, or all.
///
/// A summary may claim more layers than there is memory for; a file with fewer tensors lacks one of them.
fn layers(notes: &HashMap<String, String>, summary: &Summary, n_tensors: usize) -> Result<Vec<usize>, String> {
    let n_layers = summary.model.n_layers;
    let Some(listed) = notes.get("layers") else { return Ok((0..n_layers.min(n_tensors)).collect()) };
    let layers: Vec<usize> = serde_json::from_str(listed).map_err(|e| e.to_string())?;
    match layers.is_sorted_by(|a, b| a < b) && layers.last().is_none_or(|&last| last < n_layers) {
        true => Ok(layers),
        false => Err(format!("{listed} of {n_layers}")),
    }
}

/// A mapped file and where its tensors lie.
pub(super) struct Tensors {
    map: Mmap,
    path: PathBuf,
    pub(super) metadata: Metadata,
    /// Byte of the file at which the tensors' data starts.
    start: usize,
    /// Layers that are there, ascending.
    pub(super) layers: Vec<usize>,
}

fn map(file: &File, path: &Path) -> Result<Mmap, Error> {
    // SAFETY: the map is read-only. Our own temporary file is unlinked and has no other writer; a file that a user opens
    // is replaced by rename, never rewritten in place, by this crate. Bytes are only ever copied out, so that a change
    // by another program gives wrong numbers, not invalid values; cutting the file off under us is not guarded against.
    unsafe { Mmap::map(file) }.map_err(Error::io("map", path))
}

impl Tensors {
    /// A file of nothing but data.
    fn new(mut file: File, path: PathBuf, metadata: Metadata, layers: Vec<usize>) -> Result<Self, Error> {
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", &path))?;
        let map = map(&file, &path)?;
        Ok(Tensors { map, path, metadata, start: 0, layers })
    }

    /// All tensors' bytes.
    fn data(&self) -> &[u8] {
        &self.map[self.start..]
    }

    /// Whether every tensor is there, with the summary's shapes and a type that the readers below take.
    fn check(&self, summary: &Summary) -> Result<(), String> {
        let (t, n_heads, config) = (summary.n_tokens, summary.model.n_heads, &summary.config);
        check_sizes(summary)?;
        let is = |name: &str, dtypes: &[Dtype], shape: &[usize]| match self.metadata.info(name) {
            Some(info) if dtypes.contains(&info.dtype) && info.shape == shape => Ok(()),
            Some(info) => Err(format!("{name} of {:?} {:?}, not {dtypes:?} {shape:?}", info.dtype, info.shape)),
            None => Err(format!("no tensor {name}")),
        };
        is("tokens", &[Dtype::U32], &[t])?;
        is("offsets", &[Dtype::U32], &[t, 2])?;
        is("logits", &[Dtype::F32], &[summary.model.vocab_size])?;
        is("text", &[Dtype::U8], &[self.bytes("text").len()])?;
        std::str::from_utf8(self.bytes("text")).map_err(|e| format!("a text that is not UTF-8: {e}"))?;
        let rows = [n_heads, t.div_ceil(config.block_size_q), config.top_k];
        for &layer in &self.layers {
            is(&name(layer, "received"), &[Dtype::F32], &[n_heads, t])?;
            is(&name(layer, "mass"), &[Dtype::F16], &rows)?;
            is(&name(layer, "kept"), &[Dtype::U16, Dtype::U32], &rows)?;
            is(&name(layer, "focus"), &[Dtype::F16], &[n_heads, summary.focus.len(), config.top_k * config.block_size_k])?;
        }
        let Some(n_sentences) = self.n_sentences() else { return Ok(()) };
        is("sentences", &[Dtype::U32], &[n_sentences, 2])?;
        for &layer in &self.layers {
            is(&name(layer, "written"), &[Dtype::F32], &[n_heads, t.div_ceil(config.block_size_k)])?;
            is(&name(layer, "residual"), &[Dtype::F32], &[t.div_ceil(config.block_size_q)])?;
            is(&name(layer, "vertical"), &[Dtype::F32], &[n_heads, n_sentences])?;
            if config.proximity {
                is(&name(layer, "proximity"), &[Dtype::F16], &rows)?;
            }
        }
        Ok(())
    }

    /// Sentences of the prompt; none in a trace of version 1.
    pub(super) fn n_sentences(&self) -> Option<usize> {
        self.metadata.info("sentences").and_then(|info| info.shape.first().copied())
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(self.bytes("text")).unwrap_or_default()
    }

    /// Elements of a U32 tensor.
    pub(super) fn u32s(&self, name: &str, range: Range<usize>) -> Result<Vec<u32>, Error> {
        self.read(name, Dtype::U32, range, u32::from_le_bytes)
    }

    /// Elements of an F16 or F32 tensor.
    pub(super) fn floats(&self, name: &str, range: Range<usize>) -> Result<Vec<f32>, Error> {
        match self.metadata.info(name).map(|i| i.dtype) {
            Some(Dtype::F16) => self.read(name, Dtype::F16, range, |b| f16::from_le_bytes(b).to_f32()),
            _ => self.read(name, Dtype::F32, range, f32::from_le_bytes),
        }
    }

    /// Elements of a U16 or U32 tensor; the type's largest value reads as [`BlockMask::NONE`].
    pub(super) fn indices(&self, name: &str, range: Range<usize>) -> Result<Vec<u32>, Error> {
        let widen = |b| match u16::from_le_bytes(b) {
            u16::MAX => BlockMask::NONE,
            block => block as u32,
        };
        match self.metadata.info(name).map(|i| i.dtype) {
            Some(Dtype::U16) => self.read(name, Dtype::U16, range, widen),
            _ => self.u32s(name, range),
        }
    }

    pub(super) fn bytes(&self, name: &str) -> &[u8] {
        self.metadata.info(name).map_or(&[], |i| &self.data()[i.data_offsets.0..i.data_offsets.1])
    }

    fn read<const N: usize, T>(
        &self,
        name: &str,
        dtype: Dtype,
        range: Range<usize>,
        of: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let right_type = self.metadata.info(name).is_some_and(|i| i.dtype == dtype);
        match self.bytes(name).get(range.start * N..range.end * N) {
            Some(bytes) if right_type => Ok(bytes.as_chunks::<N>().0.iter().map(|&b| of(b)).collect()),
            _ => {
                let expected = format!("tensor {name} of {dtype:?} with elements {range:?}");
                Err(self.damaged(&expected, format!("{:?}", self.metadata.info(name))))
            }
        }
    }

    /// The error for a file that holds something else than it should.
    pub(super) fn damaged(&self, expected: &str, found: String) -> Error {
        Error::Trace {
            path: self.path.display().to_string(),
            expected: expected.into(),
            found,
            fix: "trace the prompt again".into(),
        }
    }
}

/// Whether a summary's sizes are ones that arithmetic on them is safe with.
fn check_sizes(summary: &Summary) -> Result<(), String> {
    let (t, config, model) = (summary.n_tokens, &summary.config, &summary.model);
    let sizes = [t, config.block_size_q, config.block_size_k, config.top_k, model.n_layers, model.n_heads];
    if sizes.iter().any(|&size| size == 0 || u32::try_from(size).is_err()) {
        return Err(format!(
            "{t} tokens in blocks of {} and {}, top_k {}, {} layers of {} heads",
            sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
        ));
    }
    if model.windows.len() != model.n_layers || model.windows.contains(&Some(0)) {
        return Err(format!("windows {:?} of {} layers", model.windows, model.n_layers));
    }
    if summary.focus.start > summary.focus.end || summary.focus.end > t {
        return Err(format!("a focus from {} to {} in {t} tokens", summary.focus.start, summary.focus.end));
    }
    Ok(())
}
