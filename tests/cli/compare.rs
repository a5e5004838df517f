//! `compare` and `smallest-top-k`.

use serde_json::Value;
use tempfile::TempDir;

use crate::{NEEDLE, SUMMARY_FIELDS, fields, object, run};

#[test]
fn compare_with_everything_kept_is_dense() {
    for search in [&["--exhaustive"][..], &["--estimate", "middle"], &[]] {
        let object = object(&run("compare", &[&["--json", "--top-k", "100000"][..], search].concat()));
        let fidelity = [
            "answer",
            "dense_next_token",
            "kl",
            "n_rows",
            "positions",
            "recall",
            "recall_by_head",
            "rows_of",
            "same_next_token",
        ];
        assert_eq!(
            (fields(&object), fields(&object["fidelity"])),
            (SUMMARY_FIELDS.to_vec(), fidelity.to_vec())
        );
        let measured = &object["fidelity"];
        assert!((measured["recall"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{object}");
        assert!(measured["kl"].as_f64().unwrap() < 1e-6, "{object}");
        assert_eq!(measured["same_next_token"], true);
        let positions = &measured["positions"];
        assert_eq!(fields(positions), ["mean_kl", "n", "p99_kl", "same_next_token"]);
        assert_eq!(
            (&positions["n"], &positions["same_next_token"]),
            (&256.into(), &1.0.into()),
            "{positions}"
        );
        assert!(positions["p99_kl"].as_f64().unwrap() < 1e-6, "{positions}");
        // A budget of more blocks than exist keeps all of them.
        assert_eq!(
            object["config"]["top_k"].as_u64().unwrap(),
            object["n_tokens"].as_u64().unwrap().div_ceil(8)
        );
        assert!(object["pruned"].as_f64().unwrap().abs() < 1e-9, "{object}");
    }
}

#[test]
fn compare_with_little_kept_is_less() {
    let settings = ["--top-k", "6", "--sink-blocks", "1", "--local-blocks", "4", "--positions", "50"];
    let object = object(&run("compare", &[&["--json"][..], &settings].concat()));
    let fidelity = &object["fidelity"];
    assert!(
        fidelity["recall"].as_f64().unwrap() < 0.999 && fidelity["kl"].as_f64().unwrap() > 0.0,
        "{object}"
    );
    let positions = &fidelity["positions"];
    let same = positions["same_next_token"].as_f64().unwrap();
    assert_eq!(positions["n"], 50);
    assert!(same < 1.0 && (same * 50.0).fract() == 0.0, "{positions}");
    assert!(positions["p99_kl"].as_f64().unwrap() > positions["mean_kl"].as_f64().unwrap(), "{positions}");
}

#[test]
fn compare_measures_on_some_rows_scores_an_answer_and_draws() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("recall.svg");
    let settings = [
        "--json",
        "--top-k",
        "24",
        "--rows",
        "100",
        "--answer",
        &NEEDLE.answer,
        "--out",
        out.to_str().unwrap(),
    ];
    let object = object(&run("compare", &settings));
    let fidelity = &object["fidelity"];
    assert_eq!(
        (&fidelity["rows_of"], &fidelity["n_rows"], &fidelity["kl"], &fidelity["positions"]),
        (&"sparse".into(), &128.into(), &Value::Null, &Value::Null)
    );
    assert_eq!(fidelity["answer"]["dense_survives"], true);
    assert!(fidelity["answer"]["dense_logprob"].as_f64().unwrap() > -0.1);
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
        let of = |passes: bool| {
            tried.iter().filter(move |t| t["passes"] == passes).map(|t| t["top_k"].as_u64().unwrap())
        };
        assert_eq!(of(true).min(), Some(top_k));
        assert!(of(false).all(|failed| failed < top_k), "{tried:?}");
    }
    let ratio = object["found"]["top_k"].as_f64().unwrap() / object["exhaustive"]["top_k"].as_f64().unwrap();
    assert_eq!(object["budget_to_match_exact"], ratio);
}
