//! Headers: of every version, and those that lie.

use crate::raw::{Raw, assert_refused, numbers, open};

fn plain() -> Raw {
    let data = [1.0f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    Raw::of(0, &[2], data)
}

#[test]
fn versions_differ_in_their_lengths() {
    for version in 1..=3 {
        let mut raw = plain();
        raw.version = version;
        raw.metadata[0].2 = raw.text("llama");
        assert_eq!(numbers(&raw.bytes()), [1.0, -2.0], "version {version}");
    }
    let mut newer = plain();
    newer.version = 4;
    assert_refused(&newer.bytes(), &["a GGUF file of version 1, 2 or 3", "version 4"]);
    newer.version = 3u32.swap_bytes();
    assert_refused(&newer.bytes(), &["a little-endian GGUF file", "a big-endian one", "gguf_convert_endian"]);
}

#[test]
fn values_of_every_type_are_read_or_skipped() {
    let list = |kind: u32, n: u64, items: Vec<u8>| {
        [kind.to_le_bytes().to_vec(), n.to_le_bytes().into(), items].concat()
    };
    let mut raw = plain();
    for (kind, n_bytes) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        raw = raw.with(&format!("one.{kind}"), kind, vec![1; n_bytes]);
        raw = raw.with(&format!("list.{kind}"), 9, list(kind, 3, vec![1; 3 * n_bytes]));
    }
    let texts = [raw.text("a"), raw.text(""), raw.text("bc")].concat();
    let lists = [list(8, 3, texts.clone()), list(8, 0, Vec::new())].concat();
    let raw = raw.with("texts", 9, list(8, 3, texts)).with("lists", 9, list(9, 2, lists));
    // The number of the token behind them all is found.
    let raw = raw.with("tokenizer.ggml.eos_token_id", 4, 7u32.to_le_bytes().into());
    let (_folder, gguf) = open(&raw.bytes()).unwrap();
    assert_eq!(gguf.end_of_text(), [7]);
    assert_eq!(numbers(&raw.bytes()), [1.0, -2.0]);
}

#[test]
fn the_first_tensor_is_aligned_as_the_file_says() {
    for alignment in [8u32, 64, 4096] {
        let raw = plain().with("general.alignment", 4, alignment.to_le_bytes().into());
        let mut bytes = raw.header();
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
        assert_eq!(numbers(&[bytes, raw.data].concat()), [1.0, -2.0], "{alignment}");
    }
    for alignment in [0u32, 3, 33, u32::MAX] {
        let raw = plain().with("general.alignment", 4, alignment.to_le_bytes().into());
        assert_refused(&raw.bytes(), &["a whole GGUF file", &format!("general.alignment {alignment}")]);
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let cut_off = "header reaches past its end";
    for n in [1 << 20, 1 << 40, u64::MAX] {
        let n = n.to_le_bytes().to_vec();
        let list =
            |kind: u32| plain().with("list", 9, [kind.to_le_bytes().into(), n.clone()].concat()).bytes();
        for kind in [0, 3, 6, 8, 12] {
            assert_refused(&list(kind), &["raw.gguf", cut_off, "\"list\"", "download it again"]);
        }
        assert_refused(&list(9), &["a whole GGUF file", "\"list\""]);
        assert_refused(&plain().with("text", 8, n.clone()).bytes(), &[cut_off, "\"text\""]);
        // The counts of tensors and of metadata.
        for at in [8, 16] {
            let mut bytes = plain().bytes();
            bytes[at..at + 8].copy_from_slice(&n);
            assert_refused(&bytes, &["a whole GGUF file"]);
        }
    }
    assert_refused(&Raw::of(0, &[1; 5], vec![0; 8]).bytes(), &["5 dimensions", "output_norm.weight"]);
    assert_refused(&plain().with("new", 13, vec![0; 8]).bytes(), &["type 13, which is not known", "\"new\""]);
}

/// A list of a list of a list …, each of one item.
#[test]
fn lists_in_lists_end() {
    let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().into()].concat();
    assert_refused(&plain().with("deep", 9, nested.repeat(100_000)).bytes(), &["lists in lists", "\"deep\""]);
}

/// Any eight bytes of a header may be anything: the file is refused, or opens.
#[test]
fn no_bytes_of_a_header_make_it_panic() {
    let list = [8u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().into(), plain().text("a")].concat();
    let raw = plain().with("list", 9, list).with("general.alignment", 4, 32u32.to_le_bytes().into());
    let (header, whole) = (raw.header().len(), raw.bytes());
    let mut n_refused = 0;
    for at in 0..header - 8 {
        for value in [0, 1, 255, 1 << 33, 1 << 63, u64::MAX] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            n_refused += usize::from(open(&bytes).is_err());
        }
    }
    assert!(n_refused > header, "{n_refused}");
}

#[test]
fn formats_that_are_not_read_are_named() {
    for (kind, name) in [(19, "IQ1_S"), (16, "IQ2_XXS"), (35, "TQ2_0"), (40, "NVFP4"), (77, "type 77")] {
        let words = [name, "output_norm.weight as F32, F16, Q4_0", "IQ4_XS, BF16, MXFP4", "choose a file"];
        assert_refused(&Raw::of(kind, &[256], vec![0; 512]).bytes(), &words);
    }
}
