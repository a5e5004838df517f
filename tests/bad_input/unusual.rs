//! Model folders that are written in an unusual way, and mean what others do.

use std::{fs, path::Path};

use serde_json::{Value, json};
use streamtrace::{Error, Trace};

use crate::{
    assert_says,
    common::{self, set},
    model::{added, edit, start_token},
};

/// Returns the logits of a model after a change to its folder.
fn traced(family: &str, change: impl FnOnce(&Path)) -> Result<Trace, Error> {
    let folder = common::random_model(json!({ "model_type": family }));
    change(folder.path());
    common::load(folder.path())?.trace("w1 w2 w3 w4")
}

#[track_caller]
fn assert_same(family: &str, what: &str, change: impl FnOnce(&Path)) {
    let logits = |trace: Trace| trace.logits().unwrap();
    let plain = logits(traced(family, |_| {}).unwrap());
    assert_eq!(logits(traced(family, change).expect(what)), plain, "{what}");
}

#[test]
fn null_is_absent_and_a_window_of_0_is_none() {
    for (family, change) in [
        (
            "llama",
            json!({ "attention_bias": null, "mlp_bias": null, "rms_norm_eps": null, "sliding_window": null }),
        ),
        (
            "llama",
            json!({ "rope_scaling": null, "quantization_config": null, "head_dim": null, "hidden_act": null }),
        ),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": null, "factor": null }, "quantization_config": {} }),
        ),
        ("llama", json!({ "sliding_window": 0, "head_dim": 0 })),
        ("mistral", json!({ "sliding_window": 0 })),
        ("mistral", json!({ "sliding_window": null })),
    ] {
        assert_same(family, &change.to_string(), |folder| {
            edit(&folder.join("config.json"), |config| set(config, change.clone()));
        });
    }
}

