//! A `.gguf` file, as llama.cpp writes it: quantised weights, the configuration and the tokenizer in one
//! file.
//!
//! Its metadata are translated to Hugging Face's names, so that the rest of the engine handles one kind of
//! model.

mod config;
mod experts;
mod header;
mod names;
mod reader;
mod tokenizer;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use safetensors::Dtype;

use self::{
    header::{Header, Tensor},
    reader::Found,
};
use super::{
    chat_template::{self, ChatTemplate},
    config::ModelConfig,
    context,
    family::{FAMILIES, Family, Rotary},
    format::Format,
    parts, pointer,
    seen::Seen,
    tokenizer::Tokenizer,
    weight::{Stored, Weight},
};
use crate::error::Error;

/// An open file, or several that hold one model; a tensor is read only when it is used.
pub struct Gguf {
    /// The first file.
    path: PathBuf,
    /// The first has the metadata.
    parts: Vec<Part>,
    /// "llama", "qwen2", … as llama.cpp names them.
    architecture: String,
    /// What its tensors are read as; `None` for an architecture that is not supported.
    pub family: Option<&'static Family>,
}

/// One file.
struct Part {
    path: PathBuf,
    /// The file when it was mapped.
    seen: Seen,
    map: Arc<Mmap>,
    header: Header,
}

