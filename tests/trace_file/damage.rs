//! Damaged, foreign and hostile files give an error that says what is wrong, never a panic.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use streamtrace::{Budget, error::Error, trace::Trace};

use crate::sample::{Size, small};

/// A trace file in memory, to be tampered with.
#[derive(Clone)]
struct Bytes {
    header: Value,
    data: Vec<u8>,
}

impl Bytes {
    fn of(size: Size) -> Self {
        let whole = whole(size);
        let n_header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        Bytes {
            header: serde_json::from_slice(&whole[8..8 + n_header]).unwrap(),
            data: whole[8 + n_header..].to_vec(),
        }
    }

    fn written(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        [(header.len() as u64).to_le_bytes().as_slice(), &header, &self.data].concat()
    }

    fn note(mut self, name: &str, value: &str) -> Self {
        self.header["__metadata__"][name] = value.into();
        self
    }

    /// Changes the summary: `path` as in "/config/top_k".
    fn summary(self, path: &str, value: Value) -> Self {
        let mut summary: Value =
            serde_json::from_str(self.header["__metadata__"]["summary"].as_str().unwrap()).unwrap();
        *summary.pointer_mut(path).unwrap() = value;
        let summary = summary.to_string();
        self.note("summary", &summary)
    }

    /// Overwrites elements of a tensor of 16-bit numbers.
    fn u16s(mut self, tensor: &str, at: usize, values: &[u16]) -> Self {
        let start = self.header[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 2 * at;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.data[start..start + bytes.len()].copy_from_slice(&bytes);
        self
    }

    fn rename(mut self, tensor: &str, to: &str) -> Self {
        let info = self.header.as_object_mut().unwrap().remove(tensor).unwrap();
        self.header[to] = info;
        self
    }
}

fn whole(size: Size) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    size.sample().trace.save(&path).unwrap();
    fs::read(path).unwrap()
}

fn open(bytes: &[u8]) -> Result<Trace, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Trace::open(file.path())
}

/// Returns the message of the error that a file must give.
fn refused(bytes: &[u8]) -> String {
    refusal(open(bytes))
}

