//! Pictures and claims from a saved trace.

use tempfile::TempDir;

use crate::{
    MODEL, NEEDLE, SUMMARY_FIELDS, assert_fails, fields, object, saved, stderr, stdout, streamtrace,
};

#[test]
fn a_saved_trace_is_shown_and_drawn() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let shown = streamtrace(&["show", &trace, "--json"]);
    assert_eq!(fields(&object(&shown)), SUMMARY_FIELDS);
    assert!(stderr(&shown).is_empty());
    let text = streamtrace(&["show", &trace]);
    assert!(stdout(&text).contains("needle-6m"), "{}", stdout(&text));
    for (command, name, start) in [
        (&["attention-map", "--layer", "5", "--head", "7"][..], "map.svg", &b"<svg"[..]),
        (&["attention-map", "--layer", "0", "--head", "0"], "map.png", b"\x89PNG"),
        (
            &["attention-map", "--layer", "5", "--head", "7", "--queries", "0..64", "--keys", "0..32"],
            "zoom.svg",
            b"<svg",
        ),
        (&["overview", "--width", "300"], "all.png", b"\x89PNG"),
        (&["explore"], "explore.html", b"<!DOCTYPE html>"),
        (&["edges"], "edges.parquet", b"PAR1"),
        (&["edges", "--sentences"], "edges.csv", b"layer,head,query_sentence,key_sentence,mass\n0,0,0,0,"),
        (&["report"], "report.html", b"<!DOCTYPE html>"),
        (&["report", "--title", "A title"], "report.md", b"# A title\n"),
    ] {
        let out = folder.path().join(name);
        let output = streamtrace(&[command, &[&trace, "--out", out.to_str().unwrap()]].concat());
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), ""), "{command:?}");
        assert!(
            stderr(&output).starts_with("wrote ") && stderr(&output).contains(name),
            "{}",
            stderr(&output)
        );
        let bytes = std::fs::read(out).unwrap();
        assert!(bytes.starts_with(start), "{command:?}: {:?}", &bytes[..bytes.len().min(20)]);
    }
}

#[test]
fn an_explored_trace_says_what_its_page_shows() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let page = folder.path().join("x.html");
    let shown = streamtrace(&["explore", &trace, "--out", page.to_str().unwrap(), "--json"]);
    assert_eq!(object(&shown), serde_json::json!({"blocks_shown": 1.0, "mass_shown": 1.0}));
    let markdown = folder.path().join("x.md");
    assert_fails(&["explore", &trace, "--out", markdown.to_str().unwrap()], &["an explored trace", ".html"]);
    assert!(!markdown.exists());
    let missing = folder.path().join("no.trace");
    let out = page.to_str().unwrap();
    assert_fails(&["explore", &trace, "--against", missing.to_str().unwrap(), "--out", out], &["no.trace"]);
}

