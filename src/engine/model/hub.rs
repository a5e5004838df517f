//! Finds models of the Hugging Face hub by name, in the cache that its tools share, or downloads them into
//! it.
//!
//! `hf-hub` 0.5 with `ureq` brings 30 crates; 1.0 would bring 160, an asynchronous runtime and a second TLS
//! among them.

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

use super::{place, weights};
use crate::{error::Error, protocol::Progress, words::numbers::format_bytes};

/// The path of a model, and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// A folder or a GGUF file.
    pub path: PathBuf,
    /// The name for traces, if the model is from the hub.
    pub name: Option<String>,
}

/// Files that a model folder may do without.
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"];

const INDEX: &str = "model.safetensors.index.json";

/// The least time between two reports on a download.
const PERIOD: Duration = Duration::from_secs(2);

/// Finds a model by its path or, if no such file exists, by its name on the hub: `owner/name` or
/// `owner/name/file.gguf`, with `@revision` for a revision other than the main one.
///
/// `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME` and `XDG_CACHE_HOME` set the cache's folder, `HF_TOKEN` or the cache's token the user,
/// `HF_ENDPOINT` the server; with `HF_HUB_OFFLINE` only the cache is used. A download that broke off is
/// resumed.
///
/// # Errors
/// [`Error::Model`] when neither exists, or the hub refuses the model.
pub fn find(model: &Path, report: &mut dyn FnMut(Progress)) -> Result<Found, Error> {
    if model.exists() {
        let path = place::of(model)?;
        return Ok(Found { name: place::name(&path), path });
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

/// Returns the absolute path of the hub's cache, by the variables that the hub's own tools know.
fn cache_folder() -> PathBuf {
    let user = || env::home_dir().unwrap_or_default();
    let variable = |name: &str| {
        let path = env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
        // A shell replaces ~ only at the start of a word.
        Some(path.strip_prefix("~").map(|inside| user().join(inside)).unwrap_or(path))
    };
    let caches = || variable("XDG_CACHE_HOME").unwrap_or_else(|| user().join(".cache"));
    let home = || variable("HF_HOME").unwrap_or_else(|| caches().join("huggingface"));
    let folder = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(variable);
    let folder = folder.unwrap_or_else(|| home().join("hub"));
    std::path::absolute(&folder).unwrap_or(folder)
}

/// A model's name on the hub.
struct Name {
    /// `owner/name`
    id: String,
    /// The path of a GGUF file in the repository.
    file: Option<String>,
    revision: String,
}

impl Name {
    /// Reads `owner/name` or `owner/name/file.gguf`, either with `@revision`; `None` for other texts.
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
            [owner, name, ref file @ ..] if is_gguf(file) => {
                (format!("{owner}/{name}"), Some(file.join("/")))
            }
            _ => return None,
        };
        Some(Name { id, file, revision: revision.into() })
    }

    /// Returns the model's name for traces.
    fn title(&self) -> String {
        let file = self.file.as_ref().map_or(&self.id, |file| file);
        let last = file.rsplit('/').next().unwrap_or(file);
        last.strip_suffix(".gguf").unwrap_or(last).into()
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone())
    }

    /// Returns the path of the model in the folder `snapshot`.
    fn path_in(&self, snapshot: PathBuf) -> PathBuf {
        self.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file))
    }

    /// Returns the path of the model in the cache, which must have all its files.
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
            return Err(Error::model(
                &self.id,
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
            None => Ok(self.path_in(snapshot)),
            Some(missing) => {
                let found = format!("no {}", missing.display());
                Err(Error::model(&self.id, "the whole model in the cache", found, fix))
            }
        }
    }

    /// Downloads the files that the cache lacks, and returns the path of the model.
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
            // A cached model serves when the server cannot be reached.
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
        let weights = [INDEX, "model.safetensors"].into_iter().find(|name| all.contains(name));
        let Some(weights) = weights else { return Err(self.without_weights(&all)) };
        if let Some(missing) = ["config.json", "tokenizer.json"].into_iter().find(|name| !all.contains(name))
        {
            return Err(self.without(missing));
        }
        let exists = |name: &&&str| all.contains(*name);
        for file in ["config.json", "tokenizer.json", weights].iter().chain(OPTIONAL.iter().filter(exists)) {
            fetch(file)?;
        }
        for file in weights::files(&snapshot)? {
            fetch(&file.strip_prefix(&snapshot).unwrap_or(&file).to_string_lossy())?;
        }
        Ok(snapshot)
    }

    /// Downloads one file, unless the folder `snapshot` has it.
    fn fetch(
        &self,
        api: &Api,
        endpoint: &str,
        snapshot: &Path,
        file: &str,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        if !weights::is_inside(file) {
            return Err(Error::model(
                &self.id,
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
            last_report: Instant::now(),
        };
        api.repo(self.repo())
            .download_with_progress(file, reporting)
            .map(drop)
            .map_err(|e| self.failed(endpoint, &e))
    }

    /// The error for a model without a file that it needs.
    fn without(&self, missing: &str) -> Error {
        let fix = match missing {
            "tokenizer.json" => format!(
                "make one in Python: AutoTokenizer.from_pretrained(\"{}\").save_pretrained(FOLDER), and put it into a \
                 folder with the model's other files",
                self.id
            ),
            _ => "choose a repository with a whole model".into(),
        };
        Error::model(&self.id, format!("a {missing} in the repository"), "none", fix)
    }

    /// The error for a model without safetensors; names its GGUF files.
    fn without_weights(&self, files: &[&str]) -> Error {
        let ggufs: Vec<&str> = files.iter().copied().filter(|file| file.ends_with(".gguf")).take(4).collect();
        let expected = "model.safetensors, or shards with an index";
        let Some(first) = ggufs.first() else {
            let fix = "choose a model with safetensors, or convert this one";
            return Error::model(&self.id, expected, "no file of that kind", fix);
        };
        Error::model(&self.id, expected, ggufs.join(", "), format!("ask for a file: {}/{first}", self.id))
    }

    /// The error for a failed request or download.
    fn failed(&self, endpoint: &str, why: &ApiError) -> Error {
        let id = &self.id;
        let folder = format!("models--{}/blobs in {}", id.replace('/', "--"), cache_folder().display());
        if matches!(why, ApiError::LockAcquisition(_)) {
            return Error::model(
                id,
                "to download it alone",
                "another program that does",
                "wait until it is done",
            );
        }
        if matches!(why, ApiError::InvalidResume) || status(why) == Some(416) {
            return Error::model(
                id,
                "a part of the download to go on from",
                "one that does not fit what the hub has",
                format!("remove the .part files of {folder}"),
            );
        }
        if let Some(kind) = disk_error(why) {
            return Error::io("write", &cache_folder())(kind.into());
        }
        let expected = "a folder or file of that name, or a model of the hub";
        match status(why) {
            Some(401 | 403) => Error::model(
                id,
                expected,
                format!("one that {endpoint} does not give to everybody, or none"),
                format!(
                    "check the name; accept the model's terms at {endpoint}/{id}; \
                     then set HF_TOKEN to a token of yours"
                ),
            ),
            Some(404) => Error::model(
                id,
                expected,
                format!("none with a revision {} at {endpoint}", self.revision),
                "check the name and the revision",
            ),
            _ => Error::model(
                id,
                expected,
                format!("{endpoint} cannot be asked: {why}"),
                "check the network and try again: what was downloaded is kept; \
                 or give the path of a model folder",
            ),
        }
    }
}

fn is_gguf(file: &[&str]) -> bool {
    file.last().is_some_and(|name| name.ends_with(".gguf"))
}

/// Returns the kind of the error if the disk caused it.
fn disk_error(why: &ApiError) -> Option<ErrorKind> {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};

    match why {
        ApiError::IoError(why) => {
            Some(why.kind()).filter(|kind| [StorageFull, ReadOnlyFilesystem, PermissionDenied].contains(kind))
        }
        ApiError::TooManyRetries(why) => disk_error(why),
        _ => None,
    }
}

/// Returns the status code of the server's refusal.
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

/// Reports the progress of a download every [`PERIOD`].
struct Reporting<'a> {
    report: &'a mut dyn FnMut(Progress),
    file: String,
    n_done: usize,
    n_bytes: usize,
    start: Instant,
    last_report: Instant,
}

impl Reporting<'_> {
    /// Reports bytes and rate.
    fn report_now(&mut self) {
        let [done, all] = [self.n_done, self.n_bytes].map(|n| format_bytes(n as u64));
        let rate = self.n_done as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let line = format!("hub: {}, {done} of {all}, {}/s", self.file, format_bytes(rate as u64));
        (self.report)(Progress::Loading(line));
        self.last_report = Instant::now();
    }
}

impl hf_hub::api::Progress for Reporting<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.n_done = 0;
        self.n_bytes = size;
    }

    fn update(&mut self, size: usize) {
        self.n_done += size;
        if self.last_report.elapsed() > PERIOD {
            self.report_now();
        }
    }

    fn finish(&mut self) {
        self.report_now();
    }
}
