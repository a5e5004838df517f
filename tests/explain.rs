//! Anchors, routes and interventions against their definitions, on small models with random weights.
#![cfg(feature = "engine")]

#[path = "explain/anchors.rs"]
mod anchors;
#[path = "explain/chains.rs"]
mod chains;
mod common;
#[path = "explain/interventions.rs"]
mod interventions;
#[path = "explain/routes.rs"]
mod routes;

use serde_json::json;
use streamtrace::{Search, StreamConfig, Trace, Tracer};

/// Returns settings with small blocks and exact search that record the rows of all tokens.
fn config(top_k: usize, n_tokens: usize) -> StreamConfig {
    StreamConfig {
        block_size_q: 8,
        block_size_k: 4,
        top_k,
        sink_blocks: 1,
        local_blocks: 3,
        search: Search::Exhaustive,
        focus: Some(0..n_tokens),
        proximity: true,
        ..StreamConfig::default()
    }
}

fn tracer() -> Tracer {
    common::load(common::random_model(json!({ "model_type": "qwen3", "num_hidden_layers": 3 })).path())
        .unwrap()
}

/// Returns random words in sentences of three to eleven.
fn text(n_sentences: usize) -> (String, usize) {
    let mut random = fastrand::Rng::with_seed(3);
    let sentence = |_| {
        let words: Vec<String> =
            (0..random.usize(3..11)).map(|_| format!("w{}", random.usize(..20))).collect();
        words.join(" ")
    };
    let sentences: Vec<String> = (0..n_sentences).map(sentence).collect();
    // This tokenizer splits at white space; a punctuation mark is a token of its own.
    let text = sentences.join(" . ") + " .";
    let n_tokens = text.split_whitespace().count();
    (text, n_tokens)
}

/// Returns a trace of sentences that keeps `top_k` blocks in each row.
fn trace(tracer: &Tracer, n_sentences: usize, top_k: usize) -> Trace {
    let (text, n_tokens) = text(n_sentences);
    tracer.with(config(top_k, n_tokens)).trace(&text).unwrap()
}
