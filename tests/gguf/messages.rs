//! Every error of a GGUF file, in one table: what was expected, what was found and what to do. Only a file that is
//! missing or cut off is to be downloaded again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::quantized::{GgmlDType, gguf_file::Value};
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    common::{
        self,
        messages::{
            Help::{self, Again, Other},
            assert_parts,
        },
    },
    raw::Raw,
    texts,
    writer::Writer,
};

/// Writes a file, or a model in parts, and returns the path to open.
type Damage = Box<dyn Fn(&Writer, &Path) -> PathBuf>;

/// A small model of two layers with its vocabulary.
fn model() -> Writer {
    let config = common::config(json!({ "model_type": "llama", "head_dim": 16 }));
    let weights = common::random_weights(&config, Dtype::F32);
    let mut writer = Writer::of("llama", &config, &weights, GgmlDType::F32);
    let words: Vec<String> = (0..common::VOCABULARY).map(|id| format!("w{id}")).collect();
    writer.set("tokenizer.ggml.model", text("gpt2"));
    writer.set("tokenizer.ggml.pre", text("gpt-2"));
    writer.set("tokenizer.ggml.tokens", texts(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    writer
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

/// Writes the model with another value of a key, or without it.
fn key(key: &'static str, value: Option<Value>) -> Damage {
    with(move |writer| match &value {
        Some(value) => writer.set(key, value.clone()),
        None => writer.remove(key),
    })
}

fn with(change: impl Fn(&mut Writer) + 'static) -> Damage {
    Box::new(move |_, folder| {
        let mut writer = model();
        change(&mut writer);
        let path = folder.join("model.gguf");
        writer.write(&path);
        path
    })
}

/// Writes the model, and changes the file's bytes.
fn bytes(change: impl Fn(Vec<u8>) -> Vec<u8> + 'static) -> Damage {
    Box::new(move |writer, folder| {
        let path = folder.join("model.gguf");
        writer.write(&path);
        fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
        path
    })
}

fn raw(raw: Raw) -> Damage {
    bytes(move |_| raw.bytes())
}

/// Writes the model in three parts, and changes their names.
fn parts(change: fn(&[PathBuf]) -> PathBuf) -> Damage {
    Box::new(move |writer, folder| change(&writer.write_parts(folder, "model")))
}

/// Each damage, words of what was expected, found and to be done, and what helps.
fn table() -> Vec<(Damage, [&'static str; 3], Help)> {
    let start = |start: &'static [u8]| bytes(move |_| start.repeat(9));
    let first = |n: usize| bytes(move |whole| whole[..n].to_vec());
    let version =
        |version: u32| bytes(move |whole| [b"GGUF", &version.to_le_bytes()[..], &whole[8..]].concat());
    let norm = |kind, shape: &[u64], data| Raw::of(kind, shape, data);
    let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().into()].concat().repeat(9);
    vec![
        // What the file is.
        (first(0), ["a GGUF file", "a file of 0 bytes", "cut off"], Again),
        (first(6), ["a GGUF file", "a file of 6 bytes", "cut off"], Again),
        (first(2000), ["a whole GGUF file", "its end", "cut off"], Again),
        (
            bytes(|whole| whole[..whole.len() - 99].to_vec()),
            ["inside of the file", "where it ends at", "cut off"],
            Again,
        ),
        (start(b"version https://git-lfs"), ["the file itself", "Git LFS", "git lfs pull"], Again),
        (start(b"\n<!DOCTYPE html>"), ["the file itself", "a web page", "/resolve/"], Again),
        (start(b"tjgg"), ["a GGUF file", "GGML", "choose a GGUF file"], Other),
        (start(b"PK\x03\x04 a zip"), ["a GGUF file", "does not start as one", "check the path"], Other),
        (version(4), ["of version 1, 2 or 3", "version 4", "newer than this program"], Other),
        (version(3 << 24), ["a little-endian GGUF file", "a big-endian one", "gguf_convert_endian"], Other),
        // Its header.
        (
            raw(norm(0, &[2], vec![0; 8]).with("new", 13, vec![0; 8])),
            ["a whole GGUF file", "type 13, which is not known (at \"new\")", "choose another file"],
            Other,
        ),
        (
            raw(norm(0, &[2], vec![0; 8]).with("deep", 9, nested)),
            ["a whole GGUF file", "lists in lists", "choose another file"],
            Other,
        ),
        (
            raw(norm(0, &[2], vec![0; 8]).with("general.alignment", 4, 3u32.to_le_bytes().into())),
            ["a whole GGUF file", "general.alignment 3", "choose another file"],
            Other,
        ),
        (
            raw(norm(0, &[1; 5], vec![0; 8])),
            ["a whole GGUF file", "5 dimensions", "choose another file"],
            Other,
        ),
        (
            raw(norm(0, &[0], vec![])),
            ["output_norm.weight [0]", "starts at byte", "choose another file"],
            Other,
        ),
        (
            raw(norm(19, &[256], vec![0; 512])),
            ["output_norm.weight as F32, F16", "IQ1_S", "choose a file"],
            Other,
        ),
        // The model in it.
        (key("general.architecture", None), ["general.architecture", "none", "choose another"], Other),
        (
            key("general.architecture", Some(text("mamba"))),
            ["llama, qwen2", "mamba", "supported family"],
            Other,
        ),
        (
            key("general.type", Some(text("adapter"))),
            ["a whole model", "general.type adapter", "merged"],
            Other,
        ),
        (key("llama.block_count", None), ["the key llama.block_count", "none", "choose another file"], Other),
        (
            key("llama.block_count", Some(Value::U32(3))),
            ["blk.2.attn_norm.weight", "none", "choose another file"],
            Other,
        ),
        (
            key("llama.embedding_length", Some(Value::U32(32))),
            ["of shape [97, 32]", "[97, 64]", "choose another"],
            Other,
        ),
        (
            key("llama.attention.key_length", Some(Value::U32(24))),
            ["of heads of 24 rows", "64 rows", "choose another"],
            Other,
        ),
        (
            key("llama.rope.scaling.type", Some(text("newer"))),
            ["rope_type default", "newer", "supported family"],
            Other,
        ),
        (
            with(|writer| writer.drop_tensor("token_embd.weight")),
            ["token_embd.weight", "none", "choose another"],
            Other,
        ),
        // Its vocabulary.
        (
            key("tokenizer.ggml.model", None),
            ["gpt2 or llama", "none", "tokenizer.json beside the file"],
            Other,
        ),
        (
            key("tokenizer.ggml.pre", Some(text("newer"))),
            ["tokenizer.ggml.pre", "newer", "tokenizer.json beside"],
            Other,
        ),
        (
            key("tokenizer.ggml.merges", Some(texts(&["no-such pair"]))),
            ["a tokenizer", "\"no-such\", which is not in the vocabulary", "tokenizer.json beside"],
            Other,
        ),
        (
            with(|writer| writer.set("tokenizer.ggml.tokens", texts(&["word"; 200]))),
            ["ids below 97", "id 199", "belongs to another model"],
            Other,
        ),
        // Its parts.
        (
            parts(|parts| fs::remove_file(&parts[1]).map(|()| parts[2].clone()).unwrap()),
            ["all 3 parts", "model-00002-of-00003.gguf", "that file, into the same folder"],
            Again,
        ),
        (
            parts(|parts| {
                let renamed = parts[0].with_file_name("renamed.gguf");
                fs::rename(&parts[1], &renamed).map(|()| renamed).unwrap()
            }),
            ["all 3 parts", "part 2 under a name of its own", "the names that they had"],
            Other,
        ),
        (
            parts(|parts| {
                let renamed = parts[0].with_file_name("model-00001-of-00002.gguf");
                fs::rename(&parts[0], &renamed).map(|()| renamed).unwrap()
            }),
            ["all 3 parts", "part 1 under a name of its own", "model-00001-of-00003.gguf"],
            Other,
        ),
        (
            parts(|parts| fs::copy(&parts[1], &parts[2]).map(|_| parts[0].clone()).unwrap()),
            ["part 3", "part 2", "the names that they had"],
            Other,
        ),
    ]
}

#[test]
fn every_error_of_a_gguf_file_says_what_to_do() {
    let whole = model();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    whole.write(&path);
    common::load(&path).expect("the model before it is damaged");
    for (damage, words, help) in table() {
        let folder = TempDir::new().unwrap();
        let path = damage(&whole, folder.path());
        let error = common::load(&path).map(drop).expect_err(words[0]).to_string();
        assert!(error.starts_with(&format!("model {}", folder.path().display())), "{error}");
        assert_parts(&error, words, help);
    }
}
