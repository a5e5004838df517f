//! Where a model lies on this machine: folders as the hub's tools and other programs leave them, files that belong to
//! a model, and what is none.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
};

use super::{json_file, parts::Part};
use crate::error::Error;

/// What every GGUF file starts with.
const GGUF: &[u8] = b"GGUF";

/// Returns the path that a user has written: a shell replaces ~ only at the start of a word, and browsers copy paths as
/// links.
pub fn written(path: &Path) -> PathBuf {
    let path = path.to_str().and_then(|text| text.strip_prefix("file://")).map_or(path, Path::new);
    match (path.exists(), path.strip_prefix("~"), env::home_dir()) {
        (false, Ok(inside), Some(home)) => home.join(inside),
        _ => path.into(),
    }
}

/// Returns the model folder or the GGUF file that `path` means: a folder of the hub's cache means its snapshot, a
/// folder with one GGUF file that file, and a weights file its folder.
///
/// # Errors
/// [`Error::Model`] for a folder with several GGUF files, or with an adapter alone; [`Error::File`] when a folder
/// cannot be read.
pub fn of(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        let folder = path.parent().filter(|folder| folder.join("config.json").exists());
        let names_folder = path.to_string_lossy().ends_with(".safetensors")
            || path.to_string_lossy().ends_with(".safetensors.index.json");
        return Ok(folder.filter(|_| names_folder).unwrap_or(path).into());
    }
    if path.join("config.json").exists() {
        return Ok(path.into());
    }
    if let Some(snapshot) = snapshot(path)? {
        return of(&snapshot);
    }
    let is_model = |file: &PathBuf| {
        let is_first = Part::parse(&file.to_string_lossy()).is_none_or(|part| part.number == 1);
        file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) && is_first
    };
    let ggufs: Vec<PathBuf> = files(path)?.into_iter().filter(is_model).collect();
    match &ggufs[..] {
        [] => check_is_no_adapter(path).map(|()| path.into()),
        [file] => Ok(file.clone()),
        [first, ..] => Err(Error::model(
            path.display(),
            "one model",
            format!("{} GGUF files", ggufs.len()),
            format!("give the path of a file, such as {}", first.display()),
        )),
    }
}

/// Returns the snapshot that a folder `models--owner--name` of the hub's cache means, or the folder `snapshots` in it:
/// that of its main branch, or its only one.
fn snapshot(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let is_itself = folder.ends_with("snapshots");
    let snapshots = if is_itself { folder.into() } else { folder.join("snapshots") };
    if !snapshots.is_dir() {
        return Ok(None);
    }
    let main = fs::read_to_string(snapshots.with_file_name("refs").join("main")).ok();
    let main = main.map(|hash| snapshots.join(hash.trim())).filter(|snapshot| snapshot.is_dir());
    let all = files(&snapshots)?;
    match (main, &all[..]) {
        (Some(main), _) => Ok(Some(main)),
        (None, [only]) => Ok(Some(only.clone())),
        (None, all) => Err(Error::model(
            folder.display(),
            "a snapshot of the main branch",
            format!("{} snapshots", all.len()),
            format!("give the path of one in {}", snapshots.display()),
        )),
    }
}

/// Returns the files and folders in a folder, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("read the model folder", folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

/// Returns the name of a model in the hub's cache, `name` in `models--owner--name/snapshots/hash`: the last folder is
/// named by a hash.
pub fn name(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots") && folder.is_dir())?;
    let id = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    id.rsplit("--").next().map(Into::into)
}

/// Returns the name of the model in a GGUF file, or in several that it is one of.
pub fn title(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match Part::parse(&name) {
        Some(part) => part.stem.into(),
        None => path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned()),
    }
}

/// Whether a path is that of a GGUF file: by its name, or by its first bytes, such as one of Ollama's blobs.
pub fn is_gguf(path: &Path) -> bool {
    let begins = || {
        let mut first = [0; 4];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == GGUF
    };
    path.extension().is_some_and(|ending| ending == "gguf") || begins()
}

/// Whether a file is named by a hash, as Ollama does.
pub fn is_blob(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sha256"))
}

/// Checks that a folder without `config.json` is not that of an adapter.
fn check_is_no_adapter(folder: &Path) -> Result<(), Error> {
    let path = folder.join("adapter_config.json");
    if !path.exists() {
        return Ok(());
    }
    let config = json_file::read(&path)?;
    let base = config["base_model_name_or_path"].as_str().unwrap_or("a model that it does not name");
    Err(Error::model(
        folder.display(),
        "a whole model",
        format!("an adapter of {base}"),
        "merge it into its model in Python, by merge_and_unload() of peft, and save that",
    ))
}

/// Checks that a folder has the files that every model has beside its weights.
///
/// # Errors
/// [`Error::Model`] for another folder, or a file; [`Error::File`] when it cannot be read.
pub fn check_is_whole(folder: &Path) -> Result<(), Error> {
    let expected = "a model folder, with config.json, tokenizer.json and safetensors, or a GGUF file";
    let error = |found: &str, fix: &str| Err(Error::model(folder.display(), expected, found, fix));
    if folder.is_file() {
        return error("another file", "give the path of the folder that it lies in");
    }
    let names: Vec<String> = files(folder)?
        .iter()
        .map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    let has = |name: &str| names.iter().any(|file| file == name);
    let vocabulary = ["tokenizer.model", "vocab.json", "tekken.json"].into_iter().find(|name| has(name));
    match (has("config.json"), has("tokenizer.json"), vocabulary) {
        (true, true, _) => Ok(()),
        (false, ..) if names.is_empty() => error("an empty folder", "check the path"),
        (false, ..) => error("no config.json", "check the path, or download the model's other files too"),
        (_, false, None) => error("no tokenizer.json", "download the model's other files too"),
        (_, false, Some(vocabulary)) => error(
            &format!("{vocabulary}, but no tokenizer.json"),
            "make one in Python: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        ),
    }
}

/// The error for a folder without weights in safetensors; names those of another kind.
pub fn without_safetensors(folder: &Path) -> Error {
    let is_pickled = |file: &&PathBuf| {
        file.extension().is_some_and(|ending| ["bin", "pth", "pt"].iter().any(|e| ending == *e))
    };
    let files = files(folder).unwrap_or_default();
    let (found, fix) = match files.iter().find(is_pickled) {
        Some(file) => (
            file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            "convert it in Python: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        ),
        None => ("no file of that kind".into(), "download the model's weights too, into this folder"),
    };
    Error::model(folder.display(), "model.safetensors, or shards of it", found, fix)
}
