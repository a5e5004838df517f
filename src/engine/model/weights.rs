//! The weights of a model, memory-mapped: `model.safetensors`, or shards, or a GGUF file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use candle_core::safetensors::MmapedSafetensors;
use safetensors::{Dtype, tensor::TensorView};
use serde::Deserialize;

use super::{
    gguf::Gguf,
    json_file,
    parts::Part,
    place, pointer,
    seen::Seen,
    weight::{Stored, Weight},
};
use crate::error::Error;

/// The list of a sharded model's tensors, and the name of weights in one file.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// What to do about a GGUF file that lacks a tensor, or has one of another shape.
const OF_ANOTHER: &str = "its tensors are not those of its architecture: choose another file of this model";

/// Named tensors; a tensor is copied only when it is used.
pub struct Weights {
    files: Files,
    /// The files when they were opened.
    seen: Vec<Seen>,
    /// The model folder or the GGUF file.
    path: PathBuf,
}

enum Files {
    Safetensors {
        shards: Vec<MmapedSafetensors>,
        /// The index of the shard that holds each tensor, by the tensor's name.
        shard_by_name: BTreeMap<String, usize>,
    },
    Gguf(Box<Gguf>),
}

/// A sharded model's `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens the safetensors files of a model folder.
    ///
    /// # Errors
    /// [`Error::File`] when a file is missing, [`Error::Model`] when one is damaged.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let mut shards = Vec::new();
        let mut shard_by_name = BTreeMap::new();
        let mut seen = Vec::new();
        for file in existing(folder)? {
            let shard = map(&file, &mut seen)?;
            shard_by_name.extend(shard.tensors().into_iter().map(|(name, _)| (name, shards.len())));
            shards.push(shard);
        }
        Ok(Weights { files: Files::Safetensors { shards, shard_by_name }, seen, path: folder.into() })
    }

    /// The weights in an open GGUF file; errors name `path`.
    pub fn from_gguf(gguf: Gguf, path: &Path) -> Self {
        let seen = gguf.seen().collect();
        Weights { files: Files::Gguf(Box::new(gguf)), seen, path: path.into() }
    }

    /// Returns the model folder or the GGUF file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that no file has been written since it was opened.
    ///
    /// # Errors
    /// [`Error::Model`], which names the file.
    pub fn check_files(&self) -> Result<(), Error> {
        self.seen.iter().try_for_each(Seen::check)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        matches!(self.find(name), Ok(Some(_)))
    }

    fn find<'a>(&'a self, name: &str) -> Result<Option<Weight<'a>>, Error> {
        match &self.files {
            Files::Gguf(gguf) => gguf.get(name),
            Files::Safetensors { shards, shard_by_name } => {
                let view = shard_by_name.get(name).and_then(|&shard| shards[shard].get(name).ok());
                let weight = |view: TensorView<'a>| {
                    Weight::new(view.shape().into(), view.data(), Stored::Plain(view.dtype())).of_file()
                };
                Ok(view.map(weight))
            }
        }
    }

    /// Returns the tensor `name`, which must have the shape `shape`.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, misshapen, or of a type other than f32, f16 and bf16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Weight<'_>, Error> {
        self.of_types(name, shape, &[Dtype::F32, Dtype::F16, Dtype::BF16])
    }

    /// Returns the tensor `name`, which must have the shape `shape` and hold numbers of this type, whatever they mean.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, misshapen, or of another type.
    pub(super) fn of_type(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Weight<'_>, Error> {
        self.of_types(name, shape, &[dtype])
    }

    fn of_types(&self, name: &str, shape: &[usize], dtypes: &[Dtype]) -> Result<Weight<'_>, Error> {
        let path = self.path.display();
        let found = self.find(name)?;
        let (own_name, [missing, misshapen]) = match &self.files {
            Files::Safetensors { .. } => (
                None,
                [
                    "the weights do not belong to this config.json, or the download is incomplete",
                    "the weights do not belong to this config.json: take both from one model",
                ],
            ),
            Files::Gguf(gguf) => (gguf.name_of(name), [OF_ANOTHER; 2]),
        };
        let name = own_name.as_deref().unwrap_or(name);
        let Some(weight) = found else {
            let expected = format!("a tensor {name} {shape:?}");
            return Err(Error::model(&path, expected, "none of that name", missing));
        };
        if weight.shape() != shape {
            let found = format!("{:?}", weight.shape());
            return Err(Error::model(&path, format!("{name} of shape {shape:?}"), found, misshapen));
        }
        match weight.stored() {
            Stored::Plain(dtype) if !dtypes.contains(&dtype) => {
                let plain = "f32, f16 or bf16".to_string();
                let one = |dtype: &Dtype| format!("{dtype:?}").to_lowercase();
                let expected = format!("{name} in {}", if let [dtype] = dtypes { one(dtype) } else { plain });
                let fix = "take the model in one of these types, or its GGUF file";
                Err(Error::model(&path, expected, format!("{dtype:?}"), fix))
            }
            _ => Ok(weight),
        }
    }

    /// Counts the numbers of all tensors.
    pub fn n_parameters(&self) -> u64 {
        match &self.files {
            Files::Gguf(gguf) => gguf.n_parameters(),
            Files::Safetensors { shards, .. } => {
                let tensors = shards.iter().flat_map(|shard| shard.tensors());
                // A byte of MXFP4 blocks holds two numbers; their exponents are none.
                let of_byte = |name: &str| if name.ends_with("_blocks") { 2 } else { 0 };
                let n = |name: &str, dtype| if dtype == Dtype::U8 { of_byte(name) } else { 1 };
                tensors
                    .map(|(name, t)| n(&name, t.dtype()) * t.shape().iter().product::<usize>() as u64)
                    .sum()
            }
        }
    }
}

