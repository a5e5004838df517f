//! Trace after trace in one engine.

use std::collections::HashMap;

use streamtrace::{StreamConfig, Trace};

use crate::{common, fixture::Engines};

const LENGTHS: [usize; 5] = [1, 77, 640, 1500, 2048];

/// Kilobytes of memory that a process holds, files not counted.
fn kilobytes(pid: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[track_caller]
fn assert_same(a: &Trace, b: &Trace) {
    assert_eq!(a.logits(), b.logits());
    for layer in 0..a.n_layers() {
        assert_eq!(a.residual(layer), b.residual(layer));
        for head in 0..a.n_heads() {
            assert_eq!(a.head(layer, head), b.head(layer, head), "{layer} {head}");
            assert_eq!(a.vertical(layer, head), b.vertical(layer, head), "{layer} {head}");
        }
    }
}

/// A trace of 2,048 tokens records about 3 MB, and works on more.
#[test]
fn traces_leave_no_memory_behind_and_are_the_same_again() {
    let engines = Engines::new();
    let config = StreamConfig { top_k: 24, beam: 8, ..StreamConfig::default() };
    let tracer = engines.load().with(config);
    let mut first = HashMap::new();
    let mut round = || {
        for n_tokens in LENGTHS {
            let trace = tracer.trace(&common::prompt(n_tokens)).unwrap();
            assert_same(&trace, first.entry(n_tokens).or_insert_with(|| trace.clone()));
        }
        kilobytes(&engines.pids()[0])
    };
    let held = [(); 4].map(|()| round());
    assert!(held[3] < held[1] + 2000, "kB after each round of five: {held:?}");
}
