//! The arrays of a trace file: their names, and their numbers, read when they are asked for.
//!
//! Nothing is mapped: a part that another program cuts off or changes meanwhile gives an error or other
//! numbers, and no signal that ends the process.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use half::f16;
use safetensors::{Dtype, tensor::Metadata};

use super::{BlockMask, Budgets, Summary, name};
use crate::{error::Error, open_file};

/// A length above that of any trace's header.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 16;

/// An open file and where its tensors lie.
pub(super) struct Tensors {
    file: Mutex<File>,
    pub(super) path: PathBuf,
    pub(super) metadata: Metadata,
    /// Byte of the file at which the tensors' data starts.
    start: u64,
    /// Layers that are there, ascending.
    pub(super) layers: Vec<usize>,
    text: String,
}

impl Tensors {
    /// Opens the tensors of a safetensors file, of no layer yet.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Trace`] when it is cut off or not a safetensors file.
    pub(super) fn open(mut file: File, path: &Path) -> Result<Self, Error> {
        let n_bytes = file.metadata().map_err(Error::io("read", path))?.len();
        let metadata = metadata(&mut file, n_bytes).map_err(|e| {
            let found = format!("{n_bytes} bytes that were cut off or are another kind of file: {e}");
            damaged(path, "a whole safetensors file", found)
        })?;
        let start = n_bytes - metadata.data_len() as u64;
        Self::new(file, path, metadata, start)
    }

    /// Returns the tensors whose data start at a byte of a file.
    pub(super) fn new(file: File, path: &Path, metadata: Metadata, start: u64) -> Result<Self, Error> {
        let file = Mutex::new(file);
        let mut tensors =
            Tensors { file, path: path.into(), metadata, start, layers: Vec::new(), text: String::new() };
        let wrong =
            |e| damaged(path, "tensors that fit the summary", format!("a text that is not UTF-8: {e}"));
        tensors.text = String::from_utf8(tensors.bytes("text")?).map_err(wrong)?;
        Ok(tensors)
    }

