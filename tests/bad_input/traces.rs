//! Files that are not traces, and questions that a trace cannot answer.

use std::fs;

use serde_json::json;
use streamtrace::{Error, StreamConfig, Trace, Tracer};
use tempfile::TempDir;

use crate::{assert_says, common, names};

fn tracer(changes: serde_json::Value) -> (TempDir, Tracer) {
    let model = common::random_model(changes);
    let tracer = common::load(model.path()).unwrap();
    (model, tracer)
}

fn trace() -> Trace {
    let (_model, tracer) = tracer(json!({ "model_type": "llama" }));
    tracer
        .with(StreamConfig { focus: Some(3..7), ..StreamConfig::default() })
        .trace(&common::prompt(50))
        .unwrap()
}

#[test]
fn layers_heads_tokens_and_texts_that_do_not_exist_are_named() {
    let trace = trace();
    for layer in [2, usize::MAX] {
        let words = [&format!("layer {layer} does not exist")[..], "choose 0 to 1"];
        assert_says("head", trace.head(layer, 0), &words);
        assert_says("mask", trace.mask(layer), &words);
        assert_says("map", trace.attention_map(layer, 0), &words);
        assert_says("row", trace.attention_row(layer, 0, 3), &words);
        assert_says("blocks", trace.blocks(layer), &words);
    }
    for head in [4, usize::MAX] {
        let words = [&format!("head {head} does not exist")[..], "choose 0 to 3"];
        assert_says("head", trace.head(0, head), &words);
        assert_says("map", trace.attention_map(0, head), &words);
        assert_says("row", trace.attention_row(0, head, 3), &words);
    }
    for token in [2, 7, 50, usize::MAX] {
        assert_says(
            "row",
            trace.attention_row(0, 0, token),
            &["row of token", "tokens 3 to 6", "set StreamConfig::focus"],
        );
    }
    assert_says("span", trace.span_text(40..51), &["span 40..51 does not exist", "tokens 0..50"]);
    assert_says("text", trace.find("a word that is not there"), &["does not contain it"]);
    assert_says("nothing", trace.find(""), &["empty text"]);
}

#[test]
fn files_that_are_no_traces_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.trace");
    assert_says("missing", Trace::open(&path), &["cannot read", "a.trace", "No such file"]);
    assert_says("a folder", Trace::open(folder.path()), &[&folder.path().display().to_string(), "directory"]);
    fs::write(&path, "Once upon a time").unwrap();
    assert_says(
        "prose",
        Trace::open(&path),
        &["a.trace", "a whole safetensors file", "trace the prompt again"],
    );
    fs::write(&path, "").unwrap();
    assert_says("empty", Trace::open(&path), &["a.trace", "a whole safetensors file"]);
    let weights =
        common::random_weights(&common::config(json!({ "model_type": "llama" })), safetensors::Dtype::F32);
    common::write_weights(&path, &weights);
    assert_says(
        "weights",
        Trace::open(&path),
        &["a file written by streamtrace", "another safetensors file"],
    );
}

#[test]
fn a_trace_of_a_newer_version_asks_for_an_update() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.trace");
    trace().save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (old, new) = (br#""version":"3""#, br#""version":"4""#);
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    let newer = [&bytes[..at], new, &bytes[at + old.len()..]].concat();
    fs::write(&path, newer).unwrap();
    assert_says(
        "newer",
        Trace::open(&path),
        &["format version 3 or older", "found version 4", "update streamtrace"],
    );
    for n in [10, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..n]).unwrap();
        assert_says("cut off", Trace::open(&path), &["a whole safetensors file", "cut off"]);
    }
}

#[test]
fn another_models_trace_is_not_compared() {
    let (_model, other) = tracer(json!({ "model_type": "qwen2" }));
    let error = other.compare(&trace());
    assert!(matches!(error, Err(Error::Setting { .. })));
    assert_says("compare", error, &["the model that is loaded", "load the model that made the trace"]);
}

#[test]
fn pictures_of_unknown_kinds_are_refused() {
    let (trace, folder) = (trace(), TempDir::new().unwrap());
    for name in ["map.jpg", "map"] {
        assert_says(name, trace.attention_map(0, 0).unwrap().save(folder.path().join(name)), &["svg", "png"]);
    }
    assert_says(
        "nowhere",
        trace.attention_map(0, 0).unwrap().save("/nowhere/map.svg"),
        &["/nowhere/map.svg", "No such file"],
    );
    assert!(names(folder.path()).is_empty());
}
