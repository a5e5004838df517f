//! Prompts as people write them: dashes, byte order marks, other encodings, conversations.

use std::fs;

use tempfile::TempDir;

use crate::{MODEL, NEEDLE, assert_fails, object, saved, stderr, streamtrace};

/// Traces a prompt; returns its number of tokens.
#[track_caller]
fn n_tokens(prompt: &[&str]) -> u64 {
    let arguments = ["trace", "--json", "--device", "cpu", "--model", MODEL];
    let output = streamtrace(&[&arguments[..], prompt].concat());
    assert_eq!(output.status.code(), Some(0), "{prompt:?}: {}", stderr(&output));
    object(&output)["n_tokens"].as_u64().unwrap()
}

#[test]
fn texts_may_begin_with_dashes() {
    for text in ["- item one", "-5 + 3 =", "--- \ntitle: x\n---", "--top-k", "-"] {
        assert_eq!(n_tokens(&["--prompt", text]), n_tokens(&[&format!("--prompt={text}")]), "{text}");
    }
    let folder = TempDir::new().unwrap();
    let trace = saved(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let map = ["--layer", "0", "--head", "0", "--out", &at("a.svg")];
    let missing = ["text \"- x\" does not exist"];
    assert_fails(&[&["attention-map", &trace, "--mark", "- x"][..], &map].concat(), &missing);
    assert_fails(&["readers", &trace, "--span", "- x"], &missing);
    assert_fails(&["routes", &trace, "--from", "- x", "--out", &at("a.svg")], &missing);
    assert_fails(&["routes", &trace, "--from", "a", "--to", "- x", "--out", &at("a.svg")], &missing);
    assert_fails(&["anchors", &trace, "--from", "- x", "--out", &at("a.svg")], &missing);
    let test = ["test-routes", &trace, "--model", MODEL, "--from", "a", "--answer", "- x"];
    assert_fails(&test, &missing);
    let page = at("a.html");
    let report = streamtrace(&["report", &trace, "--title", "- a list", "--out", &page]);
    assert_eq!(report.status.code(), Some(0), "{}", stderr(&report));
    assert!(fs::read_to_string(page).unwrap().contains("<title>- a list</title>"));
    let run = ["generate", "--device", "cpu", "--model", MODEL, "--prompt", &NEEDLE.text, "--stop", "- x"];
    let generated = streamtrace(&[&run[..], &["--max-tokens", "1"]].concat());
    assert_eq!(generated.status.code(), Some(0), "{}", stderr(&generated));
}

#[test]
fn prompt_files_are_read_as_editors_write_them() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name).display().to_string();
        fs::write(&path, bytes).unwrap();
        path
    };
    let text = "Where is the key?\r\nIn the door.\r\n";
    let plain = n_tokens(&["--prompt", text]);
    let utf_16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    for (name, bytes) in [
        ("plain", text.as_bytes()),
        ("mark", &[b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("utf-16", &utf_16),
    ] {
        assert_eq!(n_tokens(&["--prompt-file", &write(name, bytes)]), plain, "{name}");
    }
    // Line ends are part of the prompt.
    assert!(plain > n_tokens(&["--prompt", &text.replace('\r', "")]));
    let of = |path: &str| {
        let arguments = ["trace", "--model", MODEL, "--prompt-file", path];
        arguments.map(str::to_string)
    };
    let latin = of(&write("latin", b"caf\xe9"));
    assert_fails(
        &latin.each_ref().map(String::as_str),
        &[
            "cannot read the prompt",
            "expected text in UTF-8, found the byte 0xe9 at byte 3",
            "save it as UTF-8",
        ],
    );
}

#[test]
fn conversations_that_are_none_are_refused_before_the_model_is_opened() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.json").display().to_string();
    let arguments = ["trace", "--model", "/nowhere", "--messages", &path];
    assert_fails(&arguments, &["cannot read the messages"]);
    fs::write(&path, r#"[{"role": "user", "text": "Hi"}]"#).unwrap();
    assert_fails(&arguments, &["a.json: expected a list of messages", "found \"text\" in message 0"]);
}

/// The notes of a run that a user would otherwise not expect.
#[test]
fn long_prompts_and_traces_of_other_weights_are_noted() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["copy", "other"] {
        fs::create_dir(at(name)).unwrap();
        for entry in fs::read_dir(MODEL).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), at(name).join(entry.file_name())).unwrap();
        }
    }
    let config = at("copy").join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["max_position_embeddings"] = 8.into();
    fs::write(config, json.to_string()).unwrap();
    let weights = at("other").join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let half = bytes.len() / 2;
    // Signs and low bits change, numbers stay numbers.
    bytes[half..].iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
    fs::write(weights, bytes).unwrap();

    let (copy, other, trace) =
        (at("copy").display().to_string(), at("other").display().to_string(), saved(folder.path()));
    let said = |arguments: &[&str]| {
        let output = streamtrace(&[arguments, &["--device", "cpu"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output).to_string()
    };
    let long =
        said(&["trace", "--model", &copy, "--prompt", "one two three four five six seven eight nine ten"]);
    assert!(long.contains("and the model was made for 8 tokens"), "{long}");
    let test = |model: &str| {
        said(&["test-routes", &trace, "--model", model, "--from", "special", "--n-random", "1"])
    };
    assert!(!test(&copy).contains("whose weights differ"));
    assert!(test(&other).contains("made with needle-6m, whose weights differ from those of other"));
}
