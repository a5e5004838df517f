//! What a new user does first: the demo, the reading of a trace, the help.

use serde_json::Value;
use tempfile::TempDir;

use super::{MODEL, NEEDLE, run, stderr, stdout, streamtrace, streamtrace_every};

#[test]
fn demo_leaves_a_model_a_prompt_a_trace_a_picture_and_a_page() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("demo");
    let output = streamtrace(&["demo", "--n-tokens", "900", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for name in ["needle-6m/model.safetensors", "prompt.txt", "demo.trace", "read.svg", "demo.html"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let said = stdout(&output);
    assert!(said.contains("The model wrote “") && said.contains("hidden in the prompt"), "{said}");
    assert!(stderr(&output).contains("demo.html (") && stderr(&output).contains("next: open it"));
    // What it leaves is what further commands take.
    let path = |name: &str| out.join(name).to_str().unwrap().to_string();
    let shown = streamtrace(&["read", &path("demo.trace"), "--json"]);
    let reading: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let prompt = std::fs::read_to_string(out.join("prompt.txt")).unwrap();
    let (writes, text) =
        (reading["writes"][0].as_str().unwrap(), reading["passages"][0]["tokens"].to_string());
    assert!(prompt.contains(writes) && text.contains(writes), "{reading}");
}

#[test]
fn read_names_the_head_and_the_passage_and_draws_them() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let [trace, picture] = [path("a.trace"), path("read.svg")];
    let traced = run("trace", &["--top-k", "24", "--out", &trace]);
    assert!(stderr(&traced).contains("a.trace (") && stderr(&traced).contains("next: streamtrace explore"));
    let output = streamtrace(&["read", &trace, "--layer", "3", "--head", "0", "--out", &picture]);
    assert!(stdout(&output).contains("layer 3, head 0") && stderr(&output).contains("read.svg ("));
    let svg = std::fs::read_to_string(&picture).unwrap();
    assert!(svg.contains("Heads that look at") && svg.contains("next token, "));
    let block = streamtrace(&["read", &trace, "--query", "200", "--json"]);
    let reading: Value = serde_json::from_slice(&block.stdout).unwrap();
    assert!(reading["query"] == 200 && reading["writes"].is_null(), "{reading}");
    for (arguments, said) in [
        (&["--query", "99999"][..], "99999"),
        (&["--layer", "3"], "--head"),
        (&["--layer", "9", "--head", "0"], "9"),
        (&["--out", "x.pdf"], ".svg or .png"),
    ] {
        let refused = streamtrace(&[&["read", &trace][..], arguments].concat());
        assert!(refused.status.code() != Some(0) && stderr(&refused).contains(said), "{}", stderr(&refused));
    }
}

#[test]
fn a_trace_that_is_not_kept_is_said_and_a_short_run_shows_no_progress() {
    let trace = ["trace", "--device", "cpu", "--model", MODEL, "--prompt", &NEEDLE.text, "--top-k", "24"];
    let output = streamtrace_every("1000", &trace);
    assert_eq!(stderr(&output), "not kept: --out FILE keeps the trace\n");
    let output = streamtrace_every("1000", &[&trace[..], &["--json"]].concat());
    assert!(stderr(&output).is_empty() && output.status.success(), "{}", stderr(&output));
}

#[test]
fn help_is_in_groups_and_short_help_has_daily_options_alone() {
    let output = streamtrace(&["--help"]);
    let help = stdout(&output);
    for heading in ["Run a model:", "Look:", "Ask:", "Measure:", "Set up:", "Examples:"] {
        assert!(help.contains(heading), "{heading} in {help}");
    }
    let (short, long) = (streamtrace(&["trace", "-h"]), streamtrace(&["trace", "--help"]));
    assert!(stdout(&short).contains("--pruned") && !stdout(&short).contains("--beam"));
    assert!(stdout(&long).contains("--beam"));
}
