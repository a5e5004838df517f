//! GGUF files, written here with candle, run like the folders that they came from.
#![cfg(feature = "engine")]

#[path = "gguf/architectures.rs"]
mod architectures;
#[path = "gguf/blocks.rs"]
mod blocks;
mod common;
#[path = "common/hash.rs"]
mod hash;
#[path = "gguf/header.rs"]
mod header;
#[path = "gguf/messages.rs"]
mod messages;
#[path = "gguf/mxfp4.rs"]
mod mxfp4;
#[path = "gguf/products.rs"]
mod products;
#[path = "gguf/raw.rs"]
mod raw;
#[path = "gguf/words.rs"]
mod words;
#[path = "gguf/writer.rs"]
mod writer;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use candle_core::quantized::{GgmlDType, gguf_file::Value};
use streamtrace::{Error, StreamConfig, Trace, Tracer, engine::model::gguf::Gguf};
use tempfile::TempDir;

use writer::Writer;

const PROMPT: &str =
    "The special magic number for foamy-harp is: 9077192. What is it, for foamy-harp? The number is: 9";

fn trace(path: &Path, prompt: &str) -> Result<Trace, Error> {
    let keep_all = StreamConfig { top_k: usize::MAX, ..StreamConfig::default() };
    common::load(path)?.with(keep_all).trace(prompt)
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m")
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs())) / largest
}

/// Returns the bundled model in blocks of 8 bits, with its vocabulary inside.
fn quantized(dtype: GgmlDType) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("needle.gguf");
    Writer::of_folder("qwen3", &bundled(), dtype).write(&path);
    (folder, path)
}

#[test]
fn the_bundled_model_says_the_same_in_8_bits() {
    let (_folder, path) = quantized(GgmlDType::Q8_0);
    let [a, b] = [path, bundled()].map(|path| trace(&path, PROMPT).unwrap());
    assert_eq!(a.tokens().unwrap(), b.tokens().unwrap());
    assert_eq!(a.text(), b.text());
    assert_eq!(a.summary().next_token.text, b.summary().next_token.text);
    assert_eq!(a.summary().model.name, "needle");
    assert!(apart(&a.logits().unwrap(), &b.logits().unwrap()) < 0.1);
}

#[test]
fn blocks_of_every_kind_are_read() {
    let plain = trace(&bundled(), PROMPT).unwrap().logits().unwrap();
    for (dtype, tolerance) in [
        (GgmlDType::BF16, 1e-3),
        (GgmlDType::Q6K, 0.1),
        (GgmlDType::Q5_0, 0.3),
        (GgmlDType::Q4K, 0.5),
        (GgmlDType::Q4_0, 0.6),
    ] {
        let (_folder, path) = quantized(dtype);
        let logits = trace(&path, PROMPT).unwrap().logits().unwrap();
        assert!(apart(&logits, &plain) < tolerance, "{dtype:?}: {}", apart(&logits, &plain));
    }
}

/// The file's end-of-text token ends the text that the model writes.
#[test]
fn the_end_of_text_is_the_files() {
    let (folder, path) = quantized(GgmlDType::Q8_0);
    let first = trace(&path, PROMPT).unwrap().summary().next_token.id;
    let mut writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    writer.set("tokenizer.ggml.eos_token_id", Value::U32(first));
    let ended = folder.path().join("ended.gguf");
    writer.write(&ended);
    let generated = common::load(&ended).unwrap().generate_with(PROMPT, &Default::default()).unwrap();
    assert!(generated.tokens.is_empty(), "{:?}", generated.text);
}

/// Returns the token ids of a text, from a file with this vocabulary.
fn ids(changes: &[(&str, Value)], text: &str) -> Vec<u32> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    changes.iter().for_each(|(key, value)| writer.set(key, value.clone()));
    writer.write(&path);
    trace(&path, text).unwrap().tokens().unwrap()
}

fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| Value::String(text.to_string())).collect())
}

#[test]
fn patterns_cut_words_as_their_models_do() {
    let tokens = ["1", "2", "3", "4", "a", "B", "12", "123", "1234", "aB"];
    // How many digits form one token, and whether a capital letter starts a word.
    for (pre, digits, text) in [
        ("llama-bpe", vec![7, 3], vec![9]),
        ("qwen2", vec![0, 1, 2, 3], vec![9]),
        ("gpt-4o", vec![7, 3], vec![4, 5]),
        ("tekken", vec![0, 1, 2, 3], vec![4, 5]),
        ("gpt-2", vec![8], vec![9]),
        ("smollm", vec![0, 1, 2, 3], vec![9]),
    ] {
        let vocabulary = [
            ("tokenizer.ggml.pre", Value::String(pre.into())),
            ("tokenizer.ggml.tokens", texts(&tokens)),
            ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 10])),
            ("tokenizer.ggml.merges", texts(&["1 2", "12 3", "123 4", "a B"])),
        ];
        assert_eq!((ids(&vocabulary, "1234"), ids(&vocabulary, "aB")), (digits, text), "{pre}");
    }
}

