//! Every error of a download, in one table: what was expected, what was found and what to do. Only where the next
//! request may go otherwise is it to be made again.

use std::fs;

use crate::{
    COMMIT, User,
    common::messages::{
        Help::{self, Again, Other},
        assert_parts,
    },
    folder,
    server::{Manner, Redirect, Server},
};

/// How the server answers, the files that it has beside or in place of weights, the name of the model, words of what
/// is expected, found and to be done, and what helps.
type Row = (Manner, &'static [&'static str], &'static str, [&'static str; 3], Help);

fn table() -> Vec<Row> {
    let plain = Manner::default;
    let refusing = |status, code| Manner { refusal: Some((status, code)), ..plain() };
    let describing = |description| Manner { description: Some(description), ..plain() };
    let model = "tiny/llama";
    vec![
        // What the server refuses.
        (
            refusing("403 Forbidden", ""),
            &[],
            model,
            ["config.json", "to everybody, or none", "HF_TOKEN"],
            Other,
        ),
        (
            refusing("403 Forbidden", "GatedRepo"),
            &[],
            model,
            ["", "not give to everybody", "the model's terms"],
            Other,
        ),
        (
            refusing("404 Not Found", "EntryNotFound"),
            &[],
            model,
            ["config.json", "none at http", "HF_ENDPOINT"],
            Other,
        ),
        (
            refusing("429 Too Many", ""),
            &[],
            model,
            ["config.json", "no more requests", "wait some minutes"],
            Other,
        ),
        (
            refusing("500 Internal", ""),
            &[],
            model,
            ["config.json", "a fault of its own", "again later"],
            Again,
        ),
        (refusing("418 Teapot", ""), &[], model, ["config.json", "status 418", "HF_ENDPOINT"], Other),
        (plain(), &[], "tiny/llama@v9", ["a model of the hub", "no revision v9", "choose a branch"], Other),
        (
            plain(),
            &[],
            "tiny/nothing",
            ["a model of the hub", "none with a revision main", "check the name"],
            Other,
        ),
        // Answers that make no sense.
        (
            Manner { redirect: Redirect::Circle, ..plain() },
            &[],
            model,
            ["config.json", "redirects in a circle", "another network"],
            Other,
        ),
        (
            describing("<html>sign in</html>"),
            &[],
            model,
            ["a model of the hub", "not answer as a hub", "HF_ENDPOINT"],
            Other,
        ),
        (
            describing(r#"{"sha": "../up", "siblings": []}"#),
            &[],
            model,
            ["", "without a commit", "HF_ENDPOINT"],
            Other,
        ),
        (
            Manner { damaged: true, ..plain() },
            &[],
            model,
            ["the file model.safetensors as", "SHA-256", "another network"],
            Other,
        ),
        (
            Manner { cut: Some(9), ..plain() },
            &[],
            model,
            ["model.safetensors", "cannot be asked", "check the network"],
            Again,
        ),
        // What the repository has.
        (
            plain(),
            &["README.md"],
            model,
            ["model.safetensors", "no file of that kind", "choose a model"],
            Other,
        ),
        (plain(), &["pytorch_model.bin"], model, ["model.safetensors", "PyTorch", "save_pretrained"], Other),
        (
            plain(),
            &["adapter_config.json"],
            model,
            ["model.safetensors", "an adapter", "merge_and_unload"],
            Other,
        ),
        (
            plain(),
            &["a-Q8_0.gguf", "b-F16.gguf"],
            model,
            ["or one GGUF file", "a-Q8_0.gguf", "such as tiny/llama:"],
            Other,
        ),
        (
            plain(),
            &["a-Q8_0.gguf"],
            "tiny/llama:Q5_0",
            ["of Q5_0", "a-Q8_0.gguf", "such as tiny/llama:Q8_0"],
            Other,
        ),
        (
            plain(),
            &["new.gguf"],
            "tiny/llama/old.gguf",
            ["the file old.gguf", "new.gguf", "may have renamed it"],
            Other,
        ),
        (
            plain(),
            &["a-00001-of-00002.gguf"],
            model,
            ["all 2 parts", "no a-00002", "choose another file"],
            Other,
        ),
        (
            plain(),
            &["a/b.txt"],
            "https://example.org/a/b",
            ["a link to a model of the hub", "another one", "give the model's name"],
            Other,
        ),
    ]
}

#[test]
fn every_error_of_a_download_says_what_to_do() {
    for (manner, files, model, words, help) in table() {
        let folder = folder(1);
        if !files.is_empty() {
            fs::remove_file(folder.path().join("model.safetensors")).unwrap();
            files
                .iter()
                .filter(|file| !file.contains('/'))
                .for_each(|file| fs::write(folder.path().join(file), "").unwrap());
        }
        // The hub says the SHA-256 where it redirects to a store.
        let store = manner.damaged.then(|| Server::of(folder.path(), COMMIT, manner.clone()));
        let manner = match &store {
            Some(store) => Manner { redirect: Redirect::Store(store.url()), damaged: false, ..manner },
            None => manner,
        };
        let server = Server::of(folder.path(), COMMIT, manner);
        let output = User::new(&server).trace(model);
        assert_eq!(output.status.code(), Some(1), "{model}, {words:?}");
        assert_parts(&String::from_utf8_lossy(&output.stderr), words, help);
    }
}

#[test]
fn variables_that_mean_nothing_are_said_before_the_network_is_asked() {
    let server = Server::of(folder(1).path(), COMMIT, Manner::default());
    for (variable, value, words) in [
        ("HF_ENDPOINT", "huggingface.co", ["the address of a server", "huggingface.co", "unset it"]),
        ("HF_ENDPOINT", "http://a b", ["the address of a server", "a b", "unset it"]),
        ("HF_TOKEN", "hf_a b", ["letters, digits", "other characters", "copy it once more"]),
    ] {
        let mut user = User::new(&server);
        user.variables.push((variable, value.into()));
        let said = user.trace("tiny/llama").stderr;
        assert_parts(&String::from_utf8_lossy(&said), words, Other);
    }
    let closed = server.url();
    drop(server);
    let mut user = User::offline();
    user.variables = vec![("HF_ENDPOINT", closed)];
    let said = String::from_utf8_lossy(&user.trace("tiny/llama").stderr).into_owned();
    assert_parts(&said, ["a model of the hub", "cannot be asked", "check the network"], Help::Again);
    user.variables = vec![("HF_HUB_OFFLINE", "1".into())];
    let said = String::from_utf8_lossy(&user.trace("tiny/llama").stderr).into_owned();
    assert_parts(
        &said,
        ["a cached model of the hub", "none of revision main", "unset HF_HUB_OFFLINE"],
        Help::Again,
    );
}
