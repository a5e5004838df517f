//! Model folders that cannot be used.

use std::{fs, path::Path};

use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::{Error, Trace};

use crate::{
    assert_says,
    common::{self, Weight},
    names,
};

fn config() -> Value {
    common::config(json!({ "model_type": "qwen3", "head_dim": 16 }))
}

fn weights() -> Vec<Weight> {
    common::random_weights(&config(), Dtype::F32)
}

fn trace(folder: &Path) -> Result<Trace, Error> {
    common::load(folder)?.trace("w1 w2 w3 w4")
}

/// Returns the error for a folder after a change to it.
#[track_caller]
fn assert_refused(what: &str, words: &[&str], damage: impl FnOnce(&Path)) {
    let folder = common::folder(&config(), &weights(), 1);
    damage(folder.path());
    let before = names(folder.path());
    assert_says(what, trace(folder.path()), words);
    assert_eq!(names(folder.path()), before, "{what}");
}

pub fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn cut(path: &Path, n_bytes: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..n_bytes]).unwrap();
}

/// Returns a folder with other weights.
fn rewrite(folder: &Path, change: impl FnOnce(&mut Vec<Weight>)) {
    let mut weights = weights();
    change(&mut weights);
    common::write_weights(&folder.join("model.safetensors"), &weights);
}

fn named<'a>(weights: &'a mut [Weight], name: &str) -> &'a mut Weight {
    weights.iter_mut().find(|weight| weight.name == name).expect(name)
}

#[test]
fn missing_files_are_named() {
    assert_says(
        "no folder",
        trace(Path::new("/nowhere/model")),
        &["/nowhere/model", "a model folder, a .gguf file, or a model of the hub", "no such file or folder"],
    );
    for (name, words) in [
        ("config.json", ["expected a model folder, with config.json", "found no config.json"]),
        ("tokenizer.json", ["expected a model folder, with config.json", "found no tokenizer.json"]),
        ("model.safetensors", ["expected model.safetensors, or shards of it", "found no file of that kind"]),
    ] {
        assert_refused(name, &[name, words[0], words[1]], |folder| {
            fs::remove_file(folder.join(name)).unwrap()
        });
        assert_refused(name, &[name], |folder| {
            fs::remove_file(folder.join(name)).unwrap();
            fs::create_dir(folder.join(name)).unwrap();
        });
    }
    let folder = common::folder(&config(), &weights(), 1);
    assert_says(
        "a file",
        trace(&folder.path().join("config.json")),
        &["config.json: expected a model folder", "found another file; give the path of the folder"],
    );
}

#[test]
fn shards_must_all_be_there() {
    let shards = || common::folder(&config(), &weights(), 3);
    let missing = shards();
    fs::remove_file(missing.path().join("model-00002-of-00003.safetensors")).unwrap();
    assert_says(
        "a shard",
        trace(missing.path()),
        &["all 3 files of the weights, found no", "model-00002-of-00003.safetensors", "download that file"],
    );
    fs::remove_file(missing.path().join("model.safetensors.index.json")).unwrap();
    assert_says(
        "a shard without an index",
        trace(missing.path()),
        &["all 3 files of the weights, found no", "model-00002-of-00003.safetensors", "download that file"],
    );
    let index = shards();
    cut(&index.path().join("model.safetensors.index.json"), 40);
    assert_says("the index", trace(index.path()), &["model.safetensors.index.json", "download it again"]);
    let empty = shards();
    fs::write(empty.path().join("model.safetensors.index.json"), r#"{"weight_map": {}}"#).unwrap();
    assert_says(
        "an index of nothing",
        trace(empty.path()),
        &["model.embed_tokens.weight", "none of that name"],
    );
}

#[test]
fn files_that_are_cut_off_are_refused() {
    let whole = common::folder(&config(), &weights(), 1);
    let n_bytes = |name: &str| fs::metadata(whole.path().join(name)).unwrap().len() as usize;
    let header = fs::read(whole.path().join("model.safetensors")).unwrap();
    let n_header = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
    for n in [
        0,
        1,
        7,
        8,
        9,
        n_header / 2,
        n_header + 7,
        n_header + 8,
        n_header + 9,
        n_bytes("model.safetensors") - 1,
    ] {
        let words = ["model.safetensors", "a whole safetensors file", "download it again"];
        assert_refused(&format!("{n} bytes of weights"), &words, |folder| {
            cut(&folder.join("model.safetensors"), n)
        });
    }
    for n in [0, 1, n_bytes("config.json") / 2, n_bytes("config.json") - 1] {
        assert_refused(
            &format!("{n} bytes of config"),
            &["config.json", "expected JSON", "EOF", "cut off"],
            |folder| {
                cut(&folder.join("config.json"), n);
            },
        );
    }
    for n in [0, 1, n_bytes("tokenizer.json") / 2, n_bytes("tokenizer.json") - 1] {
        assert_refused(
            &format!("{n} bytes of tokenizer"),
            &["tokenizer.json", "expected a tokenizer", "download it again"],
            |folder| {
                cut(&folder.join("tokenizer.json"), n);
            },
        );
    }
    assert_refused("weights that are text", &["a whole safetensors file"], |folder| {
        fs::write(folder.join("model.safetensors"), "weights of a model\n".repeat(9)).unwrap();
    });
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n";
        assert_refused("a pointer", &[name, "a pointer of Git LFS", "git lfs pull"], |folder| {
            fs::write(folder.join(name), pointer).unwrap();
        });
    }
}