fn refusal(opened: Result<Trace, Error>) -> String {
    match opened {
        Err(error @ Error::Trace { .. }) => error.to_string(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("opened"),
    }
}

/// Asks a trace for everything; the tests look for panics, errors are fine.
fn read_all(trace: &Trace) {
    let (n_tokens, focus) = (trace.n_tokens(), trace.summary().focus);
    let _ = (trace.tokens(), trace.logits(), trace.output(), trace.find("n"), trace.find("😀 né"));
    for i in 0..=n_tokens.min(64) {
        let _ = (trace.span_text(i..n_tokens), trace.span_text(0..i));
    }
    for layer in 0..trace.n_layers().min(8) {
        let _ = (trace.blocks(layer), trace.mask(layer).map(|mask| mask.kept_pairs()));
        for head in 0..trace.n_heads().min(8) {
            if let Ok(head) = trace.head(layer, head) {
                (0..head.blocks.n_query_blocks()).for_each(|q| drop(head.row(q).collect::<Vec<_>>()));
            }
            focus
                .range()
                .chain([0, n_tokens])
                .for_each(|token| drop(trace.attention_row(layer, head, token)));
        }
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = whole(small().windows(&[None, Some(5)]));
    assert!(open(&whole).is_ok());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &whole).unwrap();
    for end in (0..whole.len()).rev() {
        file.as_file().set_len(end as u64).unwrap();
        let message = refusal(Trace::open(file.path()));
        assert!(
            message.contains("expected a whole safetensors file")
                && message.contains(&format!("{end} bytes")),
            "{message}"
        );
    }
    assert!(refused(&[whole.as_slice(), b"x"].concat()).contains("another kind of file"));
}

#[test]
fn files_that_are_no_traces_are_refused() {
    let bytes = Bytes::of(small().windows(&[None]));
    assert!(open(&bytes.written()).is_ok());
    assert!(
        refused(b"A special magic number is hidden within the following text.")
            .contains("another kind of file")
    );
    assert!(
        refused(&bytes.clone().note("format", "pt").written())
            .contains("expected a file written by streamtrace")
    );
    let mut foreign = bytes.clone();
    foreign.header.as_object_mut().unwrap().remove("__metadata__");
    assert!(refused(&foreign.written()).contains("another safetensors file"));
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path(), &folder.path().join("none.trace")] {
        let error = Trace::open(path).err().unwrap();
        assert!(
            matches!(error, Error::File { .. }) && error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn a_newer_version_asks_for_an_update() {
    let bytes = Bytes::of(small().windows(&[None]));
    let newer = refused(&bytes.clone().note("version", "4").written());
    assert!(
        newer.contains("expected format version 3 or older, found version 4; update streamtrace"),
        "{newer}"
    );
    for version in ["", "0", "-1", "1.0", "99999999999"] {
        assert!(
            refused(&bytes.clone().note("version", version).written()).contains("expected a format version")
        );
    }
    let mut without = bytes;
    without.header["__metadata__"].as_object_mut().unwrap().remove("version");
    assert!(refused(&without.written()).contains("found none"));
}

/// A figure of no layers would divide by their number.
#[test]
fn a_trace_of_no_layers_is_refused() {
    let bytes = Bytes::of(small().windows(&[None, Some(5)]));
    assert!(open(&bytes.clone().note("layers", "[1]").written()).is_ok());
    for layers in ["[]", "[2]", "[1, 0]", "[0, 0]", "[-1]", "all"] {
        assert!(
            refused(&bytes.clone().note("layers", layers).written())
                .contains("expected a list of its layers"),
            "{layers}"
        );
    }
}

/// Version 1 lacks some tensors; asking for them is an error.
#[test]
fn an_older_trace_is_read_without_what_it_lacks() {
    let mut bytes = Bytes::of(small().windows(&[None])).note("version", "1");
    let new = ["sentences", "layers.0.written", "layers.0.residual", "layers.0.vertical"];
    for tensor in new {
        bytes = bytes.rename(tensor, &format!("other.{tensor}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    std::fs::write(&path, bytes.written()).unwrap();
    let trace = Trace::open(&path).unwrap();
    assert!(trace.head(0, 0).is_ok() && trace.sentences().is_ok());
    for error in [trace.routes(0..2, trace.output()).unwrap_err(), trace.vertical(0, 0).unwrap_err()] {
        assert!(error.to_string().contains("found version 1; trace the prompt again"), "{error}");
    }
}

/// Before version 3 all heads had the summary's budget, and rows stood in arrays of three dimensions.
#[test]
fn a_trace_without_budgets_by_head_is_read() {
    let sample = Size { n_heads: 1, ..small() }.windows(&[None]);
    let now = sample.sample().trace;
    let mut bytes = Bytes::of(sample).note("version", "2");
    for tensor in ["layers.0.top_k", "layers.0.recall"] {
        bytes = bytes.rename(tensor, &format!("other.{tensor}"));
    }
    for (tensor, shape) in
        [("mass", [1, 3, 5]), ("kept", [1, 3, 5]), ("proximity", [1, 3, 5]), ("focus", [1, 4, 10])]
    {
        bytes.header[format!("layers.0.{tensor}")]["shape"] = json!(shape);
    }
    let bytes = bytes.rename("layers.0.on_sink", "other.on_sink").summary("/on_sinks", json!(null));
    let trace = open(&bytes.summary("/recall", json!(null)).written()).unwrap();
    assert_eq!(trace.on_sink(0), Ok(None));
    assert_eq!((trace.head(0, 0), trace.mask(0)), (now.head(0, 0), now.mask(0)));
    assert_eq!(trace.attention_row(0, 0, 14), now.attention_row(0, 0, 14));
    assert_eq!((trace.recall(0), trace.summary().recall), (Ok(None), None));
    assert_eq!(trace.summary().config.budget, Budget::Uniform);
}

#[test]
fn tensors_that_do_not_fit_the_summary_are_refused() {
    let bytes = Bytes::of(small().windows(&[None, Some(5)]));
    for tensor in [
        "tokens",
        "offsets",
        "text",
        "logits",
        "layers.0.received",
        "layers.1.mass",
        "layers.1.kept",
        "layers.1.recall",
        "layers.0.on_sink",
        "layers.0.focus",
        "layers.1.written",
        "layers.1.proximity",
        "layers.0.residual",
        "layers.0.vertical",
    ] {
        let message = refused(&bytes.clone().rename(tensor, "other").written());
        assert!(message.contains(&format!("no tensor {tensor}")), "{message}");
    }
    let mut wrong = bytes.clone();
    wrong.header["layers.1.mass"]["dtype"] = "BF16".into();
    assert!(refused(&wrong.written()).contains("layers.1.mass of BF16"));
    let mut wrong = bytes.clone();
    wrong.header["layers.1.kept"]["shape"] = json!([6, 9]);
    assert!(refused(&wrong.written()).contains("layers.1.kept of U16 [6, 9]"));
    let mut wrong = bytes.clone();
    wrong.header["layers.1.experts"]["shape"] = json!([2, 23]);
    assert!(refused(&wrong.written()).contains("layers.1.experts of U16 [2, 23]"));
    let mut wrong = bytes.clone();
    let text = wrong.header["text"]["data_offsets"][0].as_u64().unwrap() as usize;
    wrong.data[text] = 0xff;
    assert!(refused(&wrong.written()).contains("not UTF-8"));
}

#[test]
fn summaries_with_impossible_sizes_are_refused() {
    let bytes = Bytes::of(small().windows(&[None, Some(5)]));
    let sizes = [
        "/n_tokens",
        "/model/n_layers",
        "/model/n_heads",
        "/model/vocab_size",
        "/config/block_size_q",
        "/config/block_size_k",
    ];
    for path in sizes {
        for value in [0, 1, 4, 24, 1 << 31, 1 << 33, u64::MAX / 2, u64::MAX] {
            refused(&bytes.clone().summary(path, json!(value)).written());
        }
    }
    for value in [0, 1 << 33, u64::MAX] {
        refused(&bytes.clone().summary("/config/top_k", json!(value)).written());
    }
    for (start, end) in [(9, 3), (0, 24), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        refused(&bytes.clone().summary("/focus", json!({"start": start, "end": end})).written());
    }
    for windows in [json!([]), json!([null]), json!([0, null]), json!([null, null, null])] {
        refused(&bytes.clone().summary("/model/windows", windows).written());
    }
    let without_focus = Bytes::of(Size { focus: 4..4, ..small() }.windows(&[None]));
    refused(&without_focus.clone().summary("/config/block_size_k", json!(u64::MAX)).written());
    for summary in ["", "{}", "null", "{\"n_tokens\": -1}"] {
        assert!(
            refused(&bytes.clone().note("summary", summary).written())
                .contains("expected a readable summary")
        );
    }
}

#[test]
fn kept_blocks_that_cannot_be_are_refused() {
    // Rows of 5 slots; block 0 sees key blocks 0 to 3, block 2 sees 0 to 11.
    let bytes = Bytes::of(small().windows(&[None, Some(5)]));
    let wrong: [(usize, &[u16]); 6] =
        [(10, &[12]), (14, &[65_534]), (12, &[65_535]), (10, &[9, 8]), (10, &[8, 8]), (0, &[0, 1, 2, 5])];
    for (at, values) in wrong {
        let trace = open(&bytes.clone().u16s("layers.0.kept", at, values).written()).unwrap();
        let expected = format!("in ascending order in head 0, query block {} of layers.0.kept", at / 5);
        for error in [trace.head(0, 0).unwrap_err(), trace.mask(0).unwrap_err()] {
            assert!(error.to_string().contains(&expected), "{at} {values:?} {error}");
        }
        assert!(trace.head(0, 1).is_ok() && trace.mask(1).is_ok());
        read_all(&trace);
    }
    let in_focus = open(&bytes.clone().u16s("layers.0.kept", 5, &[9]).written()).unwrap();
    assert!(matches!(in_focus.attention_row(0, 0, 14), Err(Error::Trace { .. })));
    let windowed = open(&bytes.u16s("layers.1.kept", 10, &[0]).written()).unwrap();
    assert!(windowed.mask(1).unwrap_err().to_string().contains("head 0, query block 2 of layers.1.kept"));
}

#[test]
fn wild_offsets_are_clipped_to_the_text() {
    let mut bytes = Bytes::of(small().windows(&[None]));
    let [start, end] = [0, 1].map(|i| bytes.header["offsets"]["data_offsets"][i].as_u64().unwrap() as usize);
    for fill in [0xff, 0x00, 0x2e] {
        bytes.data[start..end].fill(fill);
        read_all(&open(&bytes.written()).unwrap());
    }
}

/// If another program truncates an open trace, only reading the missing part fails.
#[test]
fn a_file_cut_off_while_it_is_open_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["a.trace", "b.trace"].map(|name| folder.path().join(name));
    fs::write(&path, whole(small().windows(&[None, Some(5)]))).unwrap();
    fs::write(&other, "what was there").unwrap();
    let trace = Trace::open(&path).unwrap();
    let text = trace.text().to_string();
    for n_bytes in (0..fs::metadata(&path).unwrap().len()).rev().step_by(50) {
        fs::File::options().write(true).open(&path).unwrap().set_len(n_bytes).unwrap();
        read_all(&trace);
        let _ = (trace.overview(), trace.explore());
        assert_eq!(trace.text(), text);
        let error = trace.save(&other).unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("a.trace was cut off"), "{error}");
    }
    assert!(refusal(trace.head(0, 0).map(|_| trace.clone())).contains("one that was cut off since"));
    assert_eq!(fs::read(&other).unwrap(), b"what was there");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..Default::default() })]

    #[test]
    fn any_changed_bytes_give_an_error_or_a_readable_trace(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| whole(small().windows(&[None, Some(5)])));
        let mut bytes = WHOLE.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(trace) = open(&bytes) {
            read_all(&trace);
        }
    }
}
