//! Models with experts: tensors in every layout, faults in them, and the mass on learned sinks.

use safetensors::Dtype;
use serde_json::{Value, json};
use streamtrace::{Effect, Intervention, StreamConfig, Trace, Tracer};

use crate::{
    apart,
    common::{self, Weight},
    golden,
};

const PARTS: [[&str; 3]; 2] = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];

fn keep_all(folder: &std::path::Path) -> Tracer {
    common::load(folder).unwrap().with(StreamConfig { top_k: usize::MAX, ..StreamConfig::default() })
}

/// Returns the experts' tensors as transformers holds them since version 5: gate and up of all experts are one.
fn fused(weights: &[Weight]) -> Vec<Weight> {
    let (experts, mut others): (Vec<Weight>, Vec<Weight>) =
        weights.iter().cloned().partition(|weight| weight.name.contains(".experts."));
    let mut layers: Vec<&str> =
        experts.iter().filter_map(|w| Some(w.name.split_once(".experts.")?.0)).collect();
    layers.dedup();
    for layer in layers {
        let find = |i: usize, part: usize| {
            let is_it = |weight: &&Weight| {
                PARTS.iter().any(|names| weight.name == format!("{layer}.experts.{i}.{}.weight", names[part]))
            };
            experts.iter().find(is_it)
        };
        let n = (0..).find(|&i| find(i, 0).is_none()).unwrap();
        let bytes = |parts: &[usize]| -> Vec<u8> {
            let one = |i: usize| parts.iter().flat_map(move |&part| find(i, part).unwrap().bytes.clone());
            (0..n).flat_map(one).collect()
        };
        let [rows, width] = find(0, 0).unwrap().shape[..] else { panic!("a matrix") };
        let name = |part: &str| format!("{}.experts.{part}", layer.replace("block_sparse_moe", "mlp"));
        let mut add = |name, shape, bytes| others.push(Weight { name, shape, dtype: Dtype::F32, bytes });
        add(name("gate_up_proj"), vec![n, 2 * rows, width], bytes(&[0, 1]));
        add(name("down_proj"), vec![n, width, rows], bytes(&[2]));
    }
    others.iter_mut().for_each(|weight| weight.name = weight.name.replace("block_sparse_moe", "mlp"));
    others
}

#[test]
fn tensors_of_all_experts_are_those_of_each() {
    let mut n = 0;
    for (config, weights, prompt, expected) in golden::all() {
        if !weights.iter().any(|weight| weight.name.contains(".experts.0.")) {
            continue;
        }
        n += 1;
        let folder = common::folder(&config, &fused(&weights), 1);
        let logits = keep_all(folder.path()).trace(&prompt).unwrap().logits().unwrap();
        assert!(apart(&logits, &expected) < 1e-4, "{config}");
    }
    assert_eq!(n, 10);
}