/// Returns the paths of a folder's safetensors files, which are all there.
fn existing(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let files = files(folder)?;
    let Some(missing) = files.iter().find(|file| !file.exists()).filter(|_| files.len() > 1) else {
        return Ok(files);
    };
    Err(Error::model(
        folder.display(),
        format!("all {} files of the weights", files.len()),
        format!("no {}", missing.display()),
        "the download is incomplete: download that file too",
    ))
}

/// Returns the paths of a folder's safetensors files; some may be missing.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read the model folder", folder))?;
    let files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if !are_among(&files) {
        return Err(place::without_safetensors(folder));
    }
    Ok(names(folder, &files)?.iter().map(|name| folder.join(name)).collect())
}

/// Whether some `files` of a folder, or of a repository, are weights.
pub(super) fn are_among(files: &[String]) -> bool {
    files.iter().any(|file| [INDEX, WHOLE].contains(&file.as_str())) || numbered(files).is_some()
}

/// Returns the names of the files that hold a model's weights, by the index in its folder if that has one, and by the
/// names of the `files` of the folder, or of a repository that it is a part of. Files that an index or other parts
/// speak of may be missing.
///
/// # Errors
/// [`Error::Model`] for an index that is damaged or names files outside of the folder.
pub(super) fn names(folder: &Path, files: &[String]) -> Result<Vec<String>, Error> {
    let whole = || vec![WHOLE.to_string()];
    let has = |name: &String| files.contains(name) || folder.join(name).exists();
    let ways = [indexed(folder)?, files.iter().any(|file| file == WHOLE).then(whole), numbered(files)];
    // An index that was left beside other files names files that are gone.
    let complete = ways.iter().flatten().find(|names| names.iter().all(has));
    Ok(complete.or(ways.iter().flatten().next()).cloned().unwrap_or_else(whole))
}

/// Returns the files that the index in a folder names.
fn indexed(folder: &Path) -> Result<Option<Vec<String>>, Error> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(None);
    }
    let index: Index = serde_json::from_value(json_file::read(&path)?).map_err(|why| {
        let fix = "remove it: the weights' own names say which belong together";
        Error::model(path.display(), "an index of the weights' files, a weight_map", why, fix)
    })?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| !is_inside(name)) {
        None => Ok(Some(names.into_iter().collect())),
        Some(outside) => Err(Error::model(
            path.display(),
            "shards in the model's folder",
            format!("{outside:?}"),
            "choose another model",
        )),
    }
}

/// Returns the names of all parts of the model that some of the files are parts of.
fn numbered(files: &[String]) -> Option<Vec<String>> {
    let parts = files.iter().filter(|file| file.ends_with(".safetensors") && !file.contains('/'));
    let part =
        parts.filter_map(|file| Part::parse(file)).min_by_key(|part| (part.stem != "model", part.number))?;
    Some(part.all())
}

/// Whether the relative path `file` stays in its folder.
pub(super) fn is_inside(file: &str) -> bool {
    Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

#[expect(unsafe_code, reason = "weights are mapped")]
fn map(path: &Path, seen: &mut Vec<Seen>) -> Result<MmapedSafetensors, Error> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    seen.push(Seen::open(path, &file)?);
    // SAFETY: the map is read-only; tools replace a weights file and do not rewrite it in place while it is
    // in use.
    unsafe { MmapedSafetensors::new(path) }
        .map_err(|e| pointer::check_file(path).err().unwrap_or_else(|| damaged(path, e)))
}

/// The error for a file that is not whole safetensors.
fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    let why = why.to_string();
    Error::model(
        path.display(),
        "a whole safetensors file",
        why.lines().next().unwrap_or_default(),
        "the file is damaged or cut off: download it again",
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Bytes of a mapped file that are in this process's memory.
    fn resident(path: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_file = maps.split_once(&path.display().to_string()).unwrap().1;
        let rss = of_file.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        1024 * rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    #[test]
    fn pages_that_were_read_are_given_back_and_come_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join(WHOLE);
        let bytes: Vec<u8> = (0..1u32 << 20).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![1 << 10, 1 << 10], &bytes).unwrap();
        safetensors::serialize_to_file([("a", view)], None, &path).unwrap();
        let weights = Weights::open(path.parent().unwrap()).unwrap();
        let weight = weights.get("a", &[1 << 10, 1 << 10]).unwrap();
        let read = || weight.numbers().unwrap();
        let first = read();
        assert!(resident(&path) > 3 << 20, "{}", resident(&path));
        weight.give_back();
        assert!(resident(&path) < 1 << 20, "{}", resident(&path));
        assert_eq!(read(), first);
        // Bytes of this process's own memory stay.
        let own = Weight::new(vec![1 << 20], &bytes, Stored::Plain(Dtype::F32));
        own.give_back();
        assert_eq!(own.numbers().unwrap(), first);
    }
}