    /// Returns the file, set to a byte of the tensors' data.
    fn at(&self, byte: usize) -> io::Result<MutexGuard<'_, File>> {
        // A thread that panicked while it read left nothing half-done.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.start + byte as u64))?;
        Ok(file)
    }

    /// Returns the path by which other processes of this machine open the file, and the byte at which the data starts.
    pub(super) fn handle(&self) -> Option<(String, u64)> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        open_file::path_of(&file).map(|path| (path, self.start))
    }

    /// Writes all tensors' bytes.
    pub(super) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let n = self.metadata.data_len() as u64;
        let copied = io::copy(&mut Read::take(&mut *self.at(0)?, n), out)?;
        match copied == n {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} was cut off", self.path.display()),
            )),
        }
    }

    /// Checks that every tensor is there, with the summary's shapes and a type that the readers below take.
    pub(super) fn check(&self, summary: &Summary) -> Result<(), String> {
        let (t, n_heads, config) = (summary.n_tokens, summary.model.n_heads, &summary.config);
        check_sizes(summary)?;
        let is = |name: &str, dtypes: &[Dtype], shape: &[usize]| match self.metadata.info(name) {
            Some(info) if dtypes.contains(&info.dtype) && info.shape == shape => Ok(()),
            Some(info) => {
                Err(format!("{name} of {:?} {:?}, not {dtypes:?} {shape:?}", info.dtype, info.shape))
            }
            None => Err(format!("no tensor {name}")),
        };
        is("tokens", &[Dtype::U32], &[t])?;
        is("offsets", &[Dtype::U32], &[t, 2])?;
        is("logits", &[Dtype::F32], &[summary.model.vocab_size])?;
        is("text", &[Dtype::U8], &[self.text.len()])?;
        for &layer in &self.layers {
            let shape = |n_rows: usize, width: usize| self.shape_of_rows(summary, layer, n_rows, width);
            let rows = shape(t.div_ceil(config.block_size_q), 1)?;
            is(&name(layer, "received"), &[Dtype::F32], &[n_heads, t])?;
            is(&name(layer, "mass"), &[Dtype::F16], &rows)?;
            is(&name(layer, "kept"), &[Dtype::U16, Dtype::U32], &rows)?;
            is(&name(layer, "focus"), &[Dtype::F16], &shape(summary.focus.len(), config.block_size_k)?)?;
            if config.proximity {
                is(&name(layer, "proximity"), &[Dtype::F16], &rows)?;
            }
            if summary.recall.is_some() {
                is(&name(layer, "recall"), &[Dtype::F32], &[n_heads])?;
            }
            if summary.on_sinks.is_some() {
                is(&name(layer, "on_sink"), &[Dtype::F32], &[n_heads, t.div_ceil(config.block_size_q)])?;
            }
        }
        for &layer in &self.layers {
            let experts = name(layer, "experts");
            if self.metadata.info(&experts).is_some() {
                let per_token = summary.experts.map_or(0, |experts| experts.per_token);
                is(&experts, &[Dtype::U16], &[t, per_token])?;
            }
        }
        let Some(n_sentences) = self.n_sentences() else { return Ok(()) };
        is("sentences", &[Dtype::U32], &[n_sentences, 2])?;
        for &layer in &self.layers {
            is(&name(layer, "written"), &[Dtype::F32], &[n_heads, t.div_ceil(config.block_size_k)])?;
            is(&name(layer, "residual"), &[Dtype::F32], &[t.div_ceil(config.block_size_q)])?;
            is(&name(layer, "vertical"), &[Dtype::F32], &[n_heads, n_sentences])?;
        }
        Ok(())
    }

    /// Returns the shape of a layer's rows, `n_rows` of each head and `width` numbers for each key block.
    fn shape_of_rows(
        &self,
        summary: &Summary,
        layer: usize,
        n_rows: usize,
        width: usize,
    ) -> Result<Vec<usize>, String> {
        if self.metadata.info(&name(layer, "top_k")).is_none() {
            return Ok(vec![summary.model.n_heads, n_rows, summary.config.top_k * width]);
        }
        let budgets = self.budgets(summary, layer).map_err(|e| e.to_string())?;
        let n = budgets.sum().checked_mul(n_rows).and_then(|n| n.checked_mul(width));
        match n.filter(|_| !budgets.as_slice().contains(&0)) {
            Some(n) => Ok(vec![n]),
            None => Err(format!("budgets {:?} of {n_rows} rows", budgets.as_slice())),
        }
    }

    /// Returns the budgets of a layer's heads; before version 3 all heads had the summary's.
    pub(super) fn budgets(&self, summary: &Summary, layer: usize) -> Result<Budgets, Error> {
        let (n_heads, name) = (summary.model.n_heads, name(layer, "top_k"));
        if self.metadata.info(&name).is_none() {
            return Ok(Budgets::uniform(n_heads, summary.config.top_k));
        }
        Ok(Budgets::new(self.u32s(&name, 0..n_heads)?.into_iter().map(|k| k as usize).collect()))
    }

    /// Counts the sentences of the prompt; `None` in a trace of version 1.
    pub(super) fn n_sentences(&self) -> Option<usize> {
        self.metadata.info("sentences").and_then(|info| info.shape.first().copied())
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Reads elements of a U32 tensor.
    pub(super) fn u32s(&self, name: &str, range: Range<usize>) -> Result<Vec<u32>, Error> {
        self.read(name, Dtype::U32, range, u32::from_le_bytes)
    }

    /// Reads elements of an F16 or F32 tensor.
    pub(super) fn floats(&self, name: &str, range: Range<usize>) -> Result<Vec<f32>, Error> {
        match self.metadata.info(name).map(|i| i.dtype) {
            Some(Dtype::F16) => self.read(name, Dtype::F16, range, |b| f16::from_le_bytes(b).to_f32()),
            _ => self.read(name, Dtype::F32, range, f32::from_le_bytes),
        }
    }

    /// Reads elements of a U16 or U32 tensor; the type's largest value reads as [`BlockMask::NONE`].
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

    /// Reads elements of a U16 tensor; none if it is not there.
    pub(super) fn u16s(&self, name: &str, range: Range<usize>) -> Result<Option<Vec<u16>>, Error> {
        let is_there = self.metadata.info(name).is_some();
        is_there.then(|| self.read(name, Dtype::U16, range, u16::from_le_bytes)).transpose()
    }

    /// Returns all bytes of a tensor; no bytes if it is not there.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let range = self.metadata.info(name).map_or(0..0, |info| info.data_offsets.0..info.data_offsets.1);
        let mut bytes = vec![0; range.len()];
        self.at(range.start)
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|e| self.unreadable(e))?;
        Ok(bytes)
    }

    fn read<const N: usize, T>(
        &self,
        name: &str,
        dtype: Dtype,
        range: Range<usize>,
        of: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let info = self.metadata.info(name).filter(|info| info.dtype == dtype);
        let bytes =
            info.map(|info| info.data_offsets.0 + range.start * N..info.data_offsets.0 + range.end * N);
        match (bytes, info) {
            (Some(bytes), Some(info)) if bytes.start <= bytes.end && bytes.end <= info.data_offsets.1 => {
                self.decoded(bytes, of).map_err(|e| self.unreadable(e))
            }
            _ => {
                let expected = format!("tensor {name} of {dtype:?} with elements {range:?}");
                Err(self.damaged(&expected, format!("{:?}", self.metadata.info(name))))
            }
        }
    }

    /// Reads numbers of `N` bytes each, in a range of the data.
    fn decoded<const N: usize, T>(
        &self,
        range: Range<usize>,
        of: impl Fn([u8; N]) -> T,
    ) -> io::Result<Vec<T>> {
        let (mut values, mut buffer) = (Vec::with_capacity(range.len() / N), vec![0; range.len().min(CHUNK)]);
        let mut file = self.at(range.start)?;
        let mut left = range.len();
        while left > 0 {
            let part = &mut buffer[..left.min(CHUNK)];
            file.read_exact(part)?;
            values.extend(part.as_chunks::<N>().0.iter().map(|&bytes| of(bytes)));
            left -= part.len();
        }
        Ok(values)
    }

    /// Returns the error for a file that was whole when it was opened.
    fn unreadable(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.damaged("the file as it was opened", "one that was cut off since".into())
            }
            _ => Error::io("read", &self.path)(error),
        }
    }

    /// Returns the error for a file that does not hold the expected content.
    pub(super) fn damaged(&self, expected: &str, found: String) -> Error {
        damaged(&self.path, expected, found)
    }
}

fn damaged(path: &Path, expected: &str, found: String) -> Error {
    Error::trace(path.display(), expected, found, "trace the prompt again")
}

/// Reads the header of a safetensors file, which must be `n_bytes` long.
fn metadata(file: &mut File, n_bytes: u64) -> io::Result<Metadata> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut n_header = [0; 8];
    file.rewind()?;
    file.read_exact(&mut n_header)?;
    let n_header = u64::from_le_bytes(n_header);
    if n_header > n_bytes.saturating_sub(8).min(MAX_HEADER) {
        return Err(wrong("a header longer than the file"));
    }
    let mut header = vec![0; n_header as usize];
    file.read_exact(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)?;
    match metadata.data_len() as u64 == n_bytes - 8 - n_header {
        true => Ok(metadata),
        false => Err(wrong("data of another length than the header says")),
    }
}

/// Checks that arithmetic on a summary's sizes is safe.
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
