//! Every error of a folder, in one table: it names the file, what was expected, what was found and what to do. Only
//! files that a download can mend are to be downloaded again. `tests/gguf/messages.rs` has the errors of GGUF files,
//! `tests/hub/messages.rs` those of downloads.

use std::{fs, path::Path};

use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::Error;

use crate::{
    common::{
        self,
        messages::{
            Help::{self, Again, Other},
            assert_parts,
        },
    },
    model::edit,
};

/// A change to a model's folder.
type Damage = Box<dyn Fn(&Path)>;

fn config(changes: Value) -> Damage {
    Box::new(move |folder| edit(&folder.join("config.json"), |config| common::set(config, changes.clone())))
}

fn cut(name: &'static str) -> Damage {
    Box::new(move |folder| {
        let bytes = fs::read(folder.join(name)).unwrap();
        fs::write(folder.join(name), &bytes[..bytes.len() / 2]).unwrap();
    })
}

fn gone(name: &'static str) -> Damage {
    Box::new(move |folder| fs::remove_file(folder.join(name)).unwrap())
}

fn written(name: &'static str, text: &'static str) -> Damage {
    Box::new(move |folder| fs::write(folder.join(name), text).unwrap())
}

fn renamed(from: &'static str, to: &'static str) -> Damage {
    Box::new(move |folder| fs::rename(folder.join(from), folder.join(to)).unwrap())
}

/// Each damage, words of what was expected, found and to be done, and what helps.
fn table() -> Vec<(Damage, [&'static str; 3], Help)> {
    let tokenizer = |change: fn(&mut Value)| -> Damage {
        Box::new(move |folder| edit(&folder.join("tokenizer.json"), change))
    };
    vec![
        (gone("config.json"), ["config.json", "no config.json", "check the path"], Again),
        (gone("tokenizer.json"), ["tokenizer.json", "no tokenizer.json", "other files too"], Again),
        (
            renamed("tokenizer.json", "tokenizer.model"),
            ["tokenizer.json", "tokenizer.model, but no", "save_pretrained"],
            Other,
        ),
        (gone("model.safetensors"), ["model.safetensors", "no file of that kind", "weights too"], Again),
        (
            renamed("model.safetensors", "pytorch_model.bin"),
            ["model.safetensors", "pytorch_model.bin", "convert it"],
            Other,
        ),
        (
            renamed("model.safetensors", "model-00002-of-00002.safetensors"),
            ["all 2 files", "no ", "that file too"],
            Again,
        ),
        (cut("config.json"), ["JSON", "EOF", "cut off"], Again),
        (cut("tokenizer.json"), ["a tokenizer", "EOF", "cut off"], Again),
        (cut("model.safetensors"), ["a whole safetensors file", "", "cut off"], Again),
        (
            written("config.json", "version https://git-lfs.github.com/spec/v1"),
            ["the file itself", "Git LFS", "git lfs pull"],
            Again,
        ),
        (
            written("model.safetensors", "<!DOCTYPE html>\n<title>Sign in</title>"),
            ["the file itself", "a web page", "/resolve/"],
            Again,
        ),
        (
            written("model.safetensors.index.json", "{\"metadata\": {}}"),
            ["a weight_map", "missing field", "remove it"],
            Other,
        ),
        (written("config.json", "[]"), ["model_type", "none", "choose a model"], Other),
        (written("tokenizer.json", "{}"), ["a tokenizer", "", "take the model's own"], Other),
        (tokenizer(|json| json["model"]["type"] = json!("Newer")), ["a tokenizer", "", "not known"], Other),
        (
            tokenizer(|json| json["model"]["vocab"]["w"] = json!(500)),
            ["ids below 97", "id 500", "another model"],
            Other,
        ),
        (config(json!({ "model_type": "gpt2" })), ["model_type llama, mistral", "gpt2", "--as llama"], Other),
        (
            config(json!({ "hidden_size": "x" })),
            [
                "a decoder's configuration",
                "hidden_size: invalid type: string \"x\"",
                "is this the config.json",
            ],
            Other,
        ),
        (config(json!({ "hidden_act": "relu" })), ["hidden_act silu", "relu", "supported family"], Other),
        (
            config(json!({ "num_key_value_heads": 3 })),
            ["a multiple of key-value heads", "3", "supported family"],
            Other,
        ),
        (
            config(json!({ "rope_scaling": { "rope_type": "mrope" } })),
            ["rope_type default", "mrope", "supported family"],
            Other,
        ),
        (
            config(json!({ "layer_types": ["full_attention"] })),
            ["2 layer_types", "1", "supported family"],
            Other,
        ),
        (
            config(json!({ "model_type": "smollm3", "no_rope_layers": [1] })),
            ["2 no_rope_layers", "1", "supported family"],
            Other,
        ),
        (
            config(json!({ "model_type": "granite", "residual_multiplier": 0 })),
            ["residual_multiplier above 0", "0", "supported family"],
            Other,
        ),
        (
            config(json!({ "quantization_config": { "quant_method": "awq" } })),
            ["weights in f32", "awq", "its GGUF file"],
            Other,
        ),
        (
            config(json!({ "use_bidirectional_attention": true })),
            ["what came before", "true", "supported family"],
            Other,
        ),
        (
            config(json!({ "hidden_size": 32 })),
            ["of shape [97, 32]", "[97, 64]", "take both from one model"],
            Other,
        ),
        (
            config(json!({ "num_hidden_layers": 3 })),
            ["model.layers.2", "none of that name", "do not belong"],
            Again,
        ),
    ]
}

#[test]
fn every_error_of_the_loaders_says_what_to_do() {
    let model = common::config(json!({ "model_type": "llama" }));
    let weights = common::random_weights(&model, Dtype::F32);
    for (damage, words, help) in table() {
        let folder = common::folder(&model, &weights, 1);
        damage(folder.path());
        let error = common::load(folder.path()).map(drop).expect_err(words[0]);
        let Error::Model { path, .. } = &error else { panic!("{words:?}: {error}") };
        assert!(path.starts_with(&folder.path().display().to_string()), "{error}");
        assert_parts(&error.to_string(), words, help);
    }
}

/// What is said of paths that are no model at all.
#[test]
fn other_folders_and_files_are_told_from_models() {
    let folder = tempfile::TempDir::new().unwrap();
    let said = |path: &Path| common::load(path).map(drop).unwrap_err().to_string();
    assert!(said(folder.path()).contains("found an empty folder; check the path"), "{}", said(folder.path()));
    let file = folder.path().join("notes.txt");
    fs::write(&file, "notes").unwrap();
    assert!(said(&file).contains("found another file; give the path of the folder"), "{}", said(&file));
    assert!(said(folder.path()).contains("found no config.json"), "{}", said(folder.path()));
}
