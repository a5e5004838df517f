//! Prompts whose answer is known, the text that a model writes, and how often an answer survives.

use std::{path::Path, process::Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::{MODEL, NEEDLE, fields, object, run, stderr, stdout, streamtrace};

#[test]
fn generate_writes_the_needle_as_it_comes_or_as_one_object() {
    let answer = NEEDLE.answer.trim();
    let settings = ["--max-tokens", "20", "--stop", "."];
    let text = run("generate", &settings);
    assert_eq!(stdout(&text).trim(), answer.trim_end_matches('.'), "{}", stdout(&text));
    let progress: Vec<&str> = stderr(&text).lines().collect();
    assert!(progress.len() == 6 && progress[5].starts_with("prompt: layer 6 of 6, "), "{progress:?}");
    for more in
        [&["--dense"][..], &["--exhaustive"], &["--temperature", "0.01", "--top-p", "0.9", "--seed", "3"]]
    {
        let object = object(&run("generate", &[&settings[..], &["--json"], more].concat()));
        assert_eq!(fields(&object), ["end", "n_prompt", "seconds", "text", "tokens", "top_k"]);
        assert_eq!(object["text"].as_str().unwrap().trim(), answer.trim_end_matches('.'), "{more:?}");
        assert_eq!(object["end"]["stop"], ".");
    }
}

#[test]
fn ruler_counts_the_answers_that_survive() {
    let settings = ["--exhaustive", "--pruned", "0.8", "--sink-blocks", "1", "--local-blocks", "4"];
    let output = ruler(&[&["--json", "--n-tokens", "1000", "--n-prompts", "3"][..], &settings].concat());
    let counted = &object(&output)["niah_multikey_1"];
    assert_eq!(
        (&counted["n_prompts"], &counted["counted"], &counted["survives"]),
        (&3.into(), &3.into(), &3.into())
    );
    assert_eq!((&counted["sparse_score"], &counted["dense_score"]), (&1.0.into(), &Value::Null));
    assert!((0.5..1.0).contains(&counted["recall"].as_f64().unwrap()), "{counted}");
    assert!((0.8..0.82).contains(&counted["pruned"].as_f64().unwrap()), "{counted}");
    assert_eq!(fields(&counted["seconds"]), ["attention", "load", "search", "total"]);
    // The exhaustive search reads every candidate key, the baselines none.
    assert!((0.0..1000.0).contains(&counted["keys_read_per_query_block"].as_f64().unwrap()), "{counted}");
}

/// Several prompts at a time give the numbers of one at a time, and their error ends the command.
#[test]
fn prompts_at_once_count_alike() {
    let short = ["--n-tokens", "600", "--n-prompts", "3", "--json"];
    let counted = |more: &[&str]| {
        let mut counted = object(&ruler(&[&short[..], &["--max-tokens", "3", "--dense"], more].concat()));
        counted["niah_multikey_1"].as_object_mut().unwrap().remove("seconds").unwrap();
        counted
    };
    let heads = |more: &[&str]| {
        let fixed = ["retrieval-heads", "--device", "cpu", "--model", MODEL];
        streamtrace(&[&fixed[..], &short, more].concat())
    };
    assert_eq!(counted(&["--at-once", "2"]), counted(&[]));
    let [one, two] = [heads(&[]), heads(&["--at-once", "2"])];
    assert_eq!((two.status.code(), stdout(&two)), (Some(0), stdout(&one)));
    let failed = heads(&["--at-once", "2", "--task", "niah_multivalue"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("choose one of niah_single_1"), "{}", stderr(&failed));
}

/// Runs `streamtrace ruler` on the bundled model; it must succeed.
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
        "--n-tokens",
        "500",
        "--n-prompts",
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
    assert_eq!(
        needle[1..8],
        ["niah_single_1", "500", "two means", "1.000", "1.000", "1 of 1", "1.000"],
        "{lines:?}"
    );
    assert!(
        lines[3].contains("dense attention answers none of 1 prompts") && lines[3].contains("training"),
        "{}",
        lines[3]
    );
}

#[test]
fn ruler_measures_every_search_at_one_budget() {
    let settings = [
        "--baselines",
        "--json",
        "--n-prompts",
        "1",
        "--max-tokens",
        "12",
        "--n-tokens",
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
    assert_eq!(
        names,
        ["exhaustive", "first key", "mean + spread", "middle key", "random", "two means", "window"]
    );
    for name in names {
        let lengths = object[name]["niah_multikey_1"].as_array().unwrap();
        let of =
            |field: &str| lengths.iter().map(|length| length[field].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!((of("n_tokens"), of("top_k")), (vec![300, 500], vec![24, 24]), "{name}");
    }
    assert_eq!(object["window"]["niah_multikey_1"][1]["keys_read_per_query_block"], 0.0);
    assert_eq!(object["exhaustive"]["niah_multikey_1"][1]["sparse_score"], 1.0);
}

#[test]
fn ruler_draws_scores_by_depth_and_length() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("depths.svg");
    let settings = [
        "--n-tokens",
        "300,500",
        "--n-prompts",
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
    for part in
        ["niah_multikey_1 · needle-6m", "300", "500", "0 %", "50 %", "100 %", "1.00", "exhaustive search"]
    {
        assert!(svg.contains(part), "{part}");
    }
    assert!(!svg.contains("dense"), "one map of what was run");
}

#[test]
fn ruler_draws_dense_scores_beside_pruned_ones() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("depths.svg");
    let settings = ["--n-tokens", "300,500", "--n-prompts", "1", "--max-tokens", "9", "--depths", "2"];
    let window =
        ["--baseline", "window", "--top-k", "8", "--dense", "--json", "--out", out.to_str().unwrap()];
    let scores = object(&ruler(&[&settings[..], &window].concat()))["niah_multikey_1"].clone();
    let svg = std::fs::read_to_string(out).unwrap();
    for part in ["dense attention", "pruned", "window search, at least ", "1 prompt a cell"] {
        assert!(svg.contains(part), "{part}");
    }
    // Two depths of two lengths: the numbers in the cells are those of the table.
    let total =
        |field: &str| scores.as_array().unwrap().iter().map(|n| n[field].as_f64().unwrap()).sum::<f64>();
    let right = 2.0 * (total("dense_score") + total("sparse_score"));
    assert_eq!(svg.matches("\n1.00\n").count(), right as usize, "{scores}");
    assert_eq!(svg.matches(": 0.000</title>").count(), 8 - right as usize, "{scores}");
}

/// Returns a copy of the bundled model with a chat template.
fn chat_model() -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(Path::new(MODEL).join(name), folder.path().join(name)).unwrap();
    }
    let template = "<user>\n{% for m in messages %}{{ m.content }}\n{% endfor %}{{ '<model>\\n' }}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn ruler_and_retrieval_heads_ask_in_the_chat_template() {
    let folder = chat_model();
    let model = folder.path().to_str().unwrap();
    let chat = |verb: &str, more: &[&str]| {
        let common = [verb, "--device", "cpu", "--model", model, "--chat", "--json", "--n-tokens", "800"];
        let output = streamtrace(&[&common[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{verb}: {}", stderr(&output));
        object(&output)
    };
    let settings = ["--n-prompts", "2", "--max-tokens", "12", "--exhaustive", "--dense", "--top-k", "1000"];
    let counted = &chat("ruler", &settings)["niah_multikey_1"];
    assert_eq!(
        (&counted["sparse_score"], &counted["dense_score"], &counted["counted"], &counted["survives"]),
        (&1.0.into(), &1.0.into(), &2.into(), &2.into())
    );
    let best = chat("retrieval-heads", &["--n-prompts", "1", "--exhaustive"])["ranking"][0]["score"].clone();
    assert!(best.as_f64().unwrap() > 0.5, "{best}");
    let prompt = streamtrace(&["prompt", "--model", model, "--chat", "--json", "--n-tokens", "800"]);
    let prompt = object(&prompt);
    let text = prompt["text"].as_str().unwrap();
    assert!(
        text.starts_with("<user>\nA special") && text.contains("?\n<model>\n The special magic"),
        "{text}"
    );
    assert!((736..=800).contains(&prompt["n_tokens"].as_u64().unwrap()), "{}", prompt["n_tokens"]);
}

#[test]
fn prompts_of_known_answer_are_written() {
    let prompt = ["prompt", "--model", MODEL, "--n-tokens", "1000", "--seed", "3"];
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
    let model = [
        "retrieval-heads",
        "--device",
        "cpu",
        "--model",
        MODEL,
        "--json",
        "--n-tokens",
        "800",
        "--n-prompts",
        "2",
    ];
    let output = streamtrace(&[&model[..], &["--exhaustive", "--out", out.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let object = object(&output);
    assert_eq!((fields(&object), &object["n_prompts"]), (vec!["n_prompts", "ranking", "scores"], &2.into()));
    assert_eq!(
        (object["scores"].as_array().unwrap().len(), object["ranking"].as_array().unwrap().len()),
        (6, 48)
    );
    let best = object["ranking"][0]["score"].as_f64().unwrap();
    assert!(best > 0.5, "a model that copies numbers has a head that does: {object}");
    assert!(std::fs::read_to_string(out).unwrap().contains("copies most of the needle"));
}
