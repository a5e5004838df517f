//! `tokenizer.json`, and a text that it tokenizes.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use streamtrace::engine::model::tokenizer::Tokenizer;
use streamtrace_fuzz::{let_panics_be_caught, limited};

/// Memory of the patterns that cut a text into words.
const PATTERNS: usize = 256 << 20;

fuzz_target!(init: let_panics_be_caught(), |bytes: &[u8]| {
    limited(bytes.len(), PATTERNS, || {
        let Ok(tokenizer) = Tokenizer::parse(bytes, Path::new("tokenizer.json"), 1000) else { return };
        for text in ["Hello, wörld 12", " ", "\u{2581}a\u{0}😀"] {
            if let Ok(encoding) = tokenizer.encode(text) {
                assert_eq!(encoding.ids.len(), encoding.offsets.len());
                assert!(encoding.offsets.iter().all(|&(start, end)| start <= end && end <= text.len()));
            }
        }
        (0..3).for_each(|id| drop(tokenizer.text(id)));
    });
});