impl Gguf {
    /// Opens a file, and the other parts of its model if it is one of several, and checks that they hold all
    /// their tensors.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read; [`Error::Model`] when one is damaged, cut off, without an
    /// architecture, has a tensor in a format that is not read, or when a part is missing.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = Part::open(path)?;
        let parts = match opened.header.number("split.count") {
            Some(n) if n > 1.0 => Part::all(opened, n as usize)?,
            _ => vec![opened],
        };
        let first = &parts[0];
        let Some(architecture) = first.header.text(&first.map, "general.architecture").map(Cow::into_owned)
        else {
            return Err(Error::model(
                first.path.display(),
                "the key general.architecture",
                "none",
                "the file holds no model: choose another one",
            ));
        };
        match first.header.text(&first.map, "general.type").as_deref() {
            None | Some("model") => {}
            Some(kind) => {
                let fix =
                    "choose the file of the model itself; an adapter is merged into it by llama-export-lora";
                return Err(Error::model(
                    first.path.display(),
                    "a whole model",
                    format!("general.type {kind}"),
                    fix,
                ));
            }
        }
        for part in &parts {
            part.header.tensors.iter().try_for_each(|(name, tensor)| part.weight(name, tensor).map(drop))?;
        }
        let window = first.header.number(&format!("{architecture}.attention.sliding_window"));
        let n_experts = first.header.number(&format!("{architecture}.expert_count"));
        let [has_windows, has_experts] = [window, n_experts].map(|n| n.is_some_and(|n| n > 0.0));
        let family = Family::of_gguf(&architecture, has_windows, has_experts);
        Ok(Gguf { path: first.path.clone(), parts, architecture, family })
    }

    /// Iterates over the files when they were mapped.
    pub fn seen(&self) -> impl Iterator<Item = Seen> {
        self.parts.iter().map(|part| part.seen.clone())
    }

    /// Translates Hugging Face's name of a tensor to the file's, if there is one.
    pub fn name_of(&self, name: &str) -> Option<String> {
        names::in_gguf(self.family.unwrap_or(&FAMILIES[0]), name)
    }

    /// Returns a tensor by Hugging Face's name.
    ///
    /// # Errors
    /// [`Error::Model`] when the file ends before the tensor does, or its rows should be whole heads and are
    /// not.
    pub fn get(&self, name: &str) -> Result<Option<Weight<'_>>, Error> {
        let family = self.family.unwrap_or(&FAMILIES[0]);
        let Some(name) = self.name_of(name) else { return Ok(None) };
        let found = self.parts.iter().find_map(|part| Some((part, part.header.tensors.get(&name)?)));
        let Some((part, tensor)) = found else { return Ok(None) };
        let mut weight = part.weight(&name, tensor)?;
        if name.contains("ffn_gate_inp_shexp") {
            weight = weight.into_row();
        }
        let interleaved = family.rotary == Rotary::HalvesNeighboursInGguf;
        if !interleaved || !(name.contains("attn_q.") || name.contains("attn_k.")) {
            return Ok(Some(weight));
        }
        let n_rows = weight.shape()[0];
        let head_dim = self.head_dim();
        if head_dim >= 2 && head_dim.is_multiple_of(2) && n_rows.is_multiple_of(head_dim) {
            return Ok(Some(weight.deinterleaved(head_dim, head_dim)));
        }
        let expected = format!("{name} of heads of {head_dim} rows");
        Err(Error::model(
            self.path.display(),
            expected,
            format!("{n_rows} rows"),
            "its metadata and tensors contradict each other: choose another file of this model",
        ))
    }

    /// Counts the numbers of all tensors.
    pub fn n_parameters(&self) -> u64 {
        let tensors = self.parts.iter().flat_map(|part| part.header.tensors.values());
        tensors.map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
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

    /// Returns the model's name, if the file has it.
    pub fn name(&self) -> Option<String> {
        self.text("general.name").map(Cow::into_owned)
    }

    /// Returns the tokens of the longest prompt that the model was made for; `None` if the file does not say.
    pub fn context_length(&self, config: &ModelConfig) -> Option<usize> {
        context::length(self.architecture_number("context_length"), config)
    }

    /// Makes a tokenizer of the file's vocabulary, for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Error::Model`] when the file has no tokenizer, one of an unknown kind, or one that is damaged or has
    /// an id of `vocab_size` or above.
    pub fn tokenizer(&self, vocab_size: usize) -> Result<Tokenizer, Error> {
        tokenizer::from_metadata(self, vocab_size)
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
            let token = self.texts("tokenizer.ggml.tokens").nth(id)?;
            Some((format!("{name}_token"), token.into_owned().into()))
        };
        let special_tokens = ["bos", "eos"].into_iter().filter_map(special).collect();
        Ok(ChatTemplate { path: self.path.clone(), source: source.into_owned(), special_tokens })
    }

    /// Returns the part that has the metadata.
    fn first(&self) -> &Part {
        &self.parts[0]
    }

    fn head_dim(&self) -> usize {
        let hidden = self.architecture_number("embedding_length").unwrap_or(1.0);
        let n_heads = self.architecture_number("attention.head_count").unwrap_or(1.0);
        self.architecture_number("attention.key_length").unwrap_or(hidden / n_heads.max(1.0)) as usize
    }

    /// Returns the number under `key` in the metadata, of any numeric type.
    fn number(&self, key: &str) -> Option<f64> {
        self.first().header.number(key)
    }

    /// Returns the number under `key` with the architecture's prefix.
    fn architecture_number(&self, key: &str) -> Option<f64> {
        self.number(&format!("{}.{key}", self.architecture))
    }

    /// Returns the truth value under `key` with the architecture's prefix.
    fn architecture_switch(&self, key: &str) -> Option<bool> {
        self.switch(&format!("{}.{key}", self.architecture))
    }

    /// Returns the text under `key`.
    fn text(&self, key: &str) -> Option<Cow<'_, str>> {
        self.first().header.text(&self.first().map, key)
    }

    /// Returns the truth value under `key`.
    fn switch(&self, key: &str) -> Option<bool> {
        self.first().header.switch(key)
    }

    /// Returns the texts under `key`, none if there is no list.
    fn texts(&self, key: &str) -> impl Iterator<Item = Cow<'_, str>> {
        self.first().header.texts(&self.first().map, key)
    }

    /// Returns the numbers under `key`, none if there is no list.
    fn numbers(&self, key: &str) -> impl Iterator<Item = f64> {
        self.first().header.numbers(&self.first().map, key)
    }
}

impl Part {
    fn open(path: &Path) -> Result<Self, Error> {
        let (map, seen) = map(path)?;
        pointer::check(path, &map)?;
        let header = Header::read(path, &map)?;
        Ok(Part { path: path.into(), seen, map: Arc::new(map), header })
    }

