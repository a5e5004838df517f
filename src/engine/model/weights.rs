//! The weights of a model, memory-mapped: `model.safetensors`, or shards with their index, or a GGUF file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use candle_core::safetensors::MmapedSafetensors;
use safetensors::Dtype;
use serde::Deserialize;

use super::{
    gguf::Gguf,
    weight::{Stored, Weight},
};
use crate::error::Error;

/// Named tensors; nothing is copied until it is used.
pub struct Weights {
    files: Files,
    /// The folder, or the file.
    path: PathBuf,
}

enum Files {
    Safetensors {
        shards: Vec<MmapedSafetensors>,
        /// Which shard holds a tensor.
        shard_of: BTreeMap<String, usize>,
    },
    Gguf(Box<Gguf>),
}

/// A sharded model's `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// # Errors
    /// [`Error::File`] when a file is missing, [`Error::Model`] when one is damaged.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (mut shards, mut shard_of) = (Vec::new(), BTreeMap::new());
        for file in files(folder)? {
            let shard = map(&file)?;
            shard_of.extend(shard.tensors().into_iter().map(|(name, _)| (name, shards.len())));
            shards.push(shard);
        }
        Ok(Weights { files: Files::Safetensors { shards, shard_of }, path: folder.into() })
    }

    pub fn of_gguf(gguf: Gguf, path: &Path) -> Self {
        Weights { files: Files::Gguf(Box::new(gguf)), path: path.into() }
    }

    pub fn contains(&self, name: &str) -> bool {
        matches!(self.find(name), Ok(Some(_)))
    }

    fn find(&self, name: &str) -> Result<Option<Weight<'_>>, Error> {
        match &self.files {
            Files::Gguf(gguf) => gguf.get(name),
            Files::Safetensors { shards, shard_of } => {
                let view = shard_of.get(name).and_then(|&shard| shards[shard].get(name).ok());
                Ok(view
                    .map(|view| Weight::new(view.shape().into(), view.data(), Stored::Plain(view.dtype()))))
            }
        }
    }

    /// A tensor of the shape that the decoder needs.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, misshapen, or of a type other than f32, f16 and bf16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Weight<'_>, Error> {
        let bad = |expected: String, found: String| {
            Error::model(
                self.path.display(),
                expected,
                found,
                "the weights do not belong to this config.json, or the download is incomplete",
            )
        };
        let weight = self.find(name)?;
        let weight =
            weight.ok_or_else(|| bad(format!("a tensor {name} {shape:?}"), "none of that name".into()))?;
        if weight.shape() != shape {
            return Err(bad(format!("{name} of shape {shape:?}"), format!("{:?}", weight.shape())));
        }
        match weight.stored() {
            Stored::Plain(dtype) if ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(&dtype) => {
                Err(bad(format!("{name} in f32, f16 or bf16"), format!("{dtype:?}")))
            }
            _ => Ok(weight),
        }
    }

    /// Numbers in all tensors.
    pub fn n_parameters(&self) -> u64 {
        match &self.files {
            Files::Gguf(gguf) => gguf.n_parameters(),
            Files::Safetensors { shards, .. } => {
                let tensors = shards.iter().flat_map(|shard| shard.tensors());
                tensors.map(|(_, t)| t.shape().iter().product::<usize>() as u64).sum()
            }
        }
    }
}

/// The files of a folder's weights.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = folder.join("model.safetensors.index.json");
    if !path.exists() {
        return Ok(vec![folder.join("model.safetensors")]);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let index: Index = serde_json::from_str(&text).map_err(|e| damaged(&path, e))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(outside) = names.iter().find(|name| !is_inside(name)) {
        return Err(Error::model(
            path.display(),
            "shards in the model's folder",
            format!("{outside:?}"),
            "choose another model",
        ));
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// Whether a file lies in its folder.
pub(super) fn is_inside(file: &str) -> bool {
    Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

#[expect(unsafe_code, reason = "weights are mapped")]
fn map(path: &Path) -> Result<MmapedSafetensors, Error> {
    std::fs::File::open(path).map_err(Error::io("read", path))?;
    // SAFETY: the map is read-only; a weights file is replaced by its tools, not rewritten in place while it is in use.
    unsafe { MmapedSafetensors::new(path) }.map_err(|e| damaged(path, e))
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    let why = why.to_string();
    Error::model(
        path.display(),
        "a whole safetensors file",
        why.lines().next().unwrap_or_default(),
        "the file is damaged or cut off: download it again",
    )
}
