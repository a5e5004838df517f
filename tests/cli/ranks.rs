//! One prompt on several ranks, processes on the CPU: the same trace as of one, and what is said when one fails.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use streamtrace::Trace;
use tempfile::TempDir;

use crate::{MODEL, NEEDLE, assert_fails, run, stderr};

/// The default search, with a budget for each head, and records for routes by proximity.
const BY_HEAD: [&str; 7] = ["--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4", "--proximity"];
/// Others that search and attend in other ways.
const OTHERS: [&[&str]; 2] = [
    &["--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4", "--exhaustive", "--budget", "uniform"],
    &["--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4", "--exact"],
];

/// Returns an address of this machine that nobody listens at, as launchers give it.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() - 1
}

/// A process as a launcher starts it.
fn rank(rank: usize, n_ranks: usize, port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
    let fixed = ["trace", "--device", "cpu", "--gpus", "ranks", "--model", MODEL, "--prompt", &NEEDLE.text];
    command.args(fixed).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", n_ranks.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("STREAMTRACE_PROGRESS_SECONDS", "0");
    command
}

fn ends(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| Trace::open(path).unwrap());
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
    for &layer in a.layers() {
        let [masks, others] = [&a, &b].map(|trace| trace.mask(layer).unwrap());
        assert!(masks == others, "layer {layer}");
        for head in 0..a.n_heads() {
            let [own, other] = [&a, &b].map(|trace| trace.head(layer, head).unwrap());
            let received = own.received().iter().zip(other.received());
            assert!(
                received.clone().count() == a.n_tokens() && received.into_iter().all(|(a, b)| near(*a, *b))
            );
        }
    }
    let [a, b] = [&a, &b].map(Trace::summary);
    assert_eq!(a.next_token.id, b.next_token.id);
    assert!((a.next_token.logprob - b.next_token.logprob).abs() < 1e-5);
    assert_eq!((a.pruned, &a.config, a.focus), (b.pruned, &b.config, b.focus));
    assert_eq!(a.keys_read_per_query_block, b.keys_read_per_query_block);
    match (&a.recall, &b.recall) {
        (Some(a), Some(b)) => {
            assert!(
                (a.mean - b.mean).abs() < 1e-5 && (a.least_head - b.least_head).abs() < 1e-5,
                "{a:?} {b:?}"
            );
        }
        (a, b) => assert_eq!(a, b),
    }
}

#[test]
fn several_ranks_find_what_one_finds() {
    let folder = TempDir::new().unwrap();
    for (i, settings) in OTHERS.iter().enumerate() {
        let [one, three] = ["one", "three"].map(|name| folder.path().join(format!("{name}{i}.trace")));
        for (out, gpus) in [(&one, "1"), (&three, "3")] {
            run("trace", &[&["--out", out.to_str().unwrap(), "--gpus", gpus], *settings].concat());
        }
        assert_same(&one, &three);
    }
}

#[test]
fn ranks_that_a_launcher_started_find_what_one_finds() {
    let folder = TempDir::new().unwrap();
    let [one, three] = ["one.trace", "three.trace"].map(|name| folder.path().join(name));
    run("trace", &[&["--out", one.to_str().unwrap(), "--gpus", "1"], &BY_HEAD[..]].concat());
    let (port, arguments) = (port(), [&["--out", three.to_str().unwrap()], &BY_HEAD[..]].concat());
    let ranks = [2, 1, 0].map(|i| rank(i, 3, port, &arguments).spawn().unwrap());
    for output in ranks.map(ends) {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    assert_same(&one, &three);
}

#[test]
fn ranks_with_other_settings_are_refused() {
    let port = port();
    let ranks =
        [(0, "12"), (1, "13")].map(|(i, top_k)| rank(i, 2, port, &["--top-k", top_k]).spawn().unwrap());
    for output in ranks.map(ends) {
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("rank 1 was started as") && said.contains("--top-k 13"), "{said}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    for (present, says) in
        [(0, "rank 1 did not come within 1 second"), (1, "the first rank was not found at")]
    {
        let mut command = rank(present, 2, port(), &["--top-k", "12"]);
        let output = command.env("STREAMTRACE_MEETING_SECONDS", "1").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

/// When one rank is killed, the other says so and ends, soon.
#[cfg(unix)]
#[test]
fn a_rank_that_dies_ends_the_others_with_a_sentence() {
    use std::io::{BufRead, BufReader};

    let folder = TempDir::new().unwrap();
    let prompt = folder.path().join("prompt");
    std::fs::write(&prompt, "A prompt that takes its time. ".repeat(300)).unwrap();
    let port = port();
    let [mut first, mut second] = [0, 1].map(|i| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
        command
            .args(["trace", "--device", "cpu", "--gpus", "ranks", "--model", MODEL, "--prompt-file"])
            .arg(&prompt);
        command.env("RANK", i.to_string()).env("WORLD_SIZE", "2").env("MASTER_PORT", port.to_string());
        command.env("STREAMTRACE_PROGRESS_SECONDS", "0").stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("layer 1 of 6")));
    second.kill().unwrap();
    second.wait().unwrap();
    let killed = Instant::now();
    let last = lines.last().unwrap_or_default();
    assert_eq!(first.wait().unwrap().code(), Some(1));
    assert!(last.contains("rank 1 has ended"), "{last}");
    assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
}

#[test]
fn cards_that_are_not_there_are_named() {
    let arguments = ["trace", "--model", MODEL, "--prompt", "text", "--gpus"];
    assert_fails(&[&arguments[..], &["99"]].concat(), &["gpus", "99"]);
    assert_fails(&[&arguments[..], &["ranks"]].concat(), &["gpus", "RANK"]);
}
