//! Models of the Hugging Face hub, by name: found in the cache that all of its tools share, or downloaded into it.
//!
//! `hf-hub` 0.5 with `ureq` brings 30 crates; 1.0 would bring 160, an asynchronous runtime and a second TLS among them.

use std::{
    env,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder, ApiError},
};

use super::weights;
use crate::{error::Error, protocol::Progress, words::numbers::format_bytes};

/// Where a model is, and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// A folder or a GGUF file.
    pub path: PathBuf,
    /// The hub's name, if it came from there.
    pub name: Option<String>,
}

/// Files that a model folder may do without.
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"];

const INDEX: &str = "model.safetensors.index.json";

/// Time between two lines about a download.
const PERIOD: Duration = Duration::from_secs(2);

/// Finds a model by its path or, where there is no such file, by its name on the hub: `owner/name`, or `owner/name/file.gguf`,
/// each with `@revision` if it is not to be the main one.
///
/// `HF_HOME` and `HF_HUB_CACHE` say where the cache is, `HF_TOKEN` or the cache's token who asks, `HF_ENDPOINT` which server;
/// with `HF_HUB_OFFLINE` only the cache is used. A download that broke off goes on where it was.
///
/// # Errors
/// [`Error::Model`] where there is neither, and for what the hub refuses.
pub fn find(model: &Path, report: &mut dyn FnMut(Progress)) -> Result<Found, Error> {
    if model.exists() {
        return Ok(Found { path: model.into(), name: None });
    }
    let Some(name) = Name::parse(model) else {
        return Err(Error::model(
            model.display(),
            "a model folder, a .gguf file, or a model of the hub such as Qwen/Qwen3-0.6B",
            "no such file or folder",
            "check the path",
        ));
    };
    let cache = Cache::new(cache_folder());
    let offline = env::var("HF_HUB_OFFLINE")
        .is_ok_and(|on| ["1", "true", "yes", "on"].contains(&on.to_lowercase().as_str()));
    let path = if offline { name.cached(&cache)? } else { name.download(&cache, report)? };
    Ok(Found { path, name: Some(name.title()) })
}

fn cache_folder() -> PathBuf {
    let of = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home =
        || of("HF_HOME").unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache/huggingface"));
    let folder = of("HF_HUB_CACHE").unwrap_or_else(|| home().join("hub"));
    std::path::absolute(&folder).unwrap_or(folder)
}

/// A model's name on the hub.
struct Name {
    /// `owner/name`
    id: String,
    /// A GGUF file of the repository.
    file: Option<String>,
    revision: String,
}

impl Name {
    fn parse(model: &Path) -> Option<Self> {
        let (name, revision) = match model.to_str()?.split_once('@') {
            Some((name, revision)) => (name, revision),
            None => (model.to_str()?, "main"),
        };
        let is_word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let parts: Vec<&str> = name.split('/').collect();
        if !parts.iter().all(|part| is_word(part)) || !revision.split('/').all(is_word) {
            return None;
        }
        let (id, file) = match parts[..] {
            [owner, name] => (format!("{owner}/{name}"), None),
            [owner, name, ref file @ ..] if name_of_gguf(file) => {
                (format!("{owner}/{name}"), Some(file.join("/")))
            }
            _ => return None,
        };
        Some(Name { id, file, revision: revision.into() })
    }