#[test]
fn configurations_of_other_models_are_refused() {
    let cases: [(Value, &[&str]); 27] = [
        (
            json!({ "model_type": "gpt2" }),
            &[
                "model_type llama, mistral, qwen2, qwen3, phi3, gemma2",
                "gpt2",
                "choose a model of a supported family",
            ],
        ),
        (json!({ "hidden_act": "gelu" }), &["hidden_act silu or gelu_pytorch_tanh", "gelu"]),
        (
            json!({ "rope_scaling": { "rope_type": "mrope" } }),
            &["rope_type default, linear, dynamic, llama3, yarn or longrope", "mrope"],
        ),
        (json!({ "rope_scaling": { "rope_type": "yarn" } }), &["rope factor", "none"]),
        (
            json!({ "rope_scaling": { "rope_type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2] } }),
            &["rope short_factor: 8 numbers above 0", "2 numbers"],
        ),
        (json!({ "partial_rotary_factor": 0.2 }), &["an even number of dimensions", "0.2 of 16"]),
        (json!({ "partial_rotary_factor": 1.5 }), &["partial_rotary_factor", "1.5 of 16"]),
        (
            json!({ "quantization_config": { "quant_method": "gptq" } }),
            &["weights in f32", "gptq", "its GGUF file"],
        ),
        (
            json!({ "use_bidirectional_attention": true }),
            &["attention to what came before", "use_bidirectional_attention true"],
        ),
        (json!({ "query_pre_attn_scalar": 0 }), &["query_pre_attn_scalar above 0"]),
        (json!({ "final_logit_softcapping": -30.0 }), &["final_logit_softcapping above 0", "-30"]),
        (json!({ "rope_scaling": { "rope_type": "linear" } }), &["rope factor", "none"]),
        (
            json!({ "rope_scaling": { "rope_type": "linear", "factor": 0.0 } }),
            &["rope factor", "above 0", "0"],
        ),
        (json!({ "rope_theta": 0.0 }), &["rope_theta above 0", "0"]),
        (json!({ "hidden_size": null }), &["a decoder's configuration", "missing field `hidden_size`"]),
        (json!({ "hidden_size": -64 }), &["-64", "is this the config.json"]),
        (json!({ "hidden_size": 0 }), &["sizes above 0"]),
        (json!({ "num_hidden_layers": 0 }), &["sizes above 0"]),
        (json!({ "num_attention_heads": 0 }), &["sizes above 0"]),
        (json!({ "num_attention_heads": 0, "num_key_value_heads": 1 }), &["sizes above 0"]),
        (json!({ "num_key_value_heads": 3 }), &["a multiple of key-value heads"]),
        (json!({ "head_dim": 15 }), &["an even head size"]),
        (json!({ "num_hidden_layers": 1u64 << 60 }), &["sizes above 0 and at most"]),
        (
            json!({ "num_attention_heads": 1u64 << 60, "num_key_value_heads": 1, "head_dim": 64 }),
            &["sizes above 0 and at most"],
        ),
        (json!({ "vocab_size": 96 }), &["ids below 96", "id 96", "this tokenizer belongs to another model"]),
        (
            json!({ "num_hidden_layers": 3 }),
            &[
                "model.layers.2.input_layernorm.weight",
                "none of that name",
                "do not belong to this config.json",
            ],
        ),
        (json!({ "hidden_size": 32 }), &["model.embed_tokens.weight of shape [97, 32]", "[97, 64]"]),
    ];
    for (changes, words) in cases {
        assert_refused(&changes.to_string(), words, |folder| {
            edit(&folder.join("config.json"), |config| common::set(config, changes.clone()));
        });
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_or_type_are_named() {
    let all: Vec<String> = weights().into_iter().map(|weight| weight.name).collect();
    for name in &all {
        assert_refused("missing", &[name, "none of that name", "the download is incomplete"], |folder| {
            rewrite(folder, |weights| weights.retain(|weight| weight.name != *name));
        });
    }
    let (k_proj, norm) = ("model.layers.1.self_attn.k_proj.weight", "model.layers.0.self_attn.q_norm.weight");
    for (name, shape, words) in [
        (k_proj, vec![64, 32], ["of shape [32, 64]", "found [64, 32]"]),
        (k_proj, vec![32 * 64], ["of shape [32, 64]", "found [2048]"]),
        (norm, vec![4, 4], ["of shape [16]", "found [4, 4]"]),
    ] {
        assert_refused("misshapen", &[&[name][..], &words].concat(), |folder| {
            rewrite(folder, |weights| named(weights, name).shape = shape);
        });
    }
    for (dtype, n_bytes) in [(Dtype::F64, 8), (Dtype::I32, 4), (Dtype::I8, 1), (Dtype::BOOL, 1)] {
        assert_refused("type", &[k_proj, "in f32, f16 or bf16", &format!("{dtype:?}")], |folder| {
            rewrite(folder, |weights| {
                let weight = named(weights, k_proj);
                (weight.dtype, weight.bytes) = (dtype, vec![0; 32 * 64 * n_bytes]);
            });
        });
    }
}

#[test]
fn numbers_that_are_none_are_found() {
    // One NaN is the usual one; the other has a payload, which a program may have left in it.
    for number in [f32::NAN, f32::from_bits(0x7fc0_0001), f32::INFINITY, f32::NEG_INFINITY] {
        for (name, place) in [
            ("model.embed_tokens.weight", "layer 0"),
            ("model.layers.0.self_attn.q_proj.weight", "layer 0"),
            ("model.layers.0.self_attn.k_norm.weight", "layer 0"),
            ("model.layers.1.self_attn.k_proj.weight", "layer 1"),
            ("model.layers.1.self_attn.v_proj.weight", "layer 1"),
            ("model.layers.1.mlp.up_proj.weight", "layer 1"),
            ("model.norm.weight", "the logits"),
            ("lm_head.weight", "the logits"),
        ] {
            assert_refused(
                &format!("{number} in {name}"),
                &["not a number", place, "the weights are damaged"],
                |folder| {
                    rewrite(folder, |weights| {
                        named(weights, name)
                            .bytes
                            .chunks_exact_mut(4)
                            .for_each(|value| value.copy_from_slice(&number.to_le_bytes()));
                    });
                },
            );
        }
    }
}

#[test]
fn tokenizers_of_other_models_are_refused() {
    let tokenizer = |folder: &Path| folder.join("tokenizer.json");
    assert_refused(
        "more words",
        &["tokenizer.json", "ids below 97", "id 199", "belongs to another model"],
        |folder| {
            fs::write(tokenizer(folder), common::tokenizer(200).to_string()).unwrap();
        },
    );
    assert_refused(
        "a start token past the vocabulary",
        &["ids below 97", "id 500", "belongs to another model"],
        |folder| {
            edit(&tokenizer(folder), |json| json["post_processor"] = start_token(500));
        },
    );
    assert_refused("another file", &["tokenizer.json", "expected a tokenizer"], |folder| {
        fs::write(tokenizer(folder), "{}").unwrap();
    });
}

pub fn added(content: &str, id: u32) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
}

/// Returns a post-processor that puts a token before each text.
pub fn start_token(id: u32) -> Value {
    let special = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [special, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [id], "tokens": ["<s>"] } },
    })
}