    /// Opens the other parts of a model of `n_parts`, which lie beside the one that is open.
    fn all(self, n_parts: usize) -> Result<Vec<Self>, Error> {
        let expected = format!("all {n_parts} parts of the model beside each other");
        let path = self.path.clone();
        let names = path.to_str().and_then(parts::Part::parse).map(parts::Part::all);
        let Some(names) = names.filter(|names| names.len() == n_parts) else {
            return Err(Error::model(
                path.display(),
                expected,
                format!(
                    "part {} under a name of its own",
                    self.header.number("split.no").unwrap_or(0.0) + 1.0
                ),
                format!("give the parts the names that they had, such as model-00001-of-{n_parts:05}.gguf"),
            ));
        };
        if let Some(missing) = names.iter().find(|name| !Path::new(name).exists()) {
            let fix = "download that file, into the same folder";
            return Err(Error::model(path.display(), expected, format!("no {missing}"), fix));
        }
        let mut opened = Some(self);
        let mut open = |(i, name): (usize, &String)| {
            let part = match opened.take_if(|part| part.path == Path::new(name)) {
                Some(part) => part,
                None => Part::open(Path::new(name))?,
            };
            match part.header.number("split.no") {
                Some(number) if number != i as f64 => Err(Error::model(
                    name,
                    format!("part {}", i + 1),
                    format!("part {}", number + 1.0),
                    "give the parts the names that they had",
                )),
                _ => Ok(part),
            }
        };
        names.iter().enumerate().map(&mut open).collect()
    }

    /// Returns the tensor that the header describes.
    fn weight(&self, name: &str, tensor: &Tensor) -> Result<Weight<'_>, Error> {
        let shape = tensor.shape.clone();
        let stored = self.stored(name, tensor.format)?;
        let width = shape.last().copied().unwrap_or(1);
        let n_rows = shape.iter().rev().skip(1).try_fold(1, |n: usize, &rows| n.checked_mul(rows));
        let n_bytes = stored.row_bytes(width).zip(n_rows).and_then(|(row, n)| row.checked_mul(n));
        let n_bytes = n_bytes.filter(|_| !shape.contains(&0));
        // Blocks are read in place and hold numbers of up to 8 bytes, so they must be aligned to 8.
        let start = Some(tensor.start).filter(|start| start.is_multiple_of(8));
        let range = start.zip(n_bytes).and_then(|(start, n)| Some(start..start.checked_add(n)?));
        let found = match range {
            Some(range) => match self.map.get(range.clone()) {
                Some(bytes) => return Ok(Weight::new(shape, bytes, stored).mapped_in(&self.map)),
                None => Found::End(format!("{} bytes, where it ends at {}", self.map.len(), range.end)),
            },
            None => Found::Other(format!("one that starts at byte {}", tensor.start)),
        };
        Err(damaged(&self.path, &format!("{name} {shape:?} inside of the file"), found))
    }

    /// Returns how the tensor `name` of llama.cpp's format `number` is stored.
    fn stored(&self, name: &str, number: u32) -> Result<Stored, Error> {
        match Format::of_number(number) {
            Some(Format::F32) => Ok(Stored::Plain(Dtype::F32)),
            Some(Format::F16) => Ok(Stored::Plain(Dtype::F16)),
            Some(Format::BF16) => Ok(Stored::Plain(Dtype::BF16)),
            Some(format) if format.is_read() => Ok(Stored::Quantized(format)),
            other => {
                let found = other.map_or(format!("type {number}, which is not known"), |f| f.to_string());
                let expected = format!("{name} as {}", Format::all_read());
                Err(Error::model(
                    self.path.display(),
                    expected,
                    found,
                    "choose a file quantised as one of these",
                ))
            }
        }
    }
}

#[expect(unsafe_code, reason = "weights are mapped")]
fn map(path: &Path) -> Result<(Mmap, Seen), Error> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    let seen = Seen::open(path, &file)?;
    // SAFETY: the map is read-only; tools replace a weights file and do not rewrite it in place while it is
    // in use.
    Ok((unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?, seen))
}

/// The error for a file that is cut off, or that makes no sense.
fn damaged(path: &Path, expected: &str, found: Found) -> Error {
    let (found, fix) = match found {
        Found::End(found) => (found, "the file is cut off: download it again"),
        Found::Other(found) => {
            (found, "the file is damaged, or newer than this program: choose another file of this model")
        }
    };
    Error::model(path.display(), expected, found, fix)
}
