//! `trace`: its output, and the sources of prompts.

use std::io::Write;
use std::process::{Command, Stdio};

use streamtrace::Trace;
use tempfile::TempDir;

use crate::{MODEL, NEEDLE, SUMMARY_FIELDS, fields, object, run, stderr, streamtrace};

#[test]
fn trace_prints_one_json_object_and_its_progress_on_standard_error() {
    let output = run("trace", &["--json", "--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4"]);
    let object = object(&output);
    assert_eq!(fields(&object), SUMMARY_FIELDS);
    assert_eq!(fields(&object["next_token"]), ["id", "logprob", "text"]);
    assert_eq!(fields(&object["seconds"]), ["attention", "load", "load_parts", "search", "total"]);
    assert_eq!((&object["config"]["top_k"], &object["device"]), (&12.into(), &"cpu".into()));
    assert!(
        object["n_tokens"].as_u64().unwrap() > 900
            && (0.5..1.0).contains(&object["pruned"].as_f64().unwrap())
    );
    assert!(object["next_token"]["logprob"].as_f64().unwrap() <= 0.0);
    assert!(object["planned_memory_bytes"].as_u64().unwrap() > 0);
    let progress: Vec<&str> = stderr(&output).lines().collect();
    assert_eq!(progress.len(), 6, "one line for each layer: {progress:?}");
    assert!(
        progress[5].starts_with("trace: layer 6 of 6, ") && progress[5].ends_with(" s left"),
        "{progress:?}"
    );
}

#[test]
fn pruned_chooses_the_budget() {
    let object =
        object(&run("trace", &["--json", "--pruned", "0.8", "--sink-blocks", "1", "--local-blocks", "4"]));
    assert!((0.8..0.82).contains(&object["pruned"].as_f64().unwrap()), "{object}");
}

#[test]
fn two_runs_write_the_same_trace_but_for_time_and_memory() {
    let folder = TempDir::new().unwrap();
    let traces = ["a", "b"].map(|name| {
        let path = folder.path().join(name).display().to_string();
        run("trace", &["--out", &path, "--pruned", "0.8", "--sink-blocks", "1", "--local-blocks", "4"]);
        path
    });
    let data = |path: &String| {
        let bytes = std::fs::read(path).unwrap();
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + n_header..].to_vec()
    };
    assert!(data(&traces[0]) == data(&traces[1]), "tensors differ");
    let [a, b] = traces.map(|path| Trace::open(path).unwrap().summary().clone());
    let mut timeless = b.clone();
    (timeless.seconds, timeless.peak_memory_bytes) = (a.seconds, a.peak_memory_bytes);
    assert_eq!(timeless, a);
}

#[test]
fn prompts_come_from_files_and_standard_input() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, &NEEDLE.text).unwrap();
    let from_file = streamtrace(&[
        "trace",
        "--device",
        "cpu",
        "--model",
        MODEL,
        "--json",
        "--prompt-file",
        file.to_str().unwrap(),
    ]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
    command.args(["trace", "--device", "cpu", "--model", MODEL, "--json", "--prompt-file", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(NEEDLE.text.as_bytes()).unwrap();
    let from_stdin = child.wait_with_output().unwrap();
    assert_eq!(object(&from_stdin)["next_token"], object(&from_file)["next_token"]);
}

#[test]
fn some_layers_are_kept_packed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.trace.gz").display().to_string();
    run("trace", &["--top-k", "12", "--layers", "3,1", "--out", &path]);
    let trace = Trace::open(&path).unwrap();
    assert_eq!((trace.layers(), trace.n_layers()), ([1, 3].as_slice(), 6));
    let output =
        streamtrace(&["trace", "--model", MODEL, "--prompt", "a b c", "--layers", "6", "--out", &path]);
    assert!(
        output.status.code() == Some(1) && stderr(&output).contains("choose 0 to 5"),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains("tokens/s"), "it is said before the run");
}