#[test]
fn marks_and_numbers_that_json_does_not_know_are_read() {
    let rewrite = |folder: &Path, name: &str, change: &dyn Fn(String) -> String| {
        let path = folder.join(name);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    for name in ["config.json", "tokenizer.json"] {
        assert_same("llama", name, |folder| rewrite(folder, name, &|json| format!("\u{feff}{json}")));
    }
    let with = |field: &str| {
        let field = field.to_string();
        move |json: String| json.replacen('{', &format!("{{{field},"), 1)
    };
    let unused = with(r#""time_step_limit": [0.0, Infinity], "x": {"NaN": -Infinity, "y": NaN}"#);
    assert_same("llama", "a field that nobody needs", |folder| rewrite(folder, "config.json", &unused));
    let used = traced("llama", |folder| {
        edit(&folder.join("config.json"), |config| {
            drop(config.as_object_mut().unwrap().remove("rms_norm_eps"))
        });
        rewrite(folder, "config.json", &with(r#""rms_norm_eps": NaN"#));
    });
    assert_says("a field of the model", used, &["config.json", "\"NaN\"", "expected f64"]);
    let broken = traced("llama", |folder| rewrite(folder, "config.json", &with("\"a\": tru")));
    assert_says("no JSON", broken, &["config.json: expected JSON", "line 1 column", "mend that line"]);
}

#[test]
fn quantised_weights_are_named_wherever_it_is_said() {
    let gemma = json!({ "model_type": "gemma3", "quantization_config": { "quant_method": "bitsandbytes" },
        "text_config": { "hidden_size": 64 } });
    let refused = traced("llama", |folder| fs::write(folder.join("config.json"), gemma.to_string()).unwrap());
    assert_says("nested", refused, &["weights in f32, f16 or bf16", "bitsandbytes", "its GGUF file"]);
}

/// Returns the tokens of "w1 w2" with this `tokenizer_config.json`, after a change to `tokenizer.json`.
fn tokens(config: Value, change: impl FnOnce(&mut Value)) -> Vec<u32> {
    let folder = common::random_model(json!({ "model_type": "llama" }));
    edit(&folder.path().join("tokenizer.json"), change);
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    common::load(folder.path()).unwrap().trace("w1 w2").unwrap().tokens().unwrap()
}

#[test]
fn start_and_end_tokens_are_those_of_the_tokenizers_configuration() {
    let (start, end) = (json!({ "bos_token": "w7" }), json!({ "eos_token": { "content": "w8" } }));
    let config = |changes: Value| {
        let mut config = json!({});
        [&start, &end, &changes].into_iter().for_each(|fields| set(&mut config, fields.clone()));
        config
    };
    let llama = "LlamaTokenizerFast";
    for (changes, without, with) in [
        (json!({}), vec![1, 2], vec![7, 1, 2]),
        (json!({ "add_bos_token": true }), vec![7, 1, 2], vec![7, 1, 2]),
        (json!({ "add_bos_token": true, "add_eos_token": true }), vec![7, 1, 2, 8], vec![7, 1, 2, 8]),
        (json!({ "add_eos_token": true }), vec![1, 2, 8], vec![7, 1, 2, 8]),
        // Other classes leave it to tokenizer.json.
        (json!({ "add_bos_token": false }), vec![1, 2], vec![7, 1, 2]),
        (json!({ "tokenizer_class": llama, "add_bos_token": true }), vec![7, 1, 2], vec![7, 1, 2]),
        (json!({ "tokenizer_class": llama, "add_bos_token": false }), vec![1, 2], vec![1, 2]),
        (json!({ "tokenizer_class": llama }), vec![7, 1, 2], vec![7, 1, 2]),
        (json!({ "add_bos_token": true, "bos_token": "not in the vocabulary" }), vec![1, 2], vec![7, 1, 2]),
        (json!({ "add_bos_token": true, "bos_token": null }), vec![1, 2], vec![7, 1, 2]),
    ] {
        assert_eq!(tokens(config(changes.clone()), |_| {}), without, "{changes}");
        let own = |json: &mut Value| {
            let mut processor = start_token(7);
            processor["special_tokens"]["<s>"]["tokens"] = json!(["w7"]);
            json["post_processor"] = processor;
        };
        assert_eq!(
            tokens(config(changes.clone()), own),
            with,
            "{changes}, with a start token in tokenizer.json"
        );
    }
    // What else happens after the cut stays.
    let byte_level = |json: &mut Value| {
        json["post_processor"] = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    };
    assert_eq!(tokens(config(json!({ "add_bos_token": true })), byte_level), [7, 1, 2]);
}

/// GLM-4 has two, which its chat template writes, too.
#[test]
fn start_tokens_that_a_prompt_has_are_not_added_again() {
    let folder = common::random_model(json!({ "model_type": "llama" }));
    edit(&folder.path().join("tokenizer.json"), |json| {
        json["added_tokens"] = json!([added("w7", 7), added("w8", 8)]);
        let token = |id: u32| json!({ "SpecialToken": { "id": format!("w{id}"), "type_id": 0 } });
        let mut processor = start_token(7);
        processor["single"] = json!([token(7), token(8), { "Sequence": { "id": "A", "type_id": 0 } }]);
        processor["special_tokens"] = json!({ "w7": { "id": "w7", "ids": [7], "tokens": ["w7"] },
            "w8": { "id": "w8", "ids": [8], "tokens": ["w8"] } });
        json["post_processor"] = processor;
    });
    let tracer = common::load(folder.path()).unwrap();
    for (prompt, tokens) in
        [("w1 w2", vec![7, 8, 1, 2]), ("w7w8 w1 w2", vec![7, 8, 1, 2]), ("w7 w1", vec![7, 8, 7, 1])]
    {
        assert_eq!(tracer.trace(prompt).unwrap().tokens().unwrap(), tokens, "{prompt}");
    }
}

#[test]
fn added_tokens_that_the_model_has_no_embedding_for_are_refused_in_prompts_alone() {
    let folder = common::random_model(json!({ "model_type": "llama" }));
    edit(&folder.path().join("tokenizer.json"), |json| {
        json["added_tokens"] = json!([added("<pad>", 97)]);
        json["model"]["vocab"]["<pad>"] = json!(97);
    });
    let tracer = common::load(folder.path()).unwrap();
    assert_eq!(tracer.trace("w1 w2").unwrap().tokens().unwrap(), [1, 2]);
    assert_says(
        "the added token",
        tracer.trace("w1 <pad> w2"),
        &["has an embedding for, with ids below 97", "found <pad>, id 97", "leave this token out"],
    );
}

#[test]
fn tensors_are_found_under_every_prefix() {
    let config = common::config(json!({ "model_type": "llama" }));
    let renamed = |prefix: &str, head: &str| {
        let mut weights = common::random_weights(&config, safetensors::Dtype::F32);
        for weight in &mut weights {
            weight.name = match weight.name.strip_prefix("model.") {
                Some(name) => format!("{prefix}{name}"),
                None => head.to_string(),
            };
        }
        let folder = common::folder(&config, &weights, 1);
        common::load(folder.path()).unwrap().trace("w1 w2 w3 w4").unwrap().logits().unwrap()
    };
    let plain = renamed("model.", "lm_head.weight");
    for (prefix, head) in [
        ("", "lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("language_model.", "lm_head.weight"),
    ] {
        assert_eq!(renamed(prefix, head), plain, "{prefix}, {head}");
    }
}

/// Where the configuration does not say whether the output layer is the embedding, the weights do.
#[test]
fn an_output_layer_that_is_not_there_is_the_embedding_if_nothing_says_otherwise() {
    let logits = |says: Value, has_head: bool| {
        let mut config = common::config(json!({ "model_type": "llama" }));
        let mut weights = common::random_weights(&config, safetensors::Dtype::F32);
        weights.retain(|weight| has_head || weight.name != "lm_head.weight");
        config["tie_word_embeddings"] = says;
        let folder = common::folder(&config, &weights, 1);
        common::load(folder.path())?.trace("w1 w2 w3 w4").map(|trace| trace.logits().unwrap())
    };
    let tied = logits(json!(true), false).unwrap();
    assert_eq!(logits(json!(null), false).unwrap(), tied);
    assert_eq!(logits(json!(true), true).unwrap(), tied, "the head is not used");
    assert_ne!(logits(json!(null), true).unwrap(), tied);
    let words =
        ["lm_head.weight", "tie_word_embeddings: false", "none of that name", "to true in config.json"];
    assert_says("a head that is missing", logits(json!(false), false), &words);
}
