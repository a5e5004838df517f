//! The old names of verbs and flags still work.

use tempfile::TempDir;

use crate::{MODEL, NEEDLE, object, saved, stderr, stdout, streamtrace};

/// The output of a command that must succeed.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let output = streamtrace(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output).to_string()
}

#[test]
fn old_verbs_and_flags_do_what_the_new_ones_do() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let needle = NEEDLE.text[NEEDLE.needles[0].clone()].trim();
    let old = ["anchors", &trace, "--heads", "3", "--anchors", "2", "--distance", "4"];
    let new =
        ["thought-anchors", &trace, "--n-receiver-heads", "3", "--n-anchors", "2", "--min-distance", "4"];
    assert_eq!(said(&old), said(&new));
    let route = |flag: &str| said(&["routes", &trace, "--from", needle, flag, "5"]);
    assert_eq!(route("--edges"), route("--n-edges"));
    let prompt = |flag: &str| said(&["prompt", "--model", MODEL, flag, "600"]);
    assert_eq!(prompt("--tokens"), prompt("--n-tokens"));
    let run = ["--device", "cpu", "--model", MODEL];
    let test =
        |verb: &str, flag: &str| said(&[&[verb, &trace, "--from", needle, flag, "2"], &run[..]].concat());
    assert_eq!(test("knock-out", "--controls"), test("test-routes", "--n-random"));
    let heads = |verb: &str, tokens: &str, prompts: &str| {
        said(&[&[verb, tokens, "600", prompts, "1"], &run[..]].concat())
    };
    assert_eq!(
        heads("heads", "--tokens", "--samples"),
        heads("retrieval-heads", "--n-tokens", "--n-prompts")
    );
    let ruler = ["ruler", "--tokens", "500", "--samples", "1", "--max-tokens", "2", "--json"];
    let counted = &object(&streamtrace(&[&ruler[..], &run[..]].concat()))["niah_multikey_1"];
    assert_eq!((&counted["n_tokens"], &counted["n_prompts"]), (&500.into(), &1.into()));
    let map = folder.path().join("map.svg");
    said(&["map", &trace, "--layer", "0", "--head", "0", "--out", map.to_str().unwrap()]);
    assert!(map.exists());
}

#[test]
fn help_shows_the_short_verbs() {
    let help = said(&["--help"]);
    for (verb, short) in [
        ("attention-map", "map"),
        ("thought-anchors", "anchors"),
        ("test-routes", "knock-out"),
        ("retrieval-heads", "heads"),
    ] {
        let line = help.lines().find(|line| line.trim_start().starts_with(verb)).unwrap_or_default();
        assert!(line.ends_with(&format!("[alias: {short}]")), "{verb}: {help}");
    }
}