fn qwen3() -> Value {
    common::config(json!({ "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32 }))
}

fn gpt_oss() -> Value {
    common::config(
        json!({ "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
        "intermediate_size": 64, "sliding_window": 50, "quantization_config": { "quant_method": "mxfp4" } }),
    )
}

#[track_caller]
fn assert_refused(config: &Value, weights: &[Weight], words: &[&str]) {
    let folder = common::folder(config, weights, 1);
    let error = common::load(folder.path()).err().expect("an error").to_string();
    words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in: {error}"));
}

#[test]
fn settings_of_experts_that_make_no_sense_are_named() {
    for (changes, words) in [
        (
            json!({ "num_experts_per_tok": 5 }),
            ["num_experts_per_tok from 1 to 4, the number of experts", "5"],
        ),
        (json!({ "num_experts_per_tok": 0 }), ["num_experts_per_tok from 1 to 4", "0"]),
        (json!({ "num_experts_per_tok": null }), ["num_experts_per_tok", "none"]),
        (json!({ "moe_intermediate_size": 0 }), ["a size above 0", "4 experts of 0 numbers"]),
        (json!({ "n_group": 3 }), ["n_group that divides 4 experts", "3 groups"]),
        (
            json!({ "n_group": 2, "topk_group": 1, "num_experts_per_tok": 3 }),
            ["topk_group that has 3", "of which 1"],
        ),
        (json!({ "quantization_config": { "quant_method": "mxfp4" } }), ["f32, f16 or bf16", "mxfp4"]),
    ] {
        let weights = common::random_weights(&qwen3(), Dtype::F32);
        let mut config = qwen3();
        common::set(&mut config, changes);
        assert_refused(&config, &weights, &words);
    }
    let weights = common::random_weights(&gpt_oss(), Dtype::F32);
    for (changes, words) in [
        (json!({ "swiglu_alpha": 1.5 }), ["swiglu_alpha 1.702", "1.5"]),
        (json!({ "quantization_config": { "quant_method": "fp8" } }), ["f32, f16 or bf16", "fp8"]),
    ] {
        let mut config = gpt_oss();
        common::set(&mut config, changes);
        assert_refused(&config, &weights, &words);
    }
}

#[test]
fn tensors_of_experts_that_are_missing_or_of_another_kind_are_named() {
    let config = qwen3();
    let weights = common::random_weights(&config, Dtype::F32);
    let name = "model.layers.1.mlp.experts.2.up_proj.weight";
    let missing: Vec<Weight> = weights.iter().filter(|weight| weight.name != name).cloned().collect();
    assert_refused(&config, &missing, &[name, "none of that name"]);
    let changed = |name: &str, change: fn(&mut Weight)| {
        let mut weights = common::random_weights(&config, Dtype::F32);
        change(weights.iter_mut().find(|weight| weight.name == name).unwrap());
        weights
    };
    let router = "model.layers.0.mlp.gate.weight";
    let larger = changed(router, |weight| {
        weight.shape[0] += 1;
        weight.bytes.extend([0; 4 * 64]);
    });
    assert_refused(&config, &larger, &["model.layers.0.mlp.gate.weight of shape [4, 64]", "[5, 64]"]);
    let other = changed(name, |weight| {
        weight.dtype = Dtype::F8_E4M3;
        weight.bytes.truncate(weight.bytes.len() / 4);
    });
    assert_refused(&config, &other, &[name, "in f32, f16 or bf16", "F8_E4M3"]);
    let config = gpt_oss();
    let mut weights = common::random_weights(&config, Dtype::F32);
    let scales = "model.layers.1.mlp.experts.down_proj_scales";
    weights.retain(|weight| weight.name != scales);
    assert_refused(&config, &weights, &[scales, "none of that name"]);
    let mut config = gpt_oss();
    common::set(&mut config, json!({ "intermediate_size": 48 }));
    let weights = common::random_weights(&config, Dtype::F32);
    assert_refused(&config, &weights, &["down_proj_blocks of rows of a multiple of 32 numbers", "48"]);
}

/// In a layer with as many experts as a token takes, it takes all; the record names each once, in layers that have
/// some.
#[test]
fn experts_that_tokens_took_are_recorded_where_asked() {
    let mut config = qwen3();
    common::set(&mut config, json!({ "mlp_only_layers": [0], "num_hidden_layers": 3 }));
    let folder = common::folder(&config, &common::random_weights(&config, Dtype::F32), 1);
    let tracer = common::load(folder.path()).unwrap();
    let prompt = common::prompt(1500);
    assert_eq!(tracer.trace(&prompt).unwrap().experts_of(1, 0..9), Ok(None));
    let trace =
        tracer.with(StreamConfig { experts: true, ..StreamConfig::default() }).trace(&prompt).unwrap();
    assert_eq!(trace.experts_of(0, 0..1500), Ok(None));
    let mut taken = [0; 4];
    for layer in [1, 2] {
        let experts = trace.experts_of(layer, 0..1500).unwrap().unwrap();
        assert_eq!(experts.len(), 1500);
        for of_token in experts {
            assert!(of_token.len() == 2 && of_token[0] != of_token[1], "{of_token:?}");
            of_token.iter().for_each(|&expert| taken[expert] += 1);
        }
    }
    assert!(taken.iter().all(|&n| n > 100), "{taken:?}");
    let rows: Vec<_> = trace.expert_edges().unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2 * 1500 * 2);
    let of_row = trace.experts_of(2, 1234..1235).unwrap().unwrap();
    let found = rows.iter().filter(|row| (row.layer, row.token) == (2, 1234));
    assert!(found.map(|row| (row.rank, row.expert)).eq(of_row[0].iter().copied().enumerate()));
    let dense = common::random_model(json!({ "model_type": "qwen3", "head_dim": 16 }));
    let tracer =
        common::load(dense.path()).unwrap().with(StreamConfig { experts: true, ..Default::default() });
    let error = tracer.trace(&prompt).err().expect("an error").to_string();
    assert!(error.contains("experts: expected a model with experts"), "{error}");
}

/// With one expert chosen by the sign of a product, a token takes the expert that its router's logits say.
#[test]
fn the_recorded_expert_is_the_routers() {
    let mut config = qwen3();
    common::set(&mut config, json!({ "num_hidden_layers": 1, "num_experts_per_tok": 1 }));
    let mut weights = common::random_weights(&config, Dtype::F32);
    let router = weights.iter_mut().find(|weight| weight.name.ends_with("mlp.gate.weight")).unwrap();
    // The logits of experts 1 and 3 are opposite and those of the others 0: the largest is one of the two.
    let row: Vec<u8> = router.bytes[..256].to_vec();
    let negative = row.as_chunks().0.iter().flat_map(|x| (-f32::from_le_bytes(*x)).to_le_bytes());
    router.bytes = [vec![0; 256], row.clone(), vec![0; 256], negative.collect()].concat();
    let folder = common::folder(&config, &weights, 1);
    let tracer = common::load(folder.path()).unwrap();
    let experts = StreamConfig { experts: true, top_k: usize::MAX, ..StreamConfig::default() };
    let trace = tracer.with(experts).trace(&common::prompt(80)).unwrap();
    let taken = trace.experts_of(0, 0..80).unwrap().unwrap().concat();
    assert!(taken.iter().all(|expert| [1, 3].contains(expert)), "{taken:?}");
    assert!(taken.contains(&1) && taken.contains(&3), "{taken:?}");
}

/// Returns what is on keys and on sinks, over all rows of a layer's heads.
fn masses(trace: &Trace, layer: usize) -> (f64, f64) {
    let on_keys: f32 = trace.masses(layer).unwrap().iter().sum();
    let on_sinks: f32 = trace.on_sink(layer).unwrap().unwrap().iter().sum();
    (f64::from(on_keys), f64::from(on_sinks))
}

#[test]
fn mass_on_learned_sinks_is_told_apart_from_what_is_pruned() {
    let config = gpt_oss();
    let folder = common::folder(&config, &common::random_weights(&config, Dtype::F32), 1);
    let prompt = common::prompt(600);
    let tracer = common::load(folder.path()).unwrap();
    let sparse = tracer.with(StreamConfig { top_k: 12, ..StreamConfig::default() }).trace(&prompt).unwrap();
    let exact = tracer.exact().trace(&prompt).unwrap();
    let mut mean = 0.0;
    for layer in 0..2 {
        let n_rows = (4 * sparse.blocks(layer).unwrap().n_query_blocks()) as f64;
        let (on_keys, on_sinks) = masses(&sparse, layer);
        assert!(((on_keys + on_sinks) / n_rows - 1.0).abs() < 1e-3, "{on_keys} and {on_sinks} of {n_rows}");
        let (on_kept, on_sinks) = masses(&exact, layer);
        let recall: f32 = exact.recall(layer).unwrap().unwrap().iter().sum::<f32>() / 4.0;
        // All query blocks but the last are as long, so that rows of blocks weigh almost as their queries do.
        let share = on_kept / (n_rows - on_sinks);
        assert!((share - f64::from(recall)).abs() < 0.01, "{share}, told {recall}");
        mean += on_sinks / n_rows / 2.0;
    }
    let told = exact.summary().on_sinks.unwrap();
    assert!((told - mean).abs() < 0.01 && told > 0.01, "{told}, not {mean}");
    assert!(exact.to_string().contains("on learned sinks"), "{exact}");
    let compared = tracer.with(StreamConfig { top_k: usize::MAX, ..StreamConfig::default() });
    let fidelity =
        compared.compare(&compared.trace(&prompt).unwrap()).unwrap().summary().fidelity.clone().unwrap();
    assert!((fidelity.recall - 1.0).abs() < 1e-4 && fidelity.kl < Some(1e-7), "{fidelity:?}");
}

/// A query that sees itself alone in all layers is like the only one of a prompt: its sink takes the same share.
#[test]
fn what_is_hidden_leaves_its_share_to_keys_and_sink() {
    let config = gpt_oss();
    let folder = common::folder(&config, &common::random_weights(&config, Dtype::F32), 1);
    let tracer = common::load(folder.path()).unwrap();
    let prompt = common::prompt(70);
    let trace =
        tracer.with(StreamConfig { top_k: usize::MAX, ..StreamConfig::default() }).trace(&prompt).unwrap();
    let alone = tracer.trace(prompt.split(' ').next_back().unwrap()).unwrap();
    assert_eq!(alone.n_tokens(), 1);
    let alone = &alone.summary().next_token;
    for trace in [trace, tracer.exact().trace(&prompt).unwrap()] {
        let effect = without(&tracer, &trace, 0..69);
        let after = if effect.next_token.id == alone.id { effect.next_token.logprob } else { f64::NAN };
        assert!((after - alone.logprob).abs() < 1e-5, "{effect:?}, alone {alone:?}");
        assert!(effect.next.kl > 1e-6, "{effect:?}");
    }
}

fn without(tracer: &Tracer, trace: &Trace, keys: std::ops::Range<usize>) -> Effect {
    tracer.knock_out(trace, &[Intervention::without_span("others", keys)], None).unwrap().remove(0)
}
