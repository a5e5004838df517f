//! Models by their names on the hub: from a cache, and from a small local server.
#![cfg(feature = "engine")]

mod common;
#[path = "common/hash.rs"]
mod hash;
#[path = "hub/messages.rs"]
mod messages;
#[path = "common/mount.rs"]
mod mount;
#[path = "hub/names.rs"]
mod names;
#[path = "hub/server.rs"]
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use hash::sha256;
use server::{Compress, Manner, Redirect, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Returns a model folder with its weights in `n_shards` files.
fn folder(n_shards: usize) -> TempDir {
    let config = common::config(json!({ "model_type": "llama", "eos_token_id": 3 }));
    common::folder(&config, &common::random_weights(&config, Dtype::F32), n_shards)
}

/// `streamtrace trace` of a model by name, with a hub's home of its own.
struct User {
    home: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl User {
    fn new(server: &Server) -> Self {
        User { home: TempDir::new().unwrap(), variables: vec![("HF_ENDPOINT", server.url())] }
    }

    fn offline() -> Self {
        User { home: TempDir::new().unwrap(), variables: vec![("HF_HUB_OFFLINE", "1".into())] }
    }

    fn trace(&self, model: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
        for name in [
            "HF_ENDPOINT",
            "HF_HUB_OFFLINE",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "XDG_CACHE_HOME",
            "HF_TOKEN",
            "http_proxy",
            "HTTP_PROXY",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command.env("STREAMTRACE_PROGRESS_SECONDS", "0");
        command.env("HF_HOME", self.home.path()).envs(self.variables.clone()).current_dir(self.home.path());
        command.args(["trace", "--device", "cpu", "--prompt", "w1 w2 w3 w4", "--json", "--model", model]);
        command.output().unwrap()
    }

    #[track_caller]
    fn assert_traces(&self, model: &str) -> String {
        let output = self.trace(model);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    #[track_caller]
    fn assert_refused(&self, model: &str, words: &[&str]) {
        let output = self.trace(model);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in: {said}"));
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("hub/models--tiny--llama")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    /// Puts a folder into the cache, as `huggingface_hub` would.
    fn cache(&self, folder: &Path) {
        for part in [self.repository().join("refs"), self.snapshot()] {
            fs::create_dir_all(part).unwrap();
        }
        fs::write(self.repository().join("refs/main"), COMMIT).unwrap();
        for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, self.snapshot().join(file.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn a_cached_model_is_found_without_a_network() {
    for n_shards in [1, 3] {
        let user = User::offline();
        user.cache(folder(n_shards).path());
        for name in ["tiny/llama", "tiny/llama@main", &format!("tiny/llama@{COMMIT}")] {
            user.assert_traces(name);
        }
        user.assert_refused("tiny/llama@v2", &["tiny/llama", "none of revision v2", "unset HF_HUB_OFFLINE"]);
        user.assert_refused(
            "tiny/other",
            &["tiny/other", "a folder or file of that name, or a cached model"],
        );
    }
}

#[test]
fn the_cache_is_where_the_hubs_tools_look() {
    let cached = User::offline();
    cached.cache(folder(1).path());
    let home = cached.home.path().display().to_string();
    let parent = TempDir::new().unwrap();
    std::os::unix::fs::symlink(cached.home.path(), parent.path().join("huggingface")).unwrap();
    let parent = parent.path().display().to_string();
    for variables in [
        vec![("HF_HUB_CACHE", format!("{home}/hub")), ("HUGGINGFACE_HUB_CACHE", "/nowhere".into())],
        vec![("HUGGINGFACE_HUB_CACHE", format!("{home}/hub"))],
        vec![("HF_HOME", String::new()), ("XDG_CACHE_HOME", parent.clone())],
        vec![("HF_HOME", "~/huggingface".into()), ("HOME", parent.clone())],
    ] {
        let mut user = User::offline();
        user.variables.extend(variables);
        user.assert_traces("tiny/llama");
    }
}

#[test]
fn a_repository_without_a_tokenizer_is_said_to_have_none() {
    let folder = folder(1);
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let server = Server::of(folder.path(), COMMIT, Manner::default());
    let words = ["tiny/llama: expected a tokenizer.json in the repository, found none", "save_pretrained"];
    User::new(&server).assert_refused("tiny/llama", &words);
}

#[test]
fn a_half_cached_model_is_named() {
    let user = User::offline();
    user.cache(folder(3).path());
    fs::remove_file(user.snapshot().join("model-00002-of-00003.safetensors")).unwrap();
    user.assert_refused(
        "tiny/llama",
        &["the whole model in the cache", "model-00002-of-00003", "unset HF_HUB_OFFLINE"],
    );
}

#[test]
fn a_path_that_exists_wins() {
    let user = User::offline();
    fs::create_dir_all(user.home.path().join("tiny")).unwrap();
    fs::rename(folder(1).keep(), user.home.path().join("tiny/llama")).unwrap();
    user.assert_traces("tiny/llama");
    user.assert_traces(&format!("file://{}/tiny/llama", user.home.path().display()));
    user.assert_refused("~/tiny/llama", &["/tiny/llama: expected a model folder", "check the path"]);
    let mut at_home = User::offline();
    at_home.variables.push(("HOME", user.home.path().display().to_string()));
    at_home.assert_traces("~/tiny/llama");
    user.assert_refused(
        "llama",
        &["a model folder, a .gguf file, or a model of the hub", "no such file or folder"],
    );
}

#[test]
fn a_model_is_downloaded_once_and_then_cached() {
    for n_shards in [1, 3] {
        let folder = folder(n_shards);
        let server = Server::of(folder.path(), COMMIT, Manner::default());
        let user = User::new(&server);
        let said = user.assert_traces("tiny/llama");
        assert!(said.contains("hub: asking") && said.contains(".safetensors, "), "{said}");
        assert_eq!(fs::read_to_string(user.repository().join("refs/main")).unwrap(), COMMIT);
        let n_before = server.n_files_sent();
        user.assert_traces("tiny/llama");
        assert_eq!(server.n_files_sent(), n_before);
        drop(server);
        // The server is gone.
        let said = user.assert_traces("tiny/llama");
        assert!(said.contains("the copy in the cache is used"), "{said}");
        user.assert_refused("tiny/other", &["tiny/other", "cannot be asked", "check the network"]);
    }
}

/// Returns the bytes of a file that was downloaded and of the one that was to be.
fn both(user: &User, folder: &TempDir, file: &str) -> [Vec<u8>; 2] {
    [user.snapshot(), folder.path().into()].map(|folder| fs::read(folder.join(file)).unwrap())
}

#[test]
fn a_download_that_broke_off_goes_on() {
    let folder = folder(1);
    for ranges in [true, false] {
        let cut = Manner { cut: Some(100), ranges, ..Manner::default() };
        let broken = Server::of(folder.path(), COMMIT, cut);
        let mut user = User::new(&broken);
        user.assert_refused("tiny/llama", &["tiny/llama", "cannot be asked", "what was downloaded is kept"]);
        assert!(!user.snapshot().join("model.safetensors").exists());
        let left = fs::read(user.repository().join("blobs/model-safetensors.incomplete")).unwrap();
        assert_eq!(left.len(), if ranges { 400 } else { 100 }, "the same request is made four times");
        let whole = Server::of(folder.path(), COMMIT, Manner { ranges, ..Manner::default() });
        user.variables = vec![("HF_ENDPOINT", whole.url())];
        user.assert_traces("tiny/llama");
        assert_eq!(whole.starts().contains(&400), ranges, "{:?}", whole.starts());
        let [sent, had] = both(&user, &folder, "model.safetensors");
        assert!(sent == had);
        assert!(!user.repository().join("blobs/model-safetensors.incomplete").exists());
    }
}

/// What is left of an earlier download may be longer than the file, whole, or of another one.
#[test]
fn what_is_left_of_a_download_is_checked() {
    let folder = folder(1);
    let weights = fs::read(folder.path().join("model.safetensors")).unwrap();
    let store = Server::of(folder.path(), COMMIT, Manner::default());
    let manner = Manner { redirect: Redirect::Store(store.url()), ..Manner::default() };
    let server = Server::of(folder.path(), COMMIT, manner);
    for left in [weights.clone(), vec![0; weights.len() + 1], vec![0; weights.len()], vec![0; 100]] {
        let user = User::new(&server);
        fs::create_dir_all(user.repository().join("blobs")).unwrap();
        let part = user.repository().join(format!("blobs/{}.incomplete", sha256(&weights)));
        fs::write(&part, &left).unwrap();
        user.assert_traces("tiny/llama");
        let [sent, had] = both(&user, &folder, "model.safetensors");
        assert!(sent == had && !part.exists(), "{} bytes were left", left.len());
    }
}

#[test]
fn every_answer_of_servers_and_mirrors_serves() {
    let folder = folder(2);
    let plain = Manner::default;
    for (what, manner) in [
        (
            "compressed where it is offered",
            Manner { compress: Compress::WhenOffered, ranges: false, ..plain() },
        ),
        ("compressed always", Manner { compress: Compress::Always, ..plain() }),
        ("without lengths", Manner { lengths: false, ..plain() }),
        ("compressed without lengths", Manner { compress: Compress::Always, lengths: false, ..plain() }),
        ("without ranges and marks", Manner { ranges: false, marks: false, ..plain() }),
        ("redirected on the server", Manner { redirect: Redirect::Relative, ..plain() }),
        ("renamed", Manner { redirect: Redirect::Renamed, ..plain() }),
        ("busy at first", Manner { n_busy: 2, ..plain() }),
    ] {
        let server = Server::of(folder.path(), COMMIT, manner);
        let user = User::new(&server);
        user.assert_traces("tiny/llama");
        for file in ["config.json", "model-00002-of-00002.safetensors"] {
            let [sent, had] = both(&user, &folder, file);
            assert!(sent == had, "{what}: {file}");
        }
        let linked = fs::read_link(user.snapshot().join("config.json")).unwrap();
        assert!(linked.starts_with("../../blobs"), "{}", linked.display());
    }
}

/// The hub sends large files from a store of another host, which must not see the token.
#[test]
fn a_store_gets_no_token_and_its_files_are_checked() {
    let folder = folder(1);
    let store = Server::of(folder.path(), COMMIT, Manner::default());
    let redirect = Redirect::Store(store.url());
    let manner = Manner { redirect: redirect.clone(), token: Some("hf_secret"), ..Manner::default() };
    let server = Server::of(folder.path(), COMMIT, manner);
    let mut user = User::new(&server);
    user.variables.push(("HF_TOKEN", "hf_secret".into()));
    user.assert_traces("tiny/llama");
    assert!(store.n_files_sent() == 1 && !store.has_leaked());
    let hash = sha256(&fs::read(folder.path().join("model.safetensors")).unwrap());
    let linked = fs::read_link(user.snapshot().join("model.safetensors")).unwrap();
    assert_eq!(linked, Path::new("../../blobs").join(hash));
}

#[test]
fn a_token_is_sent() {
    let folder = folder(1);
    let server = Server::of(folder.path(), COMMIT, Manner { token: Some("hf_secret"), ..Manner::default() });
    let mut user = User::new(&server);
    user.assert_refused("tiny/llama", &["HF_TOKEN", "terms"]);
    user.variables.push(("HF_TOKEN", "hf_old".into()));
    user.assert_refused("tiny/llama", &["that the token in HF_TOKEN", "is valid"]);
    user.variables.push(("HF_TOKEN", "hf_secret\n".into()));
    user.assert_traces("tiny/llama");
    let kept = User::new(&server);
    fs::write(kept.home.path().join("token"), "hf_secret").unwrap();
    kept.assert_traces("tiny/llama");
}

/// A repository cannot write outside the cache.
#[test]
fn files_outside_the_repository_are_refused() {
    let folder = folder(3);
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"model.norm.weight": "../../../escaped.safetensors"}}"#).unwrap();
    let server = Server::of(folder.path(), COMMIT, Manner::default());
    User::new(&server).assert_refused("tiny/llama", &["shards in the model's folder", "escaped"]);
}

#[test]
fn a_full_disk_is_not_the_networks_fault() {
    let folder = folder(1);
    let server = Server::of(folder.path(), COMMIT, Manner::default());
    let url = server.url();
    for (mount, words) in [
        (mount::SMALL_DISK, ["cannot write", "hub", "the disk is full"]),
        ("-t tmpfs -o ro none", ["cannot write", "hub", "Read-only"]),
    ] {
        let script = r#"HF_HOME="$D" "$STREAMTRACE" trace --device cpu --prompt w1 --model tiny/llama"#;
        let Some(output) = mount::with_mount(mount, script, &[("HF_ENDPOINT", Path::new(&url))]) else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in: {said}"));
    }
}
