//! Blocks that candle does not read, against what llama.cpp's own Python package reads from them (blocks.py).

use serde::Deserialize;

use crate::raw::{Raw, numbers};

#[derive(Deserialize)]
struct Golden {
    format: String,
    r#type: u32,
    /// Bytes in hexadecimal digits.
    blocks: String,
    /// The bytes of f32 in hexadecimal digits.
    numbers: String,
}

fn bytes(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(digit).collect()
}

#[test]
fn blocks_have_the_numbers_that_llama_cpp_reads() {
    let all: Vec<Golden> = serde_json::from_str(include_str!("blocks.json")).unwrap();
    assert_eq!(all.len(), 3);
    for golden in all {
        let expected: Vec<f32> =
            bytes(&golden.numbers).as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect();
        let raw = Raw::of(golden.r#type, &[expected.len() as u64], bytes(&golden.blocks));
        assert_eq!(numbers(&raw.bytes()), expected, "{}", golden.format);
    }
}
