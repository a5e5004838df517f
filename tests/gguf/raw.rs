//! GGUF files written byte by byte, for what no writer writes.

use std::{fs, path::PathBuf};

use streamtrace::{Error, engine::model::gguf::Gguf};
use tempfile::TempDir;

/// A file's header and data.
#[derive(Clone)]
pub struct Raw {
    pub version: u32,
    /// Key, type and bytes of each value.
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions as they are in the file, and type of each tensor; all start with the data.
    pub tensors: Vec<(String, Vec<u64>, u32)>,
    pub data: Vec<u8>,
}

impl Raw {
    /// A file with the tensor "output_norm.weight".
    pub fn of(kind: u32, dimensions: &[u64], data: Vec<u8>) -> Self {
        let tensors = vec![("output_norm.weight".into(), dimensions.to_vec(), kind)];
        let mut raw = Raw { version: 3, metadata: Vec::new(), tensors, data };
        let name = raw.text("llama");
        raw.metadata.push(("general.architecture".into(), 8, name));
        raw
    }

    pub fn with(mut self, key: &str, kind: u32, bytes: Vec<u8>) -> Self {
        self.metadata.push((key.into(), kind, bytes));
        self
    }

    pub fn length(&self, n: u64) -> Vec<u8> {
        if self.version == 1 { (n as u32).to_le_bytes().into() } else { n.to_le_bytes().into() }
    }

    pub fn text(&self, text: &str) -> Vec<u8> {
        [self.length(text.len() as u64), text.into()].concat()
    }

    /// Returns the header without the space before the data.
    pub fn header(&self) -> Vec<u8> {
        let [n_tensors, n_metadata] =
            [self.tensors.len(), self.metadata.len()].map(|n| self.length(n as u64));
        let mut bytes = [b"GGUF".to_vec(), self.version.to_le_bytes().into(), n_tensors, n_metadata].concat();
        for (key, kind, value) in &self.metadata {
            bytes.extend([self.text(key), kind.to_le_bytes().into(), value.clone()].concat());
        }
        for (name, dimensions, kind) in &self.tensors {
            bytes.extend([self.text(name), (dimensions.len() as u32).to_le_bytes().into()].concat());
            bytes.extend(dimensions.iter().flat_map(|&n| self.length(n)));
            bytes.extend([kind.to_le_bytes().to_vec(), 0u64.to_le_bytes().into()].concat());
        }
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, self.data.clone()].concat()
    }
}

/// Opens a file of these bytes.
pub fn open(bytes: &[u8]) -> Result<(TempDir, Gguf), Error> {
    let folder = TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("raw.gguf");
    fs::write(&path, bytes).unwrap();
    Gguf::open(&path).map(|gguf| (folder, gguf))
}

/// Opens a file of these bytes and returns the numbers of its tensor.
pub fn numbers(bytes: &[u8]) -> Vec<f32> {
    let (_folder, gguf) = open(bytes).unwrap();
    let weight = gguf.get("model.norm.weight").unwrap().unwrap();
    let values = weight.read().unwrap();
    values.view().data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[track_caller]
pub fn assert_refused(bytes: &[u8], words: &[&str]) {
    let error = open(bytes).err().expect("an error").to_string();
    words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in: {error}"));
}