#[test]
fn pieces_are_put_together_by_their_scores() {
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let pieces = ["▁", "a", "b", "c", "ab", "bc", "▁a", "abc", "▁abc"];
    let scores = [-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0, -5.0];
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"]
        .map(String::from)
        .into_iter()
        .chain(bytes)
        .chain(pieces.map(String::from))
        .collect();
    let kinds = [2, 3, 3].into_iter().chain([6; 256]).chain([1; 9]);
    let id = |piece: &str| tokens.iter().position(|token| token == piece).unwrap() as u32;
    let vocabulary = |spaced: bool| {
        vec![
            ("tokenizer.ggml.model", Value::String("llama".into())),
            ("tokenizer.ggml.tokens", Value::Array(tokens.iter().cloned().map(Value::String).collect())),
            ("tokenizer.ggml.token_type", Value::Array(kinds.clone().map(Value::I32).collect())),
            (
                "tokenizer.ggml.scores",
                Value::Array([0.0; 259].into_iter().chain(scores).map(Value::F32).collect()),
            ),
            ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.add_space_prefix", Value::Bool(spaced)),
        ]
    };
    let start = 1;
    // "bc" has the best score, so that "abc" is made of "a" and "bc", and "▁abc" of "▁" and "abc".
    assert_eq!(ids(&vocabulary(true), "abc"), [start, id("▁abc")]);
    assert_eq!(ids(&vocabulary(false), "abc"), [start, id("abc")]);
    assert_eq!(ids(&vocabulary(true), "ab abd"), [start, id("▁"), id("ab"), id("▁"), id("ab"), id("<0x64>")]);
    assert_eq!(ids(&vocabulary(false), "é</s>c"), [start, id("<0xC3>"), id("<0xA9>"), id("</s>"), id("c")]);
    let mut silent = vocabulary(false);
    silent.push(("tokenizer.ggml.add_bos_token", Value::Bool(false)));
    assert_eq!(ids(&silent, "abc"), [id("abc")]);
}

/// Decoders drop the space before a text, but not the one before a word.
#[test]
fn pieces_keep_their_spaces() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    writer.set("tokenizer.ggml.model", Value::String("llama".into()));
    writer.set("tokenizer.ggml.tokens", texts(&["<unk>", "▁", "▁the", "re", "<0xC3>"]));
    writer.set("tokenizer.ggml.token_type", Value::Array([2, 1, 1, 1, 6].map(Value::I32).into()));
    writer.write(&path);
    let tokenizer = Gguf::open(&path).unwrap().tokenizer(5).unwrap();
    assert_eq!([1, 2, 3, 4].map(|id| tokenizer.text(id)), [" ", " the", "re", "\u{fffd}"]);
    assert_eq!(tokenizer.continuation(2, &[3, 1, 2]), "re  the");
}

#[track_caller]
fn assert_refused(path: &Path, words: &[&str]) {
    let error = common::load(path).err().expect("an error").to_string();
    words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in: {error}"));
}

#[test]
fn a_tokenizer_beside_the_file_serves_where_its_own_is_not_known() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    writer.set("tokenizer.ggml.pre", Value::String("newer".into()));
    writer.write(&path);
    fs::copy(bundled().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let count = |path: &Path| -> usize {
        Tracer::load_with(common::cpu(path)).unwrap().count_tokens(PROMPT).unwrap()
    };
    assert_eq!(count(&path), count(&bundled()));
}

/// A map of a file that is cut off under it ends the process, so a run does not start on one.
#[test]
fn a_file_that_has_been_written_since_is_loaded_again() {
    let (_folder, path) = quantized(GgmlDType::Q8_0);
    let tracer = common::load(&path).unwrap();
    let trace = tracer.trace(PROMPT).unwrap();
    let seconds = trace.summary().seconds;
    assert_eq!(seconds.load_parts.map(|parts| parts.total()), Some(seconds.load));
    fs::File::options().append(true).open(&path).and_then(|mut file| file.write_all(b"more")).unwrap();
    let error = tracer.trace(PROMPT).err().expect("an error").to_string();
    for word in ["needle.gguf", "written since", "load the model again"] {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    let again = common::load(&path).unwrap();
    assert_eq!(again.trace(PROMPT).unwrap().logits(), trace.logits());
    fs::remove_file(&path).unwrap();
    assert_eq!(again.trace(PROMPT).unwrap().logits(), trace.logits());
}

/// Ollama names its files by a hash; a folder may hold one file alone.
#[test]
fn a_file_is_known_by_its_first_bytes_and_found_in_its_folder() {
    let (folder, path) = quantized(GgmlDType::Q8_0);
    let name = |path: &Path| common::load(path).unwrap().model().name.clone();
    assert_eq!(name(folder.path()), "needle");
    let blob = folder.path().join("sha256-6a0746a1ec1a");
    let mut writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    writer.set("general.name", Value::String("Needle 6M".into()));
    writer.write(&blob);
    assert_eq!(name(&blob), "Needle 6M");
    // It is the same model as its folder, with other numbers.
    let trace = trace(&bundled(), PROMPT).unwrap();
    common::load(&path).unwrap().compare(&trace).unwrap();
}

#[test]
fn a_model_in_parts_opens_from_any_of_them() {
    let folder = TempDir::new().unwrap();
    let writer = Writer::of_folder("qwen3", &bundled(), GgmlDType::Q8_0);
    let whole = folder.path().join("whole.gguf");
    writer.write(&whole);
    let expected = trace(&whole, PROMPT).unwrap();
    fs::remove_file(&whole).unwrap();
    let parts = writer.write_parts(folder.path(), "needle");
    // A folder with one model in parts means that model.
    for path in parts.iter().map(PathBuf::as_path).chain([folder.path()]) {
        let trace = trace(path, PROMPT).unwrap();
        assert_eq!(trace.logits().unwrap(), expected.logits().unwrap(), "{}", path.display());
        let (model, whole) = (&trace.summary().model, &expected.summary().model);
        assert_eq!((&model.name[..], &model.fingerprint), ("needle", &whole.fingerprint));
        assert_eq!(model.n_parameters, whole.n_parameters);
    }
}
