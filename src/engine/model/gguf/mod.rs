//! A `.gguf` file, as llama.cpp writes it: quantised weights, the configuration and the tokenizer in one
//! file.
//!
//! Its metadata are translated to Hugging Face's names, so that the rest of the engine handles one kind of
//! model.

mod config;
mod names;
mod tokenizer;

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::quantized::{
    GgmlDType,
    gguf_file::{Content, TensorInfo, Value},
};
use memmap2::Mmap;
use safetensors::Dtype;

use super::{
    chat_template::{self, ChatTemplate},
    config::ModelConfig,
    weight::{Stored, Weight},
};
use crate::error::Error;

/// An open file; a tensor is read only when it is used.
pub struct Gguf {
    path: PathBuf,
    map: Arc<Mmap>,
    content: Content,
    /// "llama", "qwen2", … as llama.cpp names them.
    architecture: String,
}

impl Gguf {
    /// Opens a file and checks that it holds all its tensors.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read; [`Error::Model`] when it is damaged, cut off, without an
    /// architecture, or of an unknown type of quantisation.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let map = Arc::new(map(path)?);
        // A header that lies about its alignment makes the reader divide by zero.
        let content = catch_unwind(AssertUnwindSafe(|| Content::read(&mut Cursor::new(&map[..]))));
        let content = content
            .map_err(|_| "a header that makes no sense".to_string())
            .and_then(|c| c.map_err(|e| e.to_string()));
        let content = content.map_err(|why| damaged(path, "a whole GGUF file", &why))?;
        let architecture = match content.metadata.get("general.architecture") {
            Some(Value::String(name)) => name.clone(),
            _ => return Err(damaged(path, "the key general.architecture", "none")),
        };
        let gguf = Gguf { path: path.into(), map, content, architecture };
        gguf.content.tensor_infos.iter().try_for_each(|(name, info)| gguf.weight(name, info).map(drop))?;
        Ok(gguf)
    }

    /// Returns a tensor by Hugging Face's name.
    ///
    /// # Errors
    /// [`Error::Model`] when the file ends before the tensor does, or its rows should be whole heads and are
    /// not.
    pub fn get(&self, name: &str) -> Result<Option<Weight<'_>>, Error> {
        let Some((name, info)) = names::in_gguf(&self.architecture, name)
            .and_then(|n| self.content.tensor_infos.get_key_value(&n))
        else {
            return Ok(None);
        };
        let weight = self.weight(name, info)?;
        if self.architecture != "llama" || !(name.contains("attn_q.") || name.contains("attn_k.")) {
            return Ok(Some(weight));
        }
        let n_rows = weight.shape()[0];
        let head_dim = self.head_dim();
        if head_dim >= 2 && head_dim.is_multiple_of(2) && n_rows.is_multiple_of(head_dim) {
            return Ok(Some(weight.deinterleaved(head_dim)));
        }
        let expected = format!("{name} of heads of {head_dim} rows");
        Err(damaged(&self.path, &expected, &format!("{n_rows} rows")))
    }

    /// Counts the numbers of all tensors.
    pub fn n_parameters(&self) -> u64 {
        self.content.tensor_infos.values().map(|info| info.shape.elem_count() as u64).sum()
    }

    /// Returns the tokens that end a text.
    pub fn end_of_text(&self) -> Vec<u32> {
        let id = |name: &str| self.number(&format!("tokenizer.ggml.{name}_token_id")).map(|id| id as u32);
        ["eos", "eot"].into_iter().filter_map(id).collect()
    }

    /// Returns the configuration, translated to Hugging Face's names.
    ///
    /// # Errors
    /// [`Error::Model`] when the architecture or a setting is not supported.
    pub fn config(&self) -> Result<ModelConfig, Error> {
        config::from_metadata(self)
    }

    /// Makes a `tokenizer.json` of the file's vocabulary.
    ///
    /// # Errors
    /// [`Error::Model`] when the file has no tokenizer or one of an unknown kind.
    pub fn tokenizer(&self) -> Result<serde_json::Value, Error> {
        tokenizer::from_metadata(self)
    }

    /// Returns the chat template.
    ///
    /// # Errors
    /// [`Error::Model`] when the file has no template.
    pub fn chat(&self) -> Result<ChatTemplate, Error> {
        let source =
            self.text("tokenizer.chat_template").ok_or_else(|| chat_template::missing(&self.path))?;
        let special = |name: &str| {
            let id = self.number(&format!("tokenizer.ggml.{name}_token_id"))? as usize;
            let Value::String(token) = self.list("tokenizer.ggml.tokens").get(id)? else { return None };
            Some((format!("{name}_token"), token.as_str().into()))
        };
        let special_tokens = ["bos", "eos"].into_iter().filter_map(special).collect();
        Ok(ChatTemplate { path: self.path.clone(), source: source.into(), special_tokens })
    }

    /// Returns the tensor that `info` describes.
    fn weight(&self, name: &str, info: &TensorInfo) -> Result<Weight<'_>, Error> {
        let shape = info.shape.dims().to_vec();
        let stored = match info.ggml_dtype {
            GgmlDType::F32 => Stored::Plain(Dtype::F32),
            GgmlDType::F16 => Stored::Plain(Dtype::F16),
            GgmlDType::BF16 => Stored::Plain(Dtype::BF16),
            quantized => Stored::Quantized(quantized),
        };
        let width = shape.last().copied().unwrap_or(1);
        let n_rows = shape.iter().rev().skip(1).try_fold(1, |n: usize, &rows| n.checked_mul(rows));
        let n_bytes = stored.row_bytes(width).zip(n_rows).and_then(|(row, n)| row.checked_mul(n));
        let start =
            self.content.tensor_data_offset.checked_add(info.offset).and_then(|at| usize::try_from(at).ok());
        let n_bytes = n_bytes.filter(|_| !shape.contains(&0));
        let range = start.zip(n_bytes).and_then(|(start, n)| Some(start..start.checked_add(n)?));
        // Blocks are read in place and hold numbers of up to 8 bytes, so they must be aligned to 8.
        let bytes = range.filter(|range| range.start.is_multiple_of(8)).and_then(|range| self.map.get(range));
        match bytes {
            Some(bytes) => Ok(Weight::new(shape, bytes, stored).mapped_in(&self.map)),
            None => Err(damaged(
                &self.path,
                &format!("{name} {shape:?} in a whole file"),
                "one that is cut off or damaged",
            )),
        }
    }

    fn head_dim(&self) -> usize {
        let hidden = self.architecture_number("embedding_length").unwrap_or(1.0);
        let n_heads = self.architecture_number("attention.head_count").unwrap_or(1.0);
        self.architecture_number("attention.key_length").unwrap_or(hidden / n_heads.max(1.0)) as usize
    }

    /// Returns the number under `key` in the metadata, of any numeric type.
    fn number(&self, key: &str) -> Option<f64> {
        match *self.content.metadata.get(key)? {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            Value::U64(x) => Some(x as f64),
            Value::I64(x) => Some(x as f64),
            Value::U32(x) => Some(x.into()),
            Value::I32(x) => Some(x.into()),
            Value::U16(x) => Some(x.into()),
            Value::I16(x) => Some(x.into()),
            Value::U8(x) => Some(x.into()),
            Value::I8(x) => Some(x.into()),
            _ => None,
        }
    }

    /// Returns the number under `key` with the architecture's prefix.
    fn architecture_number(&self, key: &str) -> Option<f64> {
        self.number(&format!("{}.{key}", self.architecture))
    }

    /// Returns the text under `key`.
    fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the truth value under `key`.
    fn switch(&self, key: &str) -> Option<bool> {
        match self.content.metadata.get(key)? {
            Value::Bool(on) => Some(*on),
            _ => None,
        }
    }

    /// Returns the list under `key`, or an empty one.
    fn list(&self, key: &str) -> &[Value] {
        match self.content.metadata.get(key) {
            Some(Value::Array(values)) => values,
            _ => &[],
        }
    }
}

#[expect(unsafe_code, reason = "weights are mapped")]
fn map(path: &Path) -> Result<Mmap, Error> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    // SAFETY: the map is read-only; tools replace a weights file and do not rewrite it in place while it is
    // in use.
    unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))
}

/// The error for a file that is damaged or quantised in an unknown way.
fn damaged(path: &Path, expected: &str, found: &str) -> Error {
    Error::model(
        path.display(),
        expected,
        found.lines().next().unwrap_or_default(),
        "download it again, or choose a file quantised as F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q4_0 \
         or a type like them",
    )
}
