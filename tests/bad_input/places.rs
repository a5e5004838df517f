//! Models where other programs leave them, and folders that hold none.

use std::{fs, path::Path};

use serde_json::json;
use streamtrace::{Error, Tracer};
use tempfile::TempDir;

use crate::{
    assert_says,
    common::{self},
};

fn model() -> TempDir {
    common::random_model(json!({ "model_type": "llama" }))
}

/// Returns the name of the model at `path`.
fn name(path: &Path) -> Result<String, Error> {
    common::load(path).map(|tracer: Tracer| tracer.model().name.clone())
}

#[test]
fn folders_of_the_hubs_cache_are_named_by_the_model() {
    let cache = TempDir::new().unwrap();
    let folder = cache.path().join("models--tiny--llama-1");
    let snapshot = folder.join("snapshots/0123456789abcdef");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    fs::rename(model().keep(), &snapshot).unwrap();
    assert_eq!(
        [&folder, &folder.join("snapshots"), &snapshot].map(|path| name(path).unwrap()),
        ["llama-1"; 3],
        "the only snapshot"
    );
    fs::create_dir(folder.join("snapshots/another")).unwrap();
    assert_says(
        "two snapshots",
        name(&folder),
        &["a snapshot of the main branch, found 2 snapshots", "give the path"],
    );
    fs::write(folder.join("refs/main"), "0123456789abcdef\n").unwrap();
    assert_eq!(name(&folder).unwrap(), "llama-1");
}

#[test]
fn a_weights_file_means_its_folder() {
    for n_shards in [1, 3] {
        let config = common::config(json!({ "model_type": "llama" }));
        let folder =
            common::folder(&config, &common::random_weights(&config, safetensors::Dtype::F32), n_shards);
        let expected = name(folder.path()).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains(".safetensors") {
                assert_eq!(name(&path).unwrap(), expected, "{}", path.display());
            }
        }
    }
}

#[test]
fn an_index_that_was_left_beside_a_whole_file_is_passed_over() {
    let folder = model();
    let index = json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    name(folder.path()).unwrap();
}

#[test]
fn shards_without_an_index_are_found_by_their_names() {
    let config = common::config(json!({ "model_type": "llama" }));
    let weights = common::random_weights(&config, safetensors::Dtype::F32);
    let logits = |folder: &Path| common::load(folder).unwrap().trace("w1 w2 w3").unwrap().logits().unwrap();
    let folder = common::folder(&config, &weights, 3);
    let expected = logits(folder.path());
    let index = folder.path().join("model.safetensors.index.json");
    fs::remove_file(&index).unwrap();
    assert_eq!(logits(folder.path()), expected);
    // An index of earlier shards.
    let old = json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    fs::write(index, old.to_string()).unwrap();
    assert_eq!(logits(folder.path()), expected);
}

#[test]
fn what_is_no_whole_model_is_named() {
    let folder = model();
    fs::rename(folder.path().join("model.safetensors"), folder.path().join("pytorch_model.bin")).unwrap();
    assert_says("pickled", name(folder.path()), &["found pytorch_model.bin", "save_pretrained"]);
    let folder = TempDir::new().unwrap();
    let adapter = json!({ "peft_type": "LORA", "base_model_name_or_path": "x/y" });
    fs::write(folder.path().join("adapter_config.json"), adapter.to_string()).unwrap();
    assert_says("an adapter", name(folder.path()), &["a whole model, found an adapter of x/y", "merge it"]);
    let folder = TempDir::new().unwrap();
    ["a.gguf", "b.gguf"].iter().for_each(|name| fs::write(folder.path().join(name), "GGUF").unwrap());
    assert_says("two files", name(folder.path()), &["one model, found 2 GGUF files", "a.gguf"]);
    fs::remove_file(folder.path().join("b.gguf")).unwrap();
    assert_says("one file", name(folder.path()), &["a.gguf: expected a GGUF file"]);
    fs::rename(folder.path().join("a.gguf"), folder.path().join("sha256-00")).unwrap();
    assert_says("a blob", name(&folder.path().join("sha256-00")), &["sha256-00: expected a GGUF file"]);
}

#[test]
fn a_trace_belongs_to_its_model_wherever_that_lies() {
    let folder = model();
    let tracer = common::load(folder.path()).unwrap();
    let trace = tracer.trace("w1 w2 w3 w4").unwrap();
    assert!(trace.summary().model.fingerprint.is_some());
    // A copy in shards, of another name.
    let config = common::config(json!({ "model_type": "llama" }));
    let weights = common::random_weights(&config, safetensors::Dtype::F32);
    let copy = common::load(common::folder(&config, &weights, 3).path()).unwrap();
    assert_eq!(copy.model().fingerprint, tracer.model().fingerprint);
    copy.compare(&trace).unwrap();
    // The same sizes with other weights run, with a note, which tests of the command line read.
    let half = common::random_weights(&config, safetensors::Dtype::BF16);
    let half = common::load(common::folder(&config, &half, 1).path()).unwrap();
    assert_ne!(half.model().fingerprint, tracer.model().fingerprint);
    half.compare(&trace).unwrap();
    let other = common::random_model(json!({ "model_type": "llama", "num_hidden_layers": 3 }));
    let other = common::load(other.path()).unwrap();
    assert_says(
        "other sizes",
        other.compare(&trace),
        &["which has 3 layers", "which has 2 layers", "load the model that made"],
    );
}

#[test]
fn a_prompt_longer_than_the_model_was_made_for_is_said() {
    let folder = common::random_model(json!({ "model_type": "llama", "max_position_embeddings": 8 }));
    let tracer = common::load(folder.path()).unwrap();
    for (n_tokens, is_long) in [(8, false), (9, true)] {
        let trace = tracer.trace(&common::prompt(n_tokens)).unwrap();
        assert_eq!(
            trace.to_string().contains("the model was made for prompts of 8 tokens"),
            is_long,
            "{trace}"
        );
        let figures = [
            trace.overview().unwrap().svg().to_string(),
            trace.attention_map(0, 0).unwrap().figure().svg().to_string(),
        ];
        assert!(figures.iter().all(|svg| svg.contains("the model was made for 8") == is_long));
    }
}