    /// What a trace calls the model.
    fn title(&self) -> String {
        let file = self.file.as_ref().map_or(&self.id, |file| file);
        let last = file.rsplit('/').next().unwrap_or(file);
        last.strip_suffix(".gguf").unwrap_or(last).into()
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone())
    }

    /// The model in a snapshot's folder.
    fn within(&self, snapshot: PathBuf) -> PathBuf {
        self.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file))
    }

    /// The model as it is in the cache.
    fn cached(&self, cache: &Cache) -> Result<PathBuf, Error> {
        let repo = cache.repo(self.repo());
        let anchor = self.file.as_deref().unwrap_or("config.json");
        let by_hash = repo.pointer_path(&self.revision);
        let snapshot = match repo.get(anchor) {
            Some(file) => Some(
                file.ancestors().nth(Path::new(anchor).components().count()).unwrap_or(&file).to_path_buf(),
            ),
            None => Some(by_hash).filter(|folder| folder.join(anchor).exists()),
        };
        let fix = "unset HF_HUB_OFFLINE to download it, or give the path of a model folder";
        let Some(snapshot) = snapshot else {
            let found = format!("none of revision {} in {}", self.revision, cache.path().display());
            return Err(self.refused(
                "a folder or file of that name, or a cached model of the hub",
                found,
                fix,
            ));
        };
        let needed = match &self.file {
            Some(_) => Vec::new(),
            None => [vec![snapshot.join("tokenizer.json")], weights::files(&snapshot)?].concat(),
        };
        match needed.iter().find(|file| !file.exists()) {
            None => Ok(self.within(snapshot)),
            Some(missing) => {
                Err(self.refused("the whole model in the cache", format!("no {}", missing.display()), fix))
            }
        }
    }

    /// The model in the cache, after what is not there has been downloaded.
    fn download(&self, cache: &Cache, report: &mut dyn FnMut(Progress)) -> Result<PathBuf, Error> {
        let endpoint = env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/');
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.into())
            .with_progress(false)
            .with_retries(3);
        if let Ok(token) = env::var("HF_TOKEN").map(|token| token.trim().to_string())
            && !token.is_empty()
        {
            builder = builder.with_token(Some(token));
        }
        report(Progress::Loading(format!("hub: asking {endpoint} for {} at {}", self.id, self.revision)));
        let api = builder.build().map_err(|e| self.failed(endpoint, &e))?;
        let info = match api.repo(self.repo()).info() {
            Ok(info) => info,
            // What is there serves where nothing can be asked.
            Err(why) => return self.cached(cache).map_err(|_| self.failed(endpoint, &why)),
        };
        let snapshot = cache.repo(self.repo()).pointer_path(&info.sha);
        let all: Vec<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .filter(|name| weights::is_inside(name))
            .collect();
        let mut fetch = |file: &str| self.fetch(&api, endpoint, &snapshot, file, report);
        if let Some(file) = &self.file {
            fetch(file)?;
            return Ok(snapshot.join(file));
        }
        let weights = match () {
            _ if all.contains(&INDEX) => INDEX,
            _ if all.contains(&"model.safetensors") => "model.safetensors",
            _ => return Err(self.without_weights(&all)),
        };
        let there = |name: &&&str| all.contains(*name);
        for file in ["config.json", "tokenizer.json", weights].iter().chain(OPTIONAL.iter().filter(there)) {
            fetch(file)?;
        }
        for file in weights::files(&snapshot)? {
            fetch(&file.strip_prefix(&snapshot).unwrap_or(&file).to_string_lossy())?;
        }
        Ok(snapshot)
    }

    fn fetch(
        &self,
        api: &Api,
        endpoint: &str,
        snapshot: &Path,
        file: &str,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        if !weights::is_inside(file) {
            return Err(self.refused(
                "files of the model alone",
                format!("{file:?}"),
                "choose another model",
            ));
        }
        if snapshot.join(file).exists() {
            return Ok(());
        }
        let reporting = Reporting {
            report,
            file: file.into(),
            n_done: 0,
            n_bytes: 0,
            start: Instant::now(),
            said: Instant::now(),
        };
        api.repo(self.repo())
            .download_with_progress(file, reporting)
            .map(drop)
            .map_err(|e| self.failed(endpoint, &e))
    }

    fn without_weights(&self, files: &[&str]) -> Error {
        let ggufs: Vec<&str> = files.iter().copied().filter(|file| file.ends_with(".gguf")).take(4).collect();
        let (found, fix) = match ggufs.first() {
            Some(first) => (ggufs.join(", "), format!("ask for a file: {}/{first}", self.id)),
            None => {
                ("no file of that kind".into(), "choose a model with safetensors, or convert this one".into())
            }
        };
        self.refused("model.safetensors, or shards with an index", found, &fix)
    }

    fn failed(&self, endpoint: &str, why: &ApiError) -> Error {
        let (id, revision) = (&self.id, &self.revision);
        let folder = format!("models--{}/blobs in {}", id.replace('/', "--"), cache_folder().display());
        if matches!(why, ApiError::LockAcquisition(_)) {
            return self.refused(
                "to download it alone",
                "another program that does".into(),
                "wait until it is done",
            );
        }
        if matches!(why, ApiError::InvalidResume) || status(why) == Some(416) {
            let found = "one that does not fit what the hub has".into();
            return self.refused(
                "a part of the download to go on from",
                found,
                &format!("remove the .part files of {folder}"),
            );
        }
        if let Some(kind) = unwritten(why) {
            return Error::io("write", &cache_folder())(kind.into());
        }
        let expected = "a folder or file of that name, or a model of the hub";
        match status(why) {
            Some(401 | 403) => self.refused(
                expected,
                format!("one that {endpoint} does not give to everybody, or none"),
                &format!("check the name; accept the model's terms at {endpoint}/{id}; then set HF_TOKEN to a token of yours"),
            ),
            Some(404) => self.refused(
                expected,
                format!("none with a revision {revision} at {endpoint}"),
                "check the name and the revision",
            ),
            _ => {
                let fix = "check the network and try again: what was downloaded is kept; or give the path of a model folder";
                self.refused(expected, format!("{endpoint} cannot be asked: {why}"), fix)
            }
        }
    }

    fn refused(&self, expected: &str, found: String, fix: &str) -> Error {
        Error::model(self.id.clone(), expected, found, fix)
    }
}

fn name_of_gguf(file: &[&str]) -> bool {
    file.last().is_some_and(|name| name.ends_with(".gguf"))
}

/// What is wrong with the disk, if it is the disk.
fn unwritten(why: &ApiError) -> Option<ErrorKind> {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};

    match why {
        ApiError::IoError(why) => {
            Some(why.kind()).filter(|kind| [StorageFull, ReadOnlyFilesystem, PermissionDenied].contains(kind))
        }
        ApiError::TooManyRetries(why) => unwritten(why),
        _ => None,
    }
}

/// The server's answer, if it refused.
fn status(why: &ApiError) -> Option<u16> {
    match why {
        ApiError::RequestError(why) => match **why {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(why) => status(why),
        _ => None,
    }
}

/// Says how far a download has come, from time to time.
struct Reporting<'a> {
    report: &'a mut dyn FnMut(Progress),
    file: String,
    n_done: usize,
    n_bytes: usize,
    start: Instant,
    said: Instant,
}

impl Reporting<'_> {
    fn say(&mut self) {
        let [done, all] = [self.n_done, self.n_bytes].map(|n| format_bytes(n as u64));
        let rate = self.n_done as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let line = format!("hub: {}, {done} of {all}, {}/s", self.file, format_bytes(rate as u64));
        (self.report)(Progress::Loading(line));
        self.said = Instant::now();
    }
}

impl hf_hub::api::Progress for Reporting<'_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.n_done, self.n_bytes) = (0, size);
    }

    fn update(&mut self, size: usize) {
        self.n_done += size;
        if self.said.elapsed() > PERIOD {
            self.say();
        }
    }

    fn finish(&mut self) {
        self.say();
    }
}
