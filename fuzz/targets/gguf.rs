//! A GGUF file: its metadata as configuration, tokenizer and chat template, and its tensors.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use streamtrace::engine::model::{gguf::Gguf, tokenizer::Tokenizer};
use streamtrace_fuzz::{file, let_panics_be_caught, limited};

/// Memory of the patterns that cut a text into words.
const PATTERNS: usize = 256 << 20;

/// Whether to make a tokenizer of these bytes. That takes as long as reading them a hundred times, so it is done for one input
/// in 256, always the same ones.
fn is_drawn(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

fuzz_target!(init: let_panics_be_caught(), |bytes: &[u8]| {
    let path = file("a.gguf", bytes);
    limited(bytes.len(), PATTERNS, || {
        let Ok(gguf) = Gguf::open(&path) else { return };
        let (_, _, _, _) = (gguf.config(), gguf.chat(), gguf.end_of_text(), gguf.n_parameters());
        if let Ok(json) = gguf.tokenizer()
            && is_drawn(bytes)
        {
            let _ = Tokenizer::parse(json.to_string().as_bytes(), Path::new("a.gguf"), 1000);
        }
        for name in ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"] {
            if let Ok(Some(weight)) = gguf.get(name) {
                let _ = weight.read();
            }
        }
    });
});
