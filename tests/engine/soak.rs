//! Many traces in one engine.

use std::collections::HashMap;

use streamtrace::{StreamConfig, Trace};
use tempfile::TempDir;

use crate::{common, fixture::Engines};

const LENGTHS: [usize; 5] = [1, 77, 640, 1500, 2048];
const ROUNDS: usize = 12;

/// Returns the kilobytes of memory that a process holds, without mapped files.
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

/// Records go to disk; if they stayed in memory, the process would hold eight rounds' traces more in the last
/// four rounds than in the first four. The allocator keeps now more, now less, by up to three rounds' traces.
#[test]
fn traces_leave_no_memory_behind_and_are_the_same_again() {
    let (engines, folder) = (Engines::new(), TempDir::new().unwrap());
    let tracer = engines.load();
    let mut first = HashMap::new();
    let mut round = || {
        for n_tokens in LENGTHS {
            let focus = Some(n_tokens.saturating_sub(200)..n_tokens);
            let tracer = tracer.with(StreamConfig { top_k: 24, beam: 8, focus, ..StreamConfig::default() });
            let trace = tracer.trace(&common::prompt(n_tokens)).unwrap();
            assert_same(&trace, first.entry(n_tokens).or_insert_with(|| trace.clone()));
        }
        kilobytes(&engines.pids()[0])
    };
    let held = [(); ROUNDS].map(|()| round());
    let size = |trace: &Trace| {
        let file = folder.path().join("a.trace");
        trace.save(&file).unwrap();
        std::fs::metadata(file).unwrap().len() as usize / 1000
    };
    let of_a_round: usize = first.values().map(size).sum();
    let [before, after] = [&held[..4], &held[ROUNDS - 4..]].map(|held| held.iter().min().unwrap());
    assert!(
        *after < before + 5 * of_a_round,
        "kB held after each round: {held:?}; its traces: {of_a_round} kB"
    );
}
