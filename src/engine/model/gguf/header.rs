//! The header of a GGUF file: metadata by key, and where each tensor lies. Texts and lists are left where they
//! are in the file, so that a vocabulary costs nothing until it is used.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use super::{
    damaged,
    reader::{Found, Reader, Value},
};
use crate::error::Error;

/// What every GGUF file starts with.
const MAGIC: &[u8] = b"GGUF";

/// What llama.cpp's earlier formats start with.
const OLDER: [&[u8]; 4] = [b"lmgg", b"fmgg", b"tjgg", b"algg"];

/// Most dimensions of a tensor: llama.cpp's.
const MOST_DIMENSIONS: u32 = 4;

/// Multiples of bytes at which tensors start, in a file that does not say so.
const ALIGNMENT: usize = 32;

/// The header of a file, whose bytes each method gets again.
pub struct Header {
    metadata: BTreeMap<String, Value>,
    /// Tensors by llama.cpp's names.
    pub tensors: BTreeMap<String, Tensor>,
    /// Whether lengths have 8 bytes.
    is_wide: bool,
}

/// Where a tensor lies.
pub struct Tensor {
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    /// llama.cpp's number of its format.
    pub format: u32,
    /// The byte of the file at which it starts.
    pub start: usize,
}

impl Header {
    /// Reads the header of the file `bytes`; errors name `path`.
    ///
    /// # Errors
    /// [`Error::Model`] when the header reaches past the file's end, is big-endian or of another version, or
    /// has a type of value that is not known.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let is_wide = version(path, bytes)? > 1;
        let mut reader = Reader::new(bytes, 8, is_wide);
        Self::parts(&mut reader, bytes, is_wide).map_err(|found| damaged(path, "a whole GGUF file", found))
    }

    fn parts(reader: &mut Reader, bytes: &[u8], is_wide: bool) -> Result<Self, Found> {
        let (n_tensors, n_metadata) = (reader.length()?, reader.length()?);
        let name =
            |reader: &mut Reader| Ok::<_, Found>(String::from_utf8_lossy(&bytes[reader.text()?]).into());
        let mut header = Header { metadata: BTreeMap::new(), tensors: BTreeMap::new(), is_wide };
        for _ in 0..n_metadata {
            let (key, kind): (String, u32) = (name(reader)?, reader.u32()?);
            let value = reader.value(kind).map_err(|found| found.at(&key))?;
            header.metadata.insert(key, value);
        }
        for _ in 0..n_tensors {
            let name: String = name(reader)?;
            let tensor = tensor(reader).map_err(|found| found.at(&name))?;
            header.tensors.insert(name, tensor);
        }
        header.place(reader.at)?;
        Ok(header)
    }

    /// Counts the starts of tensors, so far from the first one's, from the start of the file, whose header
    /// ends at `end`.
    fn place(&mut self, end: usize) -> Result<(), Found> {
        let alignment = match self.number("general.alignment") {
            None => ALIGNMENT,
            Some(n) if n >= 1.0 && n <= f64::from(1 << 30) && (n as usize).is_power_of_two() => n as usize,
            Some(n) => return Err(Found::Other(format!("general.alignment {n}, which makes no sense"))),
        };
        let data = end.next_multiple_of(alignment);
        self.tensors.values_mut().for_each(|tensor| tensor.start = tensor.start.saturating_add(data));
        Ok(())
    }

    /// Returns the number under `key` in the metadata, of any numeric type.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Returns the truth value under `key`.
    pub fn switch(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Switch(on) => Some(*on),
            _ => None,
        }
    }

    /// Returns the text under `key`.
    pub fn text<'a>(&self, bytes: &'a [u8], key: &str) -> Option<Cow<'a, str>> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(String::from_utf8_lossy(&bytes[text.clone()])),
            _ => None,
        }
    }

    /// Returns the texts of the list under `key`, empty ones for items of another type; none without a list.
    pub fn texts<'a>(&self, bytes: &'a [u8], key: &str) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        self.items(bytes, key).map(|item| match item {
            Value::Text(text) => String::from_utf8_lossy(&bytes[text]),
            _ => "".into(),
        })
    }

    /// Returns the numbers of the list under `key`, NaN for items of another type; none without a list.
    pub fn numbers<'a>(&self, bytes: &'a [u8], key: &str) -> impl Iterator<Item = f64> + use<'a> {
        self.items(bytes, key).map(|item| match item {
            Value::Number(number) => number,
            _ => f64::NAN,
        })
    }

    fn items<'a>(&self, bytes: &'a [u8], key: &str) -> impl Iterator<Item = Value> + use<'a> {
        let list = match self.metadata.get(key) {
            Some(Value::List(list)) => Some(*list),
            _ => None,
        };
        list.map(|list| Reader::new(bytes, 0, self.is_wide).items(list)).into_iter().flatten()
    }
}

/// Returns the version of the format.
fn version(path: &Path, bytes: &[u8]) -> Result<u32, Error> {
    let expected = "a GGUF file of version 1, 2 or 3";
    let error = |expected: &str, found: &str, fix: &str| Error::model(path.display(), expected, found, fix);
    let Some(version) = bytes.strip_prefix(MAGIC) else {
        let (found, fix) = match bytes {
            bytes if MAGIC.starts_with(bytes) => return Err(damaged(path, expected, cut_off(bytes))),
            bytes if OLDER.iter().any(|magic| bytes.starts_with(magic)) => {
                ("a file of the format GGML, which GGUF has replaced", "choose a GGUF file of this model")
            }
            _ => ("a file that does not start as one", "check the path, or choose another file"),
        };
        return Err(error(expected, found, fix));
    };
    let Some(&version) = version.first_chunk() else { return Err(damaged(path, expected, cut_off(bytes))) };
    match (u32::from_le_bytes(version), u32::from_be_bytes(version)) {
        (version @ 1..=3, _) => Ok(version),
        (_, 1..=3) => Err(error(
            "a little-endian GGUF file",
            "a big-endian one",
            "choose a little-endian file of this model, or convert it with llama.cpp's gguf_convert_endian.py",
        )),
        (version, _) => Err(damaged(path, expected, Found::Other(format!("version {version}")))),
    }
}

/// What is found of a file that ends before its version.
fn cut_off(bytes: &[u8]) -> Found {
    Found::End(format!("a file of {} bytes", bytes.len()))
}

/// Reads the description of a tensor; its start is counted from the first tensor's.
fn tensor(reader: &mut Reader) -> Result<Tensor, Found> {
    let n_dimensions = reader.u32()?;
    if n_dimensions > MOST_DIMENSIONS {
        let found = format!("a tensor of {n_dimensions} dimensions, more than {MOST_DIMENSIONS}");
        return Err(Found::Other(found));
    }
    let mut shape = (0..n_dimensions).map(|_| reader.length()).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let format = reader.u32()?;
    let start = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
    Ok(Tensor { shape, format, start })
}
