//! Finds models of the Hugging Face hub by name, in the cache that its tools share, or downloads them into
//! it.
//!
//! The requests are few and our own: the hub's own library for Rust either breaks on servers that compress and know
//! no ranges, or brings 160 crates, an asynchronous runtime and a second TLS among them.

mod cache;
mod choice;
mod download;
mod name;
mod refused;
mod server;

use std::{
    env,
    path::{Path, PathBuf},
};

use self::{
    cache::Cache,
    choice::{Choice, choose},
    download::Downloads,
    name::Name,
    server::{Failure, Server},
};
use super::{place, weights};
use crate::{error::Error, protocol::Progress};

/// The path of a model, and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// A folder or a GGUF file.
    pub path: PathBuf,
    /// The name for traces, if the model is from the hub.
    pub name: Option<String>,
}

/// Files that a model folder needs beside its weights.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];

/// Files that it may do without.
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"];

/// Finds a model by its path or, if no such file exists, by its name on the hub: `owner/name`, `owner/name:Q8_0` for
/// the GGUF file of a quantisation, `owner/name/file.gguf`, each with `@revision` for a revision other than the main
/// one, or a link to one of these.
///
/// `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME` and `XDG_CACHE_HOME` set the cache's folder, `HF_TOKEN` or the
/// token that the hub's tools keep the user, `HF_ENDPOINT` the server; with `HF_HUB_OFFLINE` only the cache is used. A
/// download that broke off is resumed.
///
/// # Errors
/// [`Error::Model`] when neither exists, or the hub refuses the model; [`Error::File`] when the cache cannot be
/// written.
pub fn find(model: &Path, report: &mut dyn FnMut(Progress)) -> Result<Found, Error> {
    let model = &place::written(model);
    if model.exists() {
        let path = place::of(model)?;
        return Ok(Found { name: place::name(&path), path });
    }
    let Some(name) = Name::parse(model, &server::endpoint())? else {
        return Err(Error::model(
            model.display(),
            "a model folder, a .gguf file, or a model of the hub such as Qwen/Qwen3-0.6B",
            "no such file or folder",
            "check the path",
        ));
    };
    let cache = Cache::of_environment();
    let offline = env::var("HF_HUB_OFFLINE")
        .is_ok_and(|on| ["1", "true", "yes", "on"].contains(&on.to_lowercase().as_str()));
    let (snapshot, file) = if offline { cached(&name, &cache)? } else { download(&name, &cache, report)? };
    let title = name.title(file.as_deref());
    Ok(Found { path: file.map_or(snapshot.clone(), |file| snapshot.join(file)), name: Some(title) })
}

/// Returns the snapshot in the cache, which must have all files of the model, and its GGUF file if it is one.
fn cached(name: &Name, cache: &Cache) -> Result<(PathBuf, Option<String>), Error> {
    let fix = "unset HF_HUB_OFFLINE to download it, or give the path of a model folder";
    let Some(snapshot) = cache.snapshot_of(name) else {
        let found = format!("none of revision {} in {}", name.revision, cache.folder.display());
        let expected = "a folder or file of that name, or a cached model of the hub";
        return Err(Error::model(&name.id, expected, found, fix));
    };
    let files = cache::files(&snapshot);
    let choice = choose(name, &files).map_err(|why| match why {
        Error::Model { path, expected, found, .. } => {
            Error::model(path, format!("{expected} in the cache, {}", snapshot.display()), found, fix)
        }
        other => other,
    })?;
    let Choice::Gguf(parts) = choice else {
        let mut needed = NEEDED.map(String::from).to_vec();
        needed.extend(weights::names(&snapshot, &files)?);
        return match needed.iter().map(|file| snapshot.join(file)).find(|file| !file.exists()) {
            None => Ok((snapshot, None)),
            Some(missing) => {
                let found = format!("no {}", missing.display());
                Err(Error::model(&name.id, "the whole model in the cache", found, fix))
            }
        };
    };
    Ok((snapshot, parts.into_iter().next()))
}

/// Downloads the files that the cache lacks; returns the snapshot, and its GGUF file if the model is one.
fn download(
    name: &Name,
    cache: &Cache,
    report: &mut dyn FnMut(Progress),
) -> Result<(PathBuf, Option<String>), Error> {
    let server = Server::of_environment()?;
    let (endpoint, id) = (&server.endpoint, &name.id);
    report(Progress::Loading(format!("hub: asking {endpoint} for {id} at {}", name.revision)));
    let repository = match server.describe(name) {
        Ok(repository) => repository,
        Err(why) => {
            // A cached model serves when the server cannot be reached.
            let why = refused::by(&server, name, None, why);
            let found = cached(name, cache).map_err(|_| why)?;
            report(Progress::Note(format!(
                "{endpoint} gives no answer for {id}: the copy in the cache is used"
            )));
            return Ok(found);
        }
    };
    let commit = repository.sha.clone();
    if !name::is_word(&commit) {
        return Err(refused::by(&server, name, None, Failure::Strange("without a commit".into())));
    }
    let mut files = repository.files();
    files.retain(|file| weights::is_inside(file));
    let choice = choose(name, &files)?;
    cache.remember(name, &commit)?;
    let downloads = Downloads { server: &server, cache, id, commit: &commit };
    let mut fetch = |file: &String| {
        downloads.fetch(file, report).map_err(|fault| refused::download(&server, name, file, fault))
    };
    let snapshot = cache.snapshot(id, &commit);
    if let Choice::Gguf(parts) = choice {
        parts.iter().try_for_each(&mut fetch)?;
        return Ok((snapshot, parts.into_iter().next()));
    }
    if let Some(missing) = NEEDED.iter().find(|needed| !files.iter().any(|file| file == *needed)) {
        return Err(refused::without(name, missing));
    }
    let small = [&NEEDED[..], &OPTIONAL, &[weights::INDEX]].concat().into_iter().map(String::from);
    small.filter(|file| files.contains(file)).try_for_each(|file| fetch(&file))?;
    weights::names(&snapshot, &files)?.iter().try_for_each(fetch)?;
    Ok((snapshot, None))
}
