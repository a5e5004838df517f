//! A pretrained model, SmolLM2-135M-Instruct in 4 bits, against other implementations: what they found lies in
//! `tests/real`, beside the programs that asked them. `jupyter/real_model.py` brings the model.
#![cfg(feature = "engine")]

#[path = "real/fidelity.rs"]
mod fidelity;

use std::{
    env, fs,
    io::{Write, stderr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use streamtrace::{DeviceChoice, LoadOptions, Message, StreamConfig, Tracer, engine::model::Model};

/// Returns the model's file, or `None` to skip a test.
fn file() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")))?;
    let file = cache.join("streamtrace/models/smollm2-135m-instruct.gguf");
    if file.exists() {
        return Some(file);
    }
    let why = format!("{} is missing: python3 jupyter/real_model.py brings it", file.display());
    assert_ne!(env::var("STREAMTRACE_REAL_MODEL").as_deref(), Ok("required"), "{why}");
    // Not captured, unlike what println! writes: a test that is left out says so.
    _ = writeln!(stderr(), "skipped: {why}");
    None
}

fn model() -> Option<Model> {
    file().map(|file| Model::open(&file).unwrap())
}

fn tracer() -> Option<Tracer> {
    let options = |model| LoadOptions { model, device: DeviceChoice::Cpu, ..LoadOptions::default() };
    file().map(|file| Tracer::load_with(options(file)).unwrap())
}

/// Reads what another implementation found.
fn expected<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Tokens {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them() {
    let Some(model) = model() else { return };
    let all: Vec<Tokens> = expected("tokens.json");
    assert!(all.len() >= 40);
    for Tokens { text, ids } in all {
        assert_eq!(model.tokenizer.encode(&text).unwrap().ids, ids, "{text:?}");
    }
}

/// Each token's range of bytes starts where the one before ends, but for those that share a character.
#[test]
fn tokens_cover_the_whole_text() {
    let Some(model) = model() else { return };
    for Tokens { text, .. } in expected("tokens.json") {
        let mut end = 0;
        for (start, next) in model.tokenizer.encode(&text).unwrap().offsets {
            let whole = text.is_char_boundary(start) && text.is_char_boundary(next);
            assert!(whole && start <= end && end <= next, "{start}..{next} after {end} in {text:?}");
            end = next;
        }
        assert_eq!(end, text.len(), "{text:?}");
    }
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    prompt: String,
}

#[test]
fn conversations_are_written_as_hugging_face_writes_them() {
    let Some(model) = model() else { return };
    let template = model.chat.unwrap();
    for Chat { messages, prompt } in expected("chats.json") {
        assert_eq!(template.prompt(&messages, &Default::default()).unwrap(), prompt);
    }
}

#[derive(Deserialize)]
struct NextTokens {
    text: String,
    /// Ids and log-probabilities, the most likely first.
    top: Vec<(usize, f64)>,
}

/// With all blocks kept.
#[test]
fn next_tokens_are_as_likely_as_a_plain_forward_pass_finds_them() {
    let Some(tracer) = tracer() else { return };
    let tracer = tracer.with(StreamConfig { top_k: usize::MAX, ..StreamConfig::default() });
    for NextTokens { text, top } in expected("logits.json") {
        let trace = tracer.trace(&text).unwrap();
        assert_eq!(trace.summary().next_token.id as usize, top[0].0, "after {text:?}");
        let found = logprobs(&trace.logits().unwrap());
        for &(id, logprob) in &top {
            assert!((found[id] - logprob).abs() < 1e-3, "{id}: {} for {logprob} after {text:?}", found[id]);
        }
        let larger = (0..found.len()).filter(|id| found[*id] > top[19].1 + 1e-3).count();
        assert!(larger < 20, "no other token is among the {} most likely after {text:?}", top.len());
    }
}

fn logprobs(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
    let sum: f64 = logits.iter().map(|&l| (l as f64 - largest).exp()).sum();
    logits.iter().map(|&l| l as f64 - largest - sum.ln()).collect()
}
