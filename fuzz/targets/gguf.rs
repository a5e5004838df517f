//! A GGUF file: its metadata as configuration, tokenizer and chat template, and its tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use streamtrace::engine::model::gguf::Gguf;
use streamtrace_fuzz::{file, let_panics_be_caught, limited};

/// Memory of the patterns that cut a text into words.
const PATTERNS: usize = 256 << 20;

/// Whether to make a tokenizer of these bytes. Its patterns take as long as reading them a hundred times, so it is done for one
/// input in 256, always the same ones.
fn is_drawn(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

fuzz_target!(init: let_panics_be_caught(), |bytes: &[u8]| {
    let path = file("a.gguf", bytes);
    limited(bytes.len(), PATTERNS, || {
        let Ok(gguf) = Gguf::open(&path) else { return };
        let (_, _, _, _) = (gguf.config(), gguf.chat(), gguf.end_of_text(), gguf.n_parameters());
        if is_drawn(bytes)
            && let Ok(tokenizer) = gguf.tokenizer(1000)
        {
            let _ = tokenizer.encode("a text, 123");
        }
        for name in ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"] {
            if let Ok(Some(weight)) = gguf.get(name) {
                let _ = weight.read();
            }
        }
    });
});
