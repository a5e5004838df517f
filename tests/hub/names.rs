//! What a name means: a link, a quantisation, a repository with a left-over index.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use crate::{
    COMMIT, User, folder,
    server::{Manner, Server},
};

/// The same model by its name, as a link from a browser, and in shards without an index.
#[test]
fn links_from_a_browser_and_shards_without_an_index_are_found() {
    let folder = folder(2);
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    let server = Server::of(folder.path(), COMMIT, Manner::default());
    let user = User::new(&server);
    for name in [
        "https://huggingface.co/tiny/llama",
        "https://hf.co/tiny/llama/tree/main",
        &format!("{}/tiny/llama/blob/main/model-00001-of-00002.safetensors", server.url()),
    ] {
        user.assert_traces(name);
    }
    user.assert_refused(
        "https://example.org/tiny/llama",
        &["a link to a model of the hub", "give the model's name"],
    );
}

#[test]
fn a_left_over_index_in_a_repository_is_passed_over() {
    let folder = folder(1);
    let index = json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let server = Server::of(folder.path(), COMMIT, Manner::default());
    let mut user = User::new(&server);
    user.assert_traces("tiny/llama");
    user.variables.push(("HF_HUB_OFFLINE", "1".into()));
    user.assert_traces("tiny/llama");
}

/// Bytes that are no GGUF file show which files were downloaded, and which one was opened.
#[test]
fn a_quantisation_is_downloaded_with_all_its_parts() {
    let folder = TempDir::new().unwrap();
    let parts = ["a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"];
    for name in [parts[0], parts[1], "a-Q4_0.gguf", "mmproj-a-Q8_0.gguf"] {
        fs::write(folder.path().join(name), format!("{name} is none")).unwrap();
    }
    let server = Server::of(folder.path(), COMMIT, Manner::default());
    for name in ["tiny/llama:Q8_0", "tiny/llama/a-Q8_0-00002-of-00002.gguf", "https://hf.co/tiny/llama:q8_0"]
    {
        let mut user = User::new(&server);
        for offline in ["0", "1"] {
            user.variables.push(("HF_HUB_OFFLINE", offline.into()));
            user.assert_refused(name, &[parts[0], "a GGUF file"]);
        }
        let mut cached: Vec<_> =
            fs::read_dir(user.snapshot()).unwrap().map(|file| file.unwrap().file_name()).collect();
        cached.sort();
        assert_eq!(cached, parts, "{name}");
        user.assert_refused("tiny/llama:Q4_0", &["a GGUF file of Q4_0 in the cache", "unset HF_HUB_OFFLINE"]);
    }
}
