//! Files found by fuzzing or review: each once made a reader panic, take unlimited memory, or read out of
//! place.

use std::{fs, path::Path};

use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::engine::model::{gguf::Gguf, tokenizer::Tokenizer};

use crate::{assert_says, common};

/// Returns a model folder with a change to one of its JSON files.
fn changed(n_shards: usize, name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let config = common::config(json!({ "model_type": "llama" }));
    let folder = common::folder(&config, &common::random_weights(&config, Dtype::F32), n_shards);
    let path = folder.path().join(name);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
    folder
}

#[test]
fn shards_lie_in_the_models_folder() {
    for name in ["../model.safetensors", "/etc/passwd", "a/../../b"] {
        let folder = changed(2, "model.safetensors.index.json", |index| {
            index["weight_map"]["model.norm.weight"] = json!(name)
        });
        assert_says(name, common::load(folder.path()), &["shards in the model's folder", name]);
    }
}

/// Padding to a fixed length happened before it was switched off.
#[test]
fn a_tokenizers_padding_is_never_made() {
    let padding = json!({ "strategy": { "Fixed": 1u64 << 50 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]" });
    let folder = changed(1, "tokenizer.json", |tokenizer| tokenizer["padding"] = padding);
    assert_eq!(common::load(folder.path()).unwrap().count_tokens("w1 w2"), Ok(2));
}

/// The tokenizer's own reader panics inside a truncated decoder.
#[test]
fn a_tokenizer_that_is_cut_off_anywhere_is_refused() {
    let json = json!({ "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false } });
    let whole = json.to_string();
    for n in 0..whole.len() {
        let error = Tokenizer::parse(&whole.as_bytes()[..n], Path::new("tokenizer.json"), 97).map(drop);
        assert_says(&whole[..n], error, &["tokenizer.json: expected a tokenizer", "download it again"]);
    }
}

/// A start token that is not among the special tokens makes the tokenizer panic with every text.
#[test]
fn a_tokenizer_that_contradicts_itself_gives_errors() {
    let piece = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let start = json!({ "SpecialToken": { "id": "[S]", "type_id": 0 } });
    let other = json!({ "[T]": { "id": "[S]", "ids": [0], "tokens": ["[S]"] } });
    let template = json!({ "type": "TemplateProcessing", "single": [start, piece], "pair": [start], "special_tokens": other });
    let folder = changed(1, "tokenizer.json", |tokenizer| tokenizer["post_processor"] = template);
    assert_says("a text", common::load(folder.path()).unwrap().trace("w1 w2"), &["contradicts itself"]);
}

/// Makes a GGUF file of heads of a given size with one tensor of 32-bit numbers, and the first bytes of its
/// data.
fn gguf(head_dim: u32, name: &str, shape: &[u64], n_data: usize) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let [version, string, number, f32s] = [3u32, 8, 4, 0].map(u32::to_le_bytes);
    let [n_tensors, n_metadata, offset] = [1u64, 2, 0].map(u64::to_le_bytes);
    let shape: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    let n_dimensions = (shape.len() as u32 / 8).to_le_bytes();
    let architecture = [text("general.architecture"), string.to_vec(), text("llama")].concat();
    let heads =
        [text("llama.attention.key_length"), number.to_vec(), head_dim.to_le_bytes().to_vec()].concat();
    let tensor = [text(name), n_dimensions.to_vec(), shape, f32s.to_vec(), offset.to_vec()].concat();
    let mut file =
        [b"GGUF".as_slice(), &version, &n_tensors, &n_metadata, &architecture, &heads, &tensor].concat();
    file.resize(file.len().next_multiple_of(32) + n_data, 0);
    file
}

/// The number of bytes of a row overflows.
#[test]
fn tensors_larger_than_any_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for shape in [&[1 << 62][..], &[u64::MAX], &[1 << 31, 1 << 31], &[1 << 61, 0], &[1 << 40; 4]] {
        let path = folder.path().join("a.gguf");
        fs::write(&path, gguf(64, "output_norm.weight", shape, 0)).unwrap();
        assert_says(&format!("{shape:?}"), Gguf::open(&path).map(drop), &["a.gguf", "output_norm.weight"]);
    }
}

/// Rows that are reordered head by head were read past the tensor's end.
#[test]
fn rows_that_are_no_whole_heads_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let read = |head_dim: u32, n_rows: u64| {
        fs::write(&path, gguf(head_dim, "blk.0.attn_q.weight", &[8, n_rows], 8 * 4 * n_rows as usize))
            .unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let weight = gguf.get("model.layers.0.self_attn.q_proj.weight")?;
        weight.map(|weight| weight.read().map(|values| values.view().shape().to_vec())).transpose()
    };
    assert_eq!(read(4, 8), Ok(Some(vec![8, 8])));
    for (head_dim, n_rows) in [(4, 6), (1, 6), (3, 6), (0, 6), (u32::MAX, 6)] {
        assert_says(&head_dim.to_string(), read(head_dim, n_rows), &["attn_q.weight of heads of", "6 rows"]);
    }
}
