//! Runs that fail, and arguments that are refused.

use tempfile::TempDir;

use crate::{MODEL, NEEDLE, assert_fails, saved, stderr, stdout, streamtrace};

#[test]
fn runs_that_fail_exit_with_1_and_a_sentence() {
    let run = |more: &[&'static str]| {
        [&["trace", "--device", "cpu", "--model", MODEL, "--prompt", &NEEDLE.text][..], more].concat()
    };
    assert_fails(&["trace", "--model", "/nowhere", "--prompt", "x"], &["/nowhere", "no such file or folder"]);
    assert_fails(&["trace", "--model", MODEL, "--prompt", "", "--json"], &["an empty text"]);
    assert_fails(
        &["trace", "--model", MODEL, "--prompt-file", "/nowhere.txt"],
        &["cannot read the prompt /nowhere.txt"],
    );
    assert_fails(&run(&["--top-k", "0", "--json"]), &["top_k: expected at least 7", "found 0"]);
    assert_fails(&run(&["--pruned", "0.999"]), &["pruned: expected at most"]);
    assert_fails(&run(&["--pruned", "1.5"]), &["pruned: expected a share"]);
    assert_fails(&run(&["--block-size-k", "12"]), &["block sizes"]);
    assert_fails(&run(&["--memory", "1MB"]), &["memory: this run needs", "may take 1.0 MB"]);
    assert_fails(&run(&["--out", "/nowhere/a.trace"]), &["cannot write /nowhere/a.trace"]);
}

#[test]
fn tasks_and_answers_that_cannot_be_measured_exit_with_1_and_a_sentence() {
    let generate = |more: &[&'static str]| {
        [&["generate", "--device", "cpu", "--model", MODEL, "--prompt", "x"][..], more].concat()
    };
    let ruler = ["ruler", "--device", "cpu", "--model", MODEL, "--n-prompts", "1"];
    let ruler = |more: &[&'static str]| [&ruler[..], more].concat();
    assert_fails(
        &ruler(&["--task", "niah_single_9"]),
        &["task \"niah_single_9\" does not exist: choose one of niah_single_1"],
    );
    assert_fails(&ruler(&["--memory", "1MB"]), &["memory: this run needs"]);
    assert_fails(&ruler(&["--haystack", "/nowhere.txt"]), &["cannot read the haystack /nowhere.txt"]);
    assert_fails(
        &ruler(&["--task", "fwe", "--out", "a.svg"]),
        &["out: expected one task whose needle has a depth", "fwe"],
    );
    assert_fails(&ruler(&["--task", "all", "--out", "a.svg"]), &["out: expected one task"]);
    let heads = [
        "retrieval-heads",
        "--device",
        "cpu",
        "--model",
        MODEL,
        "--n-tokens",
        "800",
        "--task",
        "niah_multivalue",
    ];
    for verb in ["ruler", "retrieval-heads", "prompt"] {
        assert_fails(
            &[verb, "--model", MODEL, "--chat"],
            &["expected a chat template, found none; it is a base model: give it plain text, without --chat"],
        );
    }
    assert_fails(&ruler(&["--task", "qa_1"]), &["task \"qa_1\" does not exist", "SQuAD and HotpotQA"]);
    assert_fails(&heads, &["task: expected a task with one answer", "niah_multivalue, which has 4"]);
    let smallest = |more: &[&'static str]| {
        [&["smallest-top-k", "--device", "cpu", "--model", MODEL, "--prompt", "x"][..], more].concat()
    };
    assert_fails(&smallest(&["--kl", "0"]), &["KL: expected a bound above 0"]);
    assert_fails(
        &smallest(&["--answer", " never ever"]),
        &["answer: expected what dense attention finds the most likely"],
    );
    assert_fails(&generate(&["--max-tokens", "0"]), &["max_tokens: expected at least 1"]);
    assert_fails(&generate(&["--top-p", "2"]), &["top_p: expected a probability"]);
}

#[test]
fn pictures_and_pages_that_cannot_be_made_exit_with_1_and_a_sentence() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let paths = ["a.svg", "a.jpg"].map(|name| folder.path().join(name).display().to_string());
    let [svg, jpg] = [&paths[0], &paths[1]];
    assert_fails(&["show", "/nowhere.trace"], &["cannot read /nowhere.trace"]);
    assert_fails(
        &["attention-map", &trace, "--layer", "6", "--head", "0", "--out", svg],
        &["layer 6 does not exist: choose 0 to 5"],
    );
    assert_fails(
        &["attention-map", &trace, "--layer", "0", "--head", "8", "--out", svg],
        &["head 8 does not exist: choose 0 to 7"],
    );
    assert_fails(&["attention-map", &trace, "--layer", "0", "--head", "0", "--out", jpg], &[".svg or .png"]);
    assert_fails(&["edges", &trace, "--out", jpg], &[".csv or .parquet"]);
    assert_fails(&["report", &trace, "--out", jpg], &[".html or .md"]);
    assert_fails(&["report", &trace, "--out", "/nowhere/a.html"], &["cannot write /nowhere/a.html"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the trace alone");
}

/// A missing folder is reported before a run that may take hours.
#[test]
fn where_to_write_is_checked_before_the_run() {
    let output =
        streamtrace(&["trace", "--model", MODEL, "--prompt", &NEEDLE.text, "--out", "/nowhere/a.trace"]);
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

#[test]
fn arguments_that_make_no_sense_exit_with_2() {
    let run = |more: &[&'static str]| [&["trace", "--model", MODEL, "--prompt", "x"][..], more].concat();
    for arguments in [
        vec![],
        vec!["dance"],
        vec!["trace", "--model", MODEL],
        vec!["trace", "--prompt", "x"],
        run(&["--prompt-file", "y"]),
        run(&["--top-k", "many"]),
        run(&["--top-k", "9", "--pruned", "0.5"]),
        run(&["--exhaustive", "--estimate", "mean"]),
        run(&["--estimate", "wild"]),
        run(&["--baseline", "window", "--exhaustive"]),
        vec!["ruler", "--model", MODEL, "--n-prompts", "0"],
        vec!["ruler", "--model", MODEL, "--baselines", "--estimate", "mean"],
        vec!["retrieval-heads", "--model", MODEL, "--task", "qa_1"],
        run(&["--device", "abacus"]),
        run(&["--memory", "8XB"]),
        vec!["attention-map", "a.trace", "--layer", "-1", "--head", "0", "--out", "a.svg"],
    ] {
        let output = streamtrace(&arguments);
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn help_and_version_exit_with_0() {
    for arguments in [&["--help"][..], &["--version"], &["trace", "--help"], &["help"]] {
        let output = streamtrace(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(stderr(&output).is_empty() && !stdout(&output).is_empty());
    }
    assert!(stdout(&streamtrace(&["--help"])).contains("Exit codes: 0 done"));
}
