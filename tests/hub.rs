//! Models by their names on the hub: from a cache, and from a small local server.
#![cfg(feature = "engine")]

mod common;
#[path = "common/mount.rs"]
mod mount;
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

use server::{Answer, Server};

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
    let server = Server::of(folder.path(), COMMIT, Answer::Whole);
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
    user.assert_refused(
        "llama",
        &["a model folder, a .gguf file, or a model of the hub", "no such file or folder"],
    );
}

#[test]
fn a_model_is_downloaded_once_and_then_cached() {
    for n_shards in [1, 3] {
        let folder = folder(n_shards);
        let server = Server::of(folder.path(), COMMIT, Answer::Whole);
        let user = User::new(&server);
        let said = user.assert_traces("tiny/llama");
        assert!(said.contains("hub: asking") && said.contains(".safetensors, "), "{said}");
        assert_eq!(fs::read_to_string(user.repository().join("refs/main")).unwrap(), COMMIT);
        let n_before = server.n_files_sent();
        user.assert_traces("tiny/llama");
        assert_eq!(server.n_files_sent(), n_before);
        drop(server);
        // The server is gone.
        user.assert_traces("tiny/llama");
        user.assert_refused("tiny/other", &["tiny/other", "cannot be asked", "check the network"]);
    }
}

#[test]
fn a_download_that_broke_off_goes_on() {
    let folder = folder(1);
    let broken = Server::of(folder.path(), COMMIT, Answer::Half);
    let mut user = User::new(&broken);
    user.assert_refused("tiny/llama", &["tiny/llama", "cannot be asked", "what was downloaded is kept"]);
    assert!(!user.snapshot().join("model.safetensors").exists());
    let whole = Server::of(folder.path(), COMMIT, Answer::Whole);
    user.variables = vec![("HF_ENDPOINT", whole.url())];
    user.assert_traces("tiny/llama");
    assert!(whole.starts().iter().any(|&start| start > 100), "{:?}", whole.starts());
    let [sent, had] = [user.snapshot(), folder.path().into()]
        .map(|folder| fs::read(folder.join("model.safetensors")).unwrap());
    assert_eq!(sent, had);
}

#[test]
fn models_that_are_not_given_are_refused() {
    let folder = folder(1);
    let server = |answer| Server::of(folder.path(), COMMIT, answer);
    let gated = server(Answer::Gated);
    let user = User::new(&gated);
    user.assert_refused(
        "tiny/llama",
        &["does not give to everybody", "accept the model's terms", "HF_TOKEN"],
    );
    let whole = server(Answer::Whole);
    let user = User::new(&whole);
    user.assert_refused("tiny/llama@v9", &["none with a revision v9", "check the name and the revision"]);
    user.assert_refused("tiny/nothing", &["tiny/nothing", "none with a revision main"]);
    fs::rename(folder.path().join("model.safetensors"), folder.path().join("tiny-Q8_0.gguf")).unwrap();
    let bare = server(Answer::Whole);
    User::new(&bare)
        .assert_refused("tiny/llama", &["model.safetensors", "tiny-Q8_0.gguf", "tiny/llama/tiny-Q8_0.gguf"]);
    fs::remove_file(folder.path().join("tiny-Q8_0.gguf")).unwrap();
    let empty = server(Answer::Whole);
    User::new(&empty).assert_refused("tiny/llama", &["model.safetensors", "no file of that kind"]);
}

#[test]
fn a_token_is_sent() {
    let folder = folder(1);
    let server = Server::of(folder.path(), COMMIT, Answer::ForToken("hf_secret"));
    let mut user = User::new(&server);
    user.assert_refused("tiny/llama", &["HF_TOKEN"]);
    user.variables.push(("HF_TOKEN", "hf_secret\n".into()));
    user.assert_traces("tiny/llama");
}

/// A repository cannot write outside the cache.
#[test]
fn files_outside_the_repository_are_refused() {
    let folder = folder(3);
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"model.norm.weight": "../../../escaped.safetensors"}}"#).unwrap();
    let server = Server::of(folder.path(), COMMIT, Answer::Whole);
    User::new(&server).assert_refused("tiny/llama", &["shards in the model's folder", "escaped"]);
}

#[test]
fn a_full_disk_is_not_the_networks_fault() {
    let folder = folder(1);
    let server = Server::of(folder.path(), COMMIT, Answer::Whole);
    let url = server.url();
    for (mount, words) in [
        (mount::SMALL_DISK, ["cannot write", "hub", "the disk is full"]),
        ("-t tmpfs -o ro none", ["cannot write", "hub", "read-only"]),
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
