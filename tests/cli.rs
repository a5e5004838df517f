//! The command line on the bundled model: what it prints where, what it writes, how it exits.
#![cfg(feature = "engine")]

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use serde_json::Value;
use streamtrace::{
    DeviceChoice, LoadOptions, Trace, Tracer,
    tasks::{Prompt, RulerConfig, Task},
};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/needle-6m");

/// A thousand tokens with a needle among others.
static NEEDLE: LazyLock<Prompt> = LazyLock::new(|| {
    let options = LoadOptions { model: MODEL.into(), device: DeviceChoice::Cpu, memory: None };
    let task = RulerConfig { task: Task::NiahMultikey1, n_tokens: 1000, seed: 3, ..RulerConfig::default() };
    Tracer::load_with(options).unwrap().prompt(&task).unwrap()
});

fn streamtrace(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streamtrace")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs `command` on the bundled model; it must succeed.
#[track_caller]
fn run(command: &str, arguments: &[&str]) -> Output {
    let output =
        streamtrace(&[&[command, "--device", "cpu", "--model", MODEL, "--prompt", &NEEDLE.text][..], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

/// The one JSON object on standard output.
#[track_caller]
fn object(output: &Output) -> Value {
    assert_eq!(stdout(output).lines().count(), 1, "{}", stdout(output));
    let value: Value = serde_json::from_str(stdout(output)).unwrap();
    assert!(value.is_object());
    value
}

fn fields(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A saved trace of the prompt.
fn saved(folder: &Path) -> String {
    let path = folder.join("a.trace").display().to_string();
    run("trace", &["--out", &path, "--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4"]);
    path
}

const TRACE_FIELDS: [&str; 9] = [
    "device",
    "keys_read_per_query_block",
    "next_token",
    "peak_memory_bytes",
    "planned_memory_bytes",
    "pruned",
    "seconds",
    "tokens",
    "top_k",
];

#[test]
fn trace_prints_one_json_object_and_its_progress_on_standard_error() {
    let output = run("trace", &["--json", "--top-k", "12", "--sink-blocks", "1", "--local-blocks", "4"]);
    let object = object(&output);
    assert_eq!(fields(&object), TRACE_FIELDS);
    assert_eq!(fields(&object["next_token"]), ["id", "logprob", "text"]);
    assert_eq!(fields(&object["seconds"]), ["attention", "load", "search", "total"]);
    assert_eq!((&object["top_k"], &object["device"]), (&12.into(), &"cpu".into()));
    assert!(object["tokens"].as_u64().unwrap() > 900 && (0.5..1.0).contains(&object["pruned"].as_f64().unwrap()));
    assert!(object["next_token"]["logprob"].as_f64().unwrap() <= 0.0);
    assert!(object["planned_memory_bytes"].as_u64().unwrap() > 0);
    let progress: Vec<&str> = stderr(&output).lines().collect();
    assert_eq!(progress.len(), 6, "one line for each layer: {progress:?}");
    assert!(progress[5].starts_with("trace: layer 6 of 6, ") && progress[5].ends_with(" s left"), "{progress:?}");
}

#[test]
fn compare_with_everything_kept_is_dense() {
    for search in [&["--exhaustive"][..], &["--estimate", "middle"], &[]] {
        let object = object(&run("compare", &[&["--json", "--top-k", "100000"][..], search].concat()));
        let fidelity = ["answer", "dense_next_token", "kl", "n_rows", "recall", "recall_by_head", "rows_of", "same_next_token"];
        let mut expected = [&TRACE_FIELDS[..], &fidelity].concat();
        expected.sort_unstable();
        assert_eq!(fields(&object), expected);
        assert!((object["recall"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{object}");
        assert!(object["kl"].as_f64().unwrap() < 1e-6, "{object}");
        assert_eq!(object["same_next_token"], true);
        // More blocks than there are is all of them.
        assert_eq!(object["top_k"].as_u64().unwrap(), object["tokens"].as_u64().unwrap().div_ceil(8));
        assert!(object["pruned"].as_f64().unwrap().abs() < 1e-9, "{object}");
    }
}

#[test]
fn compare_with_little_kept_is_less() {
    let object = object(&run("compare", &["--json", "--top-k", "6", "--sink-blocks", "1", "--local-blocks", "4"]));
    assert!(object["recall"].as_f64().unwrap() < 0.999 && object["kl"].as_f64().unwrap() > 0.0, "{object}");
}

#[test]
fn pruned_chooses_the_budget() {
    let object = object(&run("trace", &["--json", "--pruned", "0.8", "--sink-blocks", "1", "--local-blocks", "4"]));
    assert!((0.8..0.82).contains(&object["pruned"].as_f64().unwrap()), "{object}");
}

#[test]
fn generate_writes_the_needle_as_it_comes_or_as_one_object() {
    let answer = NEEDLE.answer.trim();
    let settings = ["--max-tokens", "20", "--stop", "."];
    let text = run("generate", &settings);
    assert_eq!(stdout(&text).trim(), answer.trim_end_matches('.'), "{}", stdout(&text));
    let progress: Vec<&str> = stderr(&text).lines().collect();
    assert!(progress.len() == 6 && progress[5].starts_with("prompt: layer 6 of 6, "), "{progress:?}");
    for more in [&["--dense"][..], &["--exhaustive"], &["--temperature", "0.01", "--top-p", "0.9", "--seed", "3"]] {
        let object = object(&run("generate", &[&settings[..], &["--json"], more].concat()));
        assert_eq!(fields(&object), ["end", "n_prompt", "seconds", "text", "tokens", "top_k"]);
        assert_eq!(object["text"].as_str().unwrap().trim(), answer.trim_end_matches('.'), "{more:?}");
        assert_eq!(object["end"]["stop"], ".");
    }
}

#[test]
fn ruler_counts_the_needles_that_are_kept() {
    let settings = ["--exhaustive", "--pruned", "0.8", "--sink-blocks", "1", "--local-blocks", "4"];
    let output = ruler(&[&["--json", "--tokens", "1000", "--samples", "3"][..], &settings].concat());
    let counted = &object(&output)["niah_multikey_1"];
    assert_eq!((&counted["prompts"], &counted["counted"], &counted["needle_retained"]), (&3.into(), &3.into(), &3.into()));
    assert_eq!(
        (&counted["sparse_score"], &counted["dense_score"], &counted["recall"]),
        (&1.0.into(), &Value::Null, &Value::Null)
    );
    assert!((0.8..0.82).contains(&counted["pruned"].as_f64().unwrap()), "{counted}");
    // Every key of the candidates, or none.
    assert!((0.0..1000.0).contains(&counted["keys_read_per_query_block"].as_f64().unwrap()), "{counted}");
}

/// `streamtrace ruler` on the bundled model; it must succeed.
#[track_caller]
fn ruler(arguments: &[&str]) -> Output {
    let output = streamtrace(&[&["ruler", "--device", "cpu", "--model", MODEL][..], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

#[test]
fn ruler_compares_with_dense_attention_and_says_what_it_cannot_answer() {
    let output = ruler(&[
        "--task",
        "niah_single_1,fwe",
        "--tokens",
        "500",
        "--samples",
        "1",
        "--max-tokens",
        "9",
        "--dense",
        "--top-k",
        "1000",
    ]);
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 4, "head, rule, two tasks: {lines:?}");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let needle = cells(lines[2]);
    assert_eq!(needle[1..8], ["niah_single_1", "500", "two means", "1.000", "1.000", "1 of 1", "1.000"], "{lines:?}");
    assert!(lines[3].contains("dense attention answers none of 1 prompts") && lines[3].contains("training"), "{}", lines[3]);
}

#[test]
fn ruler_measures_every_search_at_one_budget() {
    let settings = [
        "--baselines",
        "--json",
        "--samples",
        "1",
        "--max-tokens",
        "12",
        "--tokens",
        "300,500",
        "--top-k",
        "24",
        "--sink-blocks",
        "1",
        "--local-blocks",
        "4",
    ];
    let object = object(&ruler(&settings));
    let mut names = fields(&object);
    names.sort_unstable();
    assert_eq!(names, ["exhaustive", "first key", "mean + spread", "middle key", "random", "two means", "window"]);
    for name in names {
        let lengths = object[name]["niah_multikey_1"].as_array().unwrap();
        let of = |field: &str| lengths.iter().map(|length| length[field].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!((of("tokens"), of("top_k")), (vec![300, 500], vec![24, 24]), "{name}");
    }
    assert_eq!(object["window"]["niah_multikey_1"][1]["keys_read_per_query_block"], 0.0);
    assert_eq!(object["exhaustive"]["niah_multikey_1"][1]["sparse_score"], 1.0);
}

#[test]
fn ruler_draws_scores_by_depth_and_length() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("depths.svg");
    let settings = [
        "--tokens",
        "300,500",
        "--samples",
        "1",
        "--max-tokens",
        "9",
        "--depths",
        "3",
        "--exhaustive",
        "--out",
        out.to_str().unwrap(),
    ];
    ruler(&settings);
    let svg = std::fs::read_to_string(out).unwrap();
    for part in ["niah_multikey_1 · needle-6m", "300", "500", "0 %", "50 %", "100 %", "1.00", "exhaustive search"] {
        assert!(svg.contains(part), "{part}");
    }
}

#[test]
fn compare_measures_on_some_rows_scores_an_answer_and_draws() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("recall.svg");
    let settings = ["--json", "--top-k", "24", "--rows", "100", "--answer", &NEEDLE.answer, "--out", out.to_str().unwrap()];
    let object = object(&run("compare", &settings));
    assert_eq!((&object["rows_of"], &object["n_rows"], &object["kl"]), (&"sparse".into(), &128.into(), &Value::Null));
    assert_eq!(object["answer"]["dense_retained"], true);
    assert!(object["answer"]["dense_logprob"].as_f64().unwrap() > -0.1);
    assert!(std::fs::read_to_string(out).unwrap().contains("128 rows of the sparse run"));
}

#[test]
fn the_smallest_budget_is_found_for_a_search_and_for_exact_blocks() {
    let settings = ["--json", "--sink-blocks", "1", "--local-blocks", "4", "--answer", &NEEDLE.answer];
    let object = object(&run("smallest-top-k", &settings));
    for name in ["found", "exhaustive"] {
        let (found, tried) = (&object[name], object[name]["tried"].as_array().unwrap());
        let top_k = found["top_k"].as_u64().unwrap();
        assert!((5..=found["n_key_blocks"].as_u64().unwrap()).contains(&top_k), "{found}");
        let of = |passes: bool| tried.iter().filter(move |t| t["passes"] == passes).map(|t| t["top_k"].as_u64().unwrap());
        assert_eq!(of(true).min(), Some(top_k));
        assert!(of(false).all(|failed| failed < top_k), "{tried:?}");
    }
    let ratio = object["found"]["top_k"].as_f64().unwrap() / object["exhaustive"]["top_k"].as_f64().unwrap();
    assert_eq!(object["budget_to_match_exact"], ratio);
}

#[test]
fn prompts_of_known_answer_are_written() {
    let prompt = ["prompt", "--model", MODEL, "--tokens", "1000", "--seed", "3"];
    let output = streamtrace(&prompt);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), NEEDLE.text.as_str()));
    assert!(stderr(&output).contains(&format!("{:?}", NEEDLE.answer)), "{}", stderr(&output));
    let object = object(&streamtrace(&[&prompt[..], &["--json", "--depth", "0.25"]].concat()));
    assert_eq!((&object["task"], &object["depth"]), (&"niah_multikey_1".into(), &0.25.into()));
    assert_ne!(object["text"], NEEDLE.text);
}

#[test]
fn heads_that_copy_the_needle_are_ranked_and_drawn() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("heads.svg");
    let model = ["heads", "--device", "cpu", "--model", MODEL, "--json", "--tokens", "800", "--samples", "2"];
    let output = streamtrace(&[&model[..], &["--exhaustive", "--out", out.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let object = object(&output);
    assert_eq!((object["scores"].as_array().unwrap().len(), object["ranking"].as_array().unwrap().len()), (6, 48));
    let best = object["ranking"][0]["score"].as_f64().unwrap();
    assert!(best > 0.5, "a model that copies numbers has a head that does: {object}");
    assert!(std::fs::read_to_string(out).unwrap().contains("retrieval heads"));
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
    let from_file =
        streamtrace(&["trace", "--device", "cpu", "--model", MODEL, "--json", "--prompt-file", file.to_str().unwrap()]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
    command.args(["trace", "--device", "cpu", "--model", MODEL, "--json", "--prompt-file", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(NEEDLE.text.as_bytes()).unwrap();
    let from_stdin = child.wait_with_output().unwrap();
    assert_eq!(object(&from_stdin)["next_token"], object(&from_file)["next_token"]);
}

#[test]
fn a_saved_trace_is_shown_and_drawn() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let shown = streamtrace(&["show", &trace, "--json"]);
    assert_eq!(fields(&object(&shown)), TRACE_FIELDS);
    assert!(stderr(&shown).is_empty());
    let text = streamtrace(&["show", &trace]);
    assert!(stdout(&text).contains("needle-6m"), "{}", stdout(&text));
    for (command, name, start) in [
        (&["map", "--layer", "5", "--head", "7"][..], "map.svg", &b"<svg"[..]),
        (&["map", "--layer", "0", "--head", "0"], "map.png", b"\x89PNG"),
        (&["overview", "--width", "300"], "all.png", b"\x89PNG"),
        (&["explore"], "explore.html", b"<!DOCTYPE html>"),
        (&["edges"], "edges.parquet", b"PAR1"),
        (&["edges", "--sentences"], "edges.csv", b"layer,head,query_sentence,key_sentence,mass\n0,0,0,0,"),
        (&["report"], "report.html", b"<!DOCTYPE html>"),
        (&["report", "--title", "A title"], "report.md", b"# A title\n"),
    ] {
        let out = folder.path().join(name);
        let output = streamtrace(&[command, &[&trace, "--out", out.to_str().unwrap()]].concat());
        assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), "", ""), "{command:?}");
        let bytes = std::fs::read(out).unwrap();
        assert!(bytes.starts_with(start), "{command:?}: {:?}", &bytes[..bytes.len().min(20)]);
    }
}

#[test]
fn anchors_and_routes_of_a_saved_trace_are_said_and_drawn() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let said = object(&streamtrace(&["anchors", &trace, "--json"]));
    assert_eq!(said["scores"].as_array().unwrap().len(), said["sentences"].as_array().unwrap().len());
    assert_eq!(said["receivers"]["heads"].as_array().unwrap().len(), 10);
    let needle = NEEDLE.text[NEEDLE.needles[0].clone()].trim();
    let routes = object(&streamtrace(&["routes", &trace, "--from", needle, "--edges", "9", "--json"]));
    assert_eq!((routes["edges"].as_array().unwrap().len(), &routes["from_text"]), (9, &format!(" {needle}").into()));
    for (arguments, name, start) in [
        (&["anchors"][..], "anchors.svg", &b"<svg"[..]),
        (&["anchors"], "anchors.html", b"<!doctype html>"),
        (&["routes", "--from", needle], "routes.png", b"\x89PNG"),
    ] {
        let out = folder.path().join(name);
        let output = streamtrace(&[arguments, &[&trace, "--out", out.to_str().unwrap()]].concat());
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{arguments:?}");
        assert!(stdout(&output).contains("layer") || stdout(&output).contains("sentence"), "{}", stdout(&output));
        assert!(std::fs::read(out).unwrap().starts_with(start), "{name}");
    }
    assert_fails(&["anchors", &trace, "--distance", "9"], &["rows were recorded for tokens", "StreamConfig::focus"]);
    assert_fails(&["anchors", &trace, "--distance", "9999"], &["more than 9999 sentences"]);
    assert_fails(&["routes", &trace, "--from", "What is the spec of"], &["does not contain it; nearest is \"What is the spec"]);
    assert_fails(
        &["routes", &trace, "--from", "mentioned in the provided", "--to", "special magic numbers are"],
        &["nearest is"],
    );
}

#[test]
fn a_route_is_knocked_out_and_compared_with_others() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let needle = NEEDLE.text[NEEDLE.needles[0].clone()].trim();
    let run = ["knock-out", &trace, "--device", "cpu", "--model", MODEL, "--from", needle, "--controls", "3"];
    let output = streamtrace(&[&run[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = object(&output);
    assert_eq!(fields(&said), ["alone", "controls", "median_drop", "route"]);
    assert_eq!(said["controls"].as_array().unwrap().len(), 3);
    let drop = said["route"]["next"]["before"].as_f64().unwrap() - said["route"]["next"]["after"].as_f64().unwrap();
    assert!(drop > said["median_drop"].as_f64().unwrap(), "{said}");
    assert!(stdout(&streamtrace(&run)).contains("median of 3 controls"));
}

/// Standard error is one sentence after the progress, standard output nothing.
#[track_caller]
fn assert_fails(arguments: &[&str], words: &[&str]) {
    let output = streamtrace(arguments);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""), "{arguments:?}: {}", stderr(&output));
    let said = stderr(&output).lines().last().unwrap_or_default();
    assert!(said.starts_with("streamtrace: ") && words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
}

#[test]
fn runs_that_fail_exit_with_1_and_a_sentence() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let (svg, jpg) = (folder.path().join("a.svg"), folder.path().join("a.jpg"));
    let (svg, jpg) = (svg.to_str().unwrap(), jpg.to_str().unwrap());
    let run =
        |more: &[&'static str]| [&["trace", "--device", "cpu", "--model", MODEL, "--prompt", &NEEDLE.text][..], more].concat();
    assert_fails(&["trace", "--model", "/nowhere", "--prompt", "x"], &["/nowhere", "no such file or folder"]);
    assert_fails(&["trace", "--model", MODEL, "--prompt", "", "--json"], &["an empty text"]);
    assert_fails(&["trace", "--model", MODEL, "--prompt-file", "/nowhere.txt"], &["cannot read the prompt /nowhere.txt"]);
    assert_fails(&run(&["--top-k", "0", "--json"]), &["top_k: expected at least 7", "found 0"]);
    assert_fails(&run(&["--pruned", "0.999"]), &["pruned: expected at most"]);
    assert_fails(&run(&["--pruned", "1.5"]), &["pruned: expected a share"]);
    assert_fails(&run(&["--block-size-k", "12"]), &["block sizes"]);
    assert_fails(&run(&["--memory", "1MB"]), &["memory: this run needs", "may take 1.0 MB"]);
    assert_fails(&run(&["--out", "/nowhere/a.trace"]), &["cannot write /nowhere/a.trace"]);
    let generate =
        |more: &[&'static str]| [&["generate", "--device", "cpu", "--model", MODEL, "--prompt", "x"][..], more].concat();
    let ruler = ["ruler", "--device", "cpu", "--model", MODEL, "--samples", "1"];
    let ruler = |more: &[&'static str]| [&ruler[..], more].concat();
    assert_fails(&ruler(&["--task", "niah_single_9"]), &["task \"niah_single_9\" does not exist: choose one of niah_single_1"]);
    assert_fails(&ruler(&["--memory", "1MB"]), &["memory: this run needs"]);
    assert_fails(&ruler(&["--haystack", "/nowhere.txt"]), &["cannot read the haystack /nowhere.txt"]);
    assert_fails(&ruler(&["--task", "fwe", "--out", "a.svg"]), &["out: expected one task whose needle has a depth", "fwe"]);
    assert_fails(&ruler(&["--task", "all", "--out", "a.svg"]), &["out: expected one task"]);
    let heads = ["heads", "--device", "cpu", "--model", MODEL, "--tokens", "800", "--task", "niah_multivalue"];
    assert_fails(&heads, &["task: expected a task with one answer", "niah_multivalue, which has 4"]);
    let smallest =
        |more: &[&'static str]| [&["smallest-top-k", "--device", "cpu", "--model", MODEL, "--prompt", "x"][..], more].concat();
    assert_fails(&smallest(&["--kl", "0"]), &["KL: expected a bound above 0"]);
    assert_fails(&smallest(&["--answer", " never ever"]), &["answer: expected what dense attention finds the most likely"]);
    assert_fails(&generate(&["--max-tokens", "0"]), &["max_tokens: expected at least 1"]);
    assert_fails(&generate(&["--top-p", "2"]), &["top_p: expected a probability"]);
    assert_fails(&["show", "/nowhere.trace"], &["cannot read /nowhere.trace"]);
    assert_fails(&["map", &trace, "--layer", "6", "--head", "0", "--out", svg], &["layer 6 does not exist: choose 0 to 5"]);
    assert_fails(&["map", &trace, "--layer", "0", "--head", "8", "--out", svg], &["head 8 does not exist: choose 0 to 7"]);
    assert_fails(&["map", &trace, "--layer", "0", "--head", "0", "--out", jpg], &[".svg or .png"]);
    assert_fails(&["edges", &trace, "--out", jpg], &[".csv or .parquet"]);
    assert_fails(&["report", &trace, "--out", jpg], &[".html or .md"]);
    assert_fails(&["report", &trace, "--out", "/nowhere/a.html"], &["cannot write /nowhere/a.html"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the trace alone");
}

/// A folder that is not there is found before a run that may take hours.
#[test]
fn where_to_write_is_checked_before_the_run() {
    let output = streamtrace(&["trace", "--model", MODEL, "--prompt", &NEEDLE.text, "--out", "/nowhere/a.trace"]);
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
        vec!["ruler", "--model", MODEL, "--samples", "0"],
        vec!["ruler", "--model", MODEL, "--baselines", "--estimate", "mean"],
        vec!["heads", "--model", MODEL, "--task", "qa_1"],
        run(&["--device", "abacus"]),
        run(&["--memory", "8XB"]),
        vec!["map", "a.trace", "--layer", "-1", "--head", "0", "--out", "a.svg"],
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