#[test]
fn anchors_and_routes_of_a_saved_trace_are_said_and_drawn() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let said = object(&streamtrace(&["thought-anchors", &trace, "--json"]));
    assert_eq!(said["scores"].as_array().unwrap().len(), said["sentences"].as_array().unwrap().len());
    assert_eq!(said["receivers"]["heads"].as_array().unwrap().len(), 10);
    let needle = NEEDLE.text[NEEDLE.needles[0].clone()].trim();
    let routes = object(&streamtrace(&["routes", &trace, "--from", needle, "--n-edges", "9", "--json"]));
    assert_eq!(
        (routes["edges"].as_array().unwrap().len(), &routes["from_text"]),
        (9, &format!(" {needle}").into())
    );
    for (arguments, name, start) in [
        (&["thought-anchors"][..], "anchors.svg", &b"<svg"[..]),
        (&["thought-anchors"], "anchors.html", b"<!DOCTYPE html>"),
        (&["routes", "--from", needle], "routes.png", b"\x89PNG"),
    ] {
        let out = folder.path().join(name);
        let output = streamtrace(&[arguments, &[&trace, "--out", out.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(stderr(&output).starts_with("wrote ") && stderr(&output).contains(name), "{arguments:?}");
        assert!(
            stdout(&output).contains("layer") || stdout(&output).contains("sentence"),
            "{}",
            stdout(&output)
        );
        assert!(std::fs::read(out).unwrap().starts_with(start), "{name}");
    }
    assert_fails(
        &["thought-anchors", &trace, "--min-distance", "9"],
        &["rows were recorded for tokens", "StreamConfig::focus"],
    );
    assert_fails(&["thought-anchors", &trace, "--min-distance", "9999"], &["more than 9999 sentences"]);
    assert_fails(
        &["routes", &trace, "--from", "What is the spec of"],
        &["does not contain it; nearest is \"What is the spec"],
    );
    assert_fails(
        &["attention-map", &trace, "--layer", "0", "--head", "0", "--mark", "nowhere", "--out", "a.svg"],
        &["does not contain it"],
    );
    assert_fails(
        &["routes", &trace, "--from", "mentioned in the provided", "--to", "special magic numbers are"],
        &["nearest is"],
    );
}

#[test]
fn anchors_are_of_the_stretch_between_two_texts() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let said = |arguments: &[&str]| {
        object(&streamtrace(&[&["thought-anchors", &trace, "--json"], arguments].concat()))
    };
    let texts = |said: &serde_json::Value| -> Vec<String> {
        let sentences = said["sentences"].as_array().unwrap().iter();
        sentences.map(|sentence| sentence["text"].as_str().unwrap().to_string()).collect()
    };
    let all = texts(&said(&[]));
    let n = all.len();
    let (from, to) = (&all[1][..20], &all[n - 2]);
    assert!(all.iter().filter(|text| text.contains(from)).count() == 1, "{all:?}");
    assert_eq!(texts(&said(&["--from", from])), all[1..]);
    let some = said(&["--from", from, "--to", to]);
    assert_eq!(texts(&some), all[1..n - 1]);
    assert!(some["notes"].to_string().contains("attention from 1 sentence behind them counts"), "{some}");
    assert_fails(
        &["thought-anchors", &trace, "--from", to, "--to", from],
        &["--to that ends after --from begins", "swap them"],
    );
    assert_fails(&["thought-anchors", &trace, "--from", "nowhere in it"], &["does not contain it"]);
    assert_fails(&["thought-anchors", &trace, "--from", to], &["more than 4 sentences", "in the stretch"]);
}

#[test]
fn heads_are_ranked_by_their_attention_on_a_text() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let needle = NEEDLE.text[NEEDLE.needles[0].clone()].trim();
    let readers = ["readers", &trace, "--span", needle];
    let ranking = object(&streamtrace(&[&readers[..], &["--json"]].concat()));
    let scores: Vec<f64> =
        ranking["heads"].as_array().unwrap().iter().map(|head| head["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 48 && scores[0] > 0.0 && scores.is_sorted_by(|a, b| a >= b), "{ranking}");
    assert!(stdout(&streamtrace(&readers)).contains("head"));
    assert_fails(&["readers", &trace, "--span", "nowhere"], &["does not contain it"]);
}

#[test]
fn a_route_is_tested_against_random_ones() {
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let needle = NEEDLE.text[NEEDLE.needles[0].clone()].trim();
    let run =
        ["test-routes", &trace, "--device", "cpu", "--model", MODEL, "--from", needle, "--n-random", "3"];
    let output = streamtrace(&[&run[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = object(&output);
    assert_eq!(fields(&said), ["alone", "controls", "median_drop", "route"]);
    assert_eq!(said["controls"].as_array().unwrap().len(), 3);
    let drop =
        said["route"]["next"]["before"].as_f64().unwrap() - said["route"]["next"]["after"].as_f64().unwrap();
    assert!(drop > said["median_drop"].as_f64().unwrap(), "{said}");
    assert!(stdout(&streamtrace(&run)).contains("median of 3 controls"));
}
