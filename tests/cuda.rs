//! The same prompts on both devices: the GPU finds what the CPU finds, up to bf16. Skipped if no GPU works.
#![cfg(feature = "engine")]

#[path = "cuda/cards.rs"]
mod cards;
mod common;
#[path = "cuda/experts.rs"]
mod experts;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use safetensors::Dtype;
use serde_json::json;
use streamtrace::{
    Budget, DeviceChoice, Error, Estimate, GenerateConfig, Intervention, LoadOptions, Search, Span,
    StreamConfig, Trace, Tracer,
    tasks::{RulerConfig, Task},
};

/// Returns the bundled model on a device.
fn load(device: DeviceChoice) -> Result<Tracer, Error> {
    load_within(device, None)
}

fn load_within(device: DeviceChoice, memory: Option<u64>) -> Result<Tracer, Error> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m");
    Tracer::load_with(LoadOptions { model, device, memory, ..LoadOptions::default() })
}

/// Returns the model on the CPU and on the GPU, one test at a time: the card's memory is measured for the
/// whole process.
fn both() -> Option<([Tracer; 2], MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match load(DeviceChoice::Cuda) {
        Ok(gpu) => Some(([load(DeviceChoice::Cpu).unwrap(), gpu], alone)),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn needle(tracer: &Tracer, n_tokens: usize, seed: u64) -> String {
    let task = RulerConfig { task: Task::NiahMultikey1, n_tokens, seed, ..RulerConfig::default() };
    tracer.prompt(&task).unwrap().text
}

/// Returns the share of a layer's kept blocks that two traces have in common, over all rows.
fn shared_blocks(a: &Trace, b: &Trace, layer: usize) -> f64 {
    let (a, b) = (a.mask(layer).unwrap(), b.mask(layer).unwrap());
    let rows = || (0..a.n_heads()).flat_map(|h| (0..a.blocks.n_query_blocks()).map(move |q| (h, q)));
    let n_shared: usize =
        rows().map(|(h, q)| a.kept(h, q).iter().filter(|block| b.kept(h, q).contains(block)).count()).sum();
    n_shared as f64 / rows().map(|(h, q)| a.kept(h, q).len()).sum::<usize>() as f64
}

/// Returns ‖a − b‖ / ‖a‖ of the mass that a layer's keys received, over all heads.
fn received_error(a: &Trace, b: &Trace, layer: usize) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for head in 0..a.n_heads() {
        let (a, b) = (a.head(layer, head).unwrap(), b.head(layer, head).unwrap());
        for (a, b) in a.received().iter().zip(b.received()) {
            difference += f64::from(a - b).powi(2);
            size += f64::from(*a).powi(2);
        }
    }
    (difference / size).sqrt()
}

/// Random models with features that the bundled one lacks: a soft cap, norms after each part, another
/// activation, rotary positions of a part of each head, of two kinds, stretched, side by side or none; queries
/// scaled and normed; factors of what is added and of logits; no norms before the parts.
#[test]
fn families_have_the_same_logits() {
    let Some((_, _alone)) = both() else { return };
    let gemma = json!({ "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 40, "sliding_window": 48,
        "tie_word_embeddings": true });
    let longrope =
        json!({ "rope_type": "longrope", "short_factor": vec![1.0; 24], "long_factor": vec![1.5; 24] });
    for (family, changes) in [
        ("gemma2", json!({ "attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0 })),
        ("gemma3_text", json!({ "rope_local_base_freq": 100.0, "sliding_window_pattern": 2 })),
        (
            "phi3",
            json!({ "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64, "rope_scaling": longrope }),
        ),
        (
            "granite",
            json!({ "embedding_multiplier": 12.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1,
                "logits_scaling": 4.0 }),
        ),
        ("olmo3", json!({ "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 48 })),
        ("smollm3", json!({ "no_rope_layers": [1, 0] })),
        ("glm4", json!({ "partial_rotary_factor": 0.5, "attention_bias": true })),
        ("mixtral", json!({ "num_local_experts": 8, "num_experts_per_tok": 2 })),
        (
            "qwen2_moe",
            json!({ "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
                "shared_expert_intermediate_size": 48, "mlp_only_layers": [1] }),
        ),
        (
            "qwen3_moe",
            json!({ "num_experts": 16, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": true }),
        ),
        ("olmoe", json!({ "num_experts": 6, "num_experts_per_tok": 2 })),
        (
            "glm4_moe",
            json!({ "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 2,
                "routed_scaling_factor": 1.7, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1 }),
        ),
        (
            "gpt_oss",
            json!({ "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 96, "sliding_window": 48,
                "quantization_config": { "quant_method": "mxfp4" } }),
        ),
        ("gpt_oss", json!({ "num_local_experts": 8, "num_experts_per_tok": 2, "swiglu_limit": 0.5 })),
    ] {
        let mut config = common::config(json!({ "model_type": family, "head_dim": 64, "vocab_size": 104 }));
        if family.starts_with("gemma") {
            common::set(&mut config, gemma.clone());
        }
        common::set(&mut config, changes);
        let config_has_experts = config["num_experts_per_tok"].is_number();
        let folder = common::folder(&config, &common::random_weights(&config, Dtype::BF16), 1);
        for (block_size_q, search) in [(32, Search::Exhaustive), (64, Search::Exhaustive)] {
            let config = StreamConfig {
                block_size_q,
                block_size_k: 8,
                top_k: usize::MAX,
                search,
                ..Default::default()
            };
            let [cpu, gpu] = [DeviceChoice::Cpu, DeviceChoice::Cuda].map(|device| {
                let options = LoadOptions { model: folder.path().into(), device, ..LoadOptions::default() };
                Tracer::load_with(options).unwrap().with(config.clone()).trace(&common::prompt(203)).unwrap()
            });
            let (a, b) = (cpu.logits().unwrap(), gpu.logits().unwrap());
            let length =
                |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let error = length(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / length(&mut a.iter().copied());
            // Where two experts have nearly the same score, rounding turns which of them a row takes.
            let tolerance = if config_has_experts { 0.1 } else { 0.03 };
            assert!(error < tolerance, "{family}, query blocks of {block_size_q}: {error}");
            for layer in 0..2 {
                assert!(received_error(&cpu, &gpu, layer) < tolerance, "{family}, layer {layer}");
                let [a, b] = [&cpu, &gpu].map(|trace| trace.on_sink(layer).unwrap());
                assert!(a.is_some() == (family == "gpt_oss") && a.is_some() == b.is_some());
                let on_sinks = relative(&a.unwrap_or_default(), &b.unwrap_or_default());
                assert!(family != "gpt_oss" || on_sinks < tolerance, "layer {layer}: {on_sinks}");
            }
        }
    }
}

#[test]
fn needles_have_the_same_next_token() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    for seed in 0..20 {
        let prompt = needle(&cpu, 2_000, seed);
        let [a, b] = [&cpu, &gpu].map(|tracer| tracer.trace(&prompt).unwrap().summary().next_token.id);
        assert_eq!(a, b, "seed {seed}");
    }
}

#[test]
fn masks_and_records_agree_for_every_search_and_block_size() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    let prompt = needle(&cpu, 3_001, 7);
    let estimates = [Estimate::First, Estimate::Middle, Estimate::MeanSpread]
        .map(|e| StreamConfig::default().published(e));
    let halves = StreamConfig { beam: 8, split: 2, ..Default::default() };
    let others = [Search::Exhaustive, Search::Window, Search::Random { seed: 1 }];
    let others = others.map(|search| StreamConfig { search, ..Default::default() });
    let exact = StreamConfig { exact: true, ..Default::default() };
    for base in others.into_iter().chain(estimates).chain([StreamConfig::default(), halves, exact]) {
        for (block_size_q, block_size_k, top_k) in
            [(16, 4, 96), (16, 16, 40), (32, 8, 64), (64, 32, 16), (128, 64, 8), (16, 64, 8), (128, 8, 64)]
        {
            let config = StreamConfig {
                block_size_q,
                block_size_k,
                top_k,
                sink_blocks: 1,
                local_blocks: 2,
                ..base.clone()
            };
            let [a, b] = [&cpu, &gpu].map(|tracer| tracer.with(config.clone()).trace(&prompt).unwrap());
            let (shared, error) = (shared_blocks(&a, &b, 0), received_error(&a, &b, 0));
            // Near ties may flip in bf16, more often with larger blocks.
            assert!(shared > 0.97, "{shared} of the blocks shared with {config:?}");
            assert!(error < 0.08, "received mass differs by {error} with {config:?}");
            // Budgets by head follow masses, which differ a little.
            assert!((a.summary().pruned - b.summary().pruned).abs() < 1e-3, "{config:?}");
            let told = |trace: &Trace| trace.summary().recall.unwrap().mean;
            assert!((told(&a) - told(&b)).abs() < 5e-3, "{} and {} told", told(&a), told(&b));
            let [a, b] = [&a, &b].map(|trace| trace.summary().keys_read_per_query_block);
            // The ranges kept at the candidates' ends decide how many are read after them.
            assert!(
                a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= 0.02 * a),
                "{a:?} rows read on the CPU, {b:?} on the GPU, {config:?}"
            );
        }
    }
}

/// Returns ‖a − b‖ / ‖a‖
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied())
}

#[test]
fn what_keys_write_and_sentences_receive_is_the_same() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    let prompt = needle(&cpu, 3_000, 5);
    for (block_size_q, block_size_k) in [(32, 8), (64, 32), (128, 64)] {
        let config = StreamConfig {
            block_size_q,
            block_size_k,
            top_k: 40,
            search: Search::Exhaustive,
            ..Default::default()
        };
        let [a, b] = [&cpu, &gpu].map(|tracer| tracer.with(config.clone()).trace(&prompt).unwrap());
        assert!(relative(&a.residual(0).unwrap(), &b.residual(0).unwrap()) < 0.01);
        for head in 0..a.n_heads() {
            let written = relative(&a.written(0, head).unwrap(), &b.written(0, head).unwrap());
            let vertical = relative(&a.vertical(0, head).unwrap(), &b.vertical(0, head).unwrap());
            assert!(
                written < 0.05 && vertical < 0.1,
                "head {head}: written {written}, vertical {vertical} with {config:?}"
            );
        }
    }
}

/// Special tokens between turns, and what follows a thought, take no part.
#[test]
fn sentences_of_a_chat_receive_the_same() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    let (question, thought) = (needle(&cpu, 1_000, 5), needle(&cpu, 2_000, 6));
    let prompt = format!(
        "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n{thought}\n</think>\n\
         It is said above. It is so.<|im_end|>\n"
    );
    for (block_size_q, block_size_k) in [(32, 8), (64, 32), (128, 64)] {
        let search = Search::Exhaustive;
        let config = StreamConfig { block_size_q, block_size_k, top_k: 40, search, ..Default::default() };
        let [a, b] = [&cpu, &gpu].map(|tracer| tracer.with(config.clone()).trace(&prompt).unwrap());
        for head in 0..a.n_heads() {
            let [a, b] = [&a, &b].map(|trace| trace.vertical(0, head).unwrap());
            let counts = |score: &f32| !score.is_nan();
            assert!(a.iter().map(counts).eq(b.iter().map(counts)) && a.iter().any(|score| !counts(score)));
            let [a, b] = [a, b].map(|scores| scores.into_iter().filter(counts).collect::<Vec<f32>>());
            let vertical = relative(&a, &b);
            assert!(vertical < 0.1, "head {head}: {vertical} with {config:?}");
        }
    }
}

#[test]
fn blocks_are_as_near_to_what_they_become_part_of() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    // The last query block is not full.
    let prompt = needle(&cpu, 3_001, 5);
    for (block_size_q, block_size_k) in [(32, 8), (64, 32), (128, 64)] {
        let search = Search::Exhaustive;
        let config = StreamConfig {
            block_size_q,
            block_size_k,
            top_k: 24,
            search,
            budget: Budget::Uniform,
            proximity: true,
            ..Default::default()
        };
        let [a, b] = [&cpu, &gpu].map(|tracer| tracer.with(config.clone()).trace(&prompt).unwrap());
        let error = relative(&a.proximity(0).unwrap(), &b.proximity(0).unwrap());
        assert!(error < 0.05, "{error} with blocks of {block_size_q} and {block_size_k}");
    }
}

#[test]
fn knocking_out_changes_the_same() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    let prompt = needle(&cpu, 3_000, 5);
    for (block_size_q, block_size_k) in [(32, 8), (128, 64)] {
        let config = StreamConfig {
            block_size_q,
            block_size_k,
            top_k: 40,
            search: Search::Exhaustive,
            ..Default::default()
        };
        let trace = cpu.with(config).trace(&prompt).unwrap();
        let n = trace.n_tokens();
        // The spans neither begin nor end at a block boundary.
        let spans = [101..119, n - 70..n - 51, n - 13..n - 9];
        let interventions = spans.map(|span| Intervention::without_span("span", span));
        let [a, b] = [&cpu, &gpu]
            .map(|tracer| tracer.knock_out(&trace, &interventions, Span::from(n - 40..n)).unwrap());
        for (a, b) in a.iter().zip(&b) {
            let (a, b) = (a.before() - a.after(), b.before() - b.after());
            // The sum over 40 tokens, each of which bf16 changes slightly.
            assert!((a - b).abs() < 0.4 + 0.1 * a.abs(), "{a} on the CPU, {b} on the GPU");
        }
    }
}

#[test]
fn the_same_is_written() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    for (dense, seed) in [(false, 0), (false, 1), (true, 2)] {
        let prompt = needle(&cpu, 3_000, seed);
        let how =
            GenerateConfig { max_tokens: 40, stop: vec![".".into()], dense, ..GenerateConfig::default() };
        let [a, b] = [&cpu, &gpu].map(|tracer| tracer.generate_with(&prompt, &how).unwrap().text);
        assert_eq!(a, b, "seed {seed}, dense {dense}");
    }
}

/// A token and its probability are those that follow the prompt and what was written before it, through the rest of a
/// query block and two more.
#[test]
fn what_is_written_follows_the_whole_text() {
    let Some(([_, gpu], _alone)) = both() else { return };
    let sparse = StreamConfig {
        search: Search::Exhaustive,
        budget: Budget::Uniform,
        top_k: 40,
        ..StreamConfig::default()
    };
    for (config, dense) in [(StreamConfig::default(), true), (sparse, false)] {
        let (gpu, prompt) = (gpu.with(config), needle(&gpu, 3_000, 4));
        let after = |text: &str, max_tokens| {
            let how = GenerateConfig { max_tokens, dense, ..GenerateConfig::default() };
            gpu.generate_with(text, &how).unwrap()
        };
        let written = after(&prompt, 90);
        assert_eq!(written.tokens.len(), 90, "{}", written.text);
        let mut n_compared = 0;
        for n in (1..90).step_by(4) {
            let text: String = written.tokens[..n].iter().map(|token| token.text.as_str()).collect();
            let next = after(&format!("{prompt}{text}"), 1);
            // Another split into tokens is another prompt.
            if next.n_prompt != written.n_prompt + n {
                continue;
            }
            let (a, b) = (&written.tokens[n], &next.tokens[0]);
            let near = (a.logprob - b.logprob).abs() < 0.1;
            assert!(near && (a.id == b.id || a.logprob < -0.6), "token {n}, dense {dense}: {a:?} and {b:?}");
            n_compared += 1;
        }
        assert!(n_compared > 10, "{n_compared} compared, dense {dense}");
    }
}

#[test]
fn recall_is_the_same() {
    let Some(([cpu, gpu], _alone)) = both() else { return };
    let prompt = needle(&cpu, 4_000, 3);
    let [a, b] = [&cpu, &gpu].map(|tracer| {
        let trace = tracer.compare(&tracer.trace(&prompt).unwrap()).unwrap();
        trace.summary().fidelity.clone().unwrap().recall
    });
    assert!((a - b).abs() < 0.01, "{a} on the CPU, {b} on the GPU");
}

#[test]
fn the_plan_is_what_is_used() {
    let Some(([_, gpu], _alone)) = both() else { return };
    for n_tokens in [2_000, 20_000] {
        let trace = gpu.trace(&needle(&gpu, n_tokens, 1)).unwrap();
        let (used, planned) =
            (trace.summary().peak_memory_bytes as f64, trace.summary().planned_memory_bytes as f64);
        assert!(used <= 1.05 * planned, "{used} bytes used, {planned} planned, {n_tokens} tokens");
    }
}

/// Runs with less and less memory, until one is refused: prefetched weights, large chunks and hidden states
/// leave the card.
#[test]
fn every_layout_gives_the_same() {
    let Some(([_, gpu], _alone)) = both() else { return };
    let prompt = needle(&gpu, 20_000, 1);
    let roomy = gpu.trace(&prompt).unwrap();
    // Its weights would stay on the card beside those of the runs below.
    drop(gpu);
    let (mut limit, mut n_layouts) = (roomy.summary().planned_memory_bytes, 1);
    loop {
        let trace = match load_within(DeviceChoice::Cuda, Some(limit - 1)).unwrap().trace(&prompt) {
            Ok(trace) => trace,
            Err(Error::Memory { .. }) => break,
            Err(other) => panic!("{other}"),
        };
        let summary = trace.summary();
        assert!(summary.planned_memory_bytes < limit);
        let used = summary.peak_memory_bytes as f64;
        assert!(
            used <= 1.05 * summary.planned_memory_bytes as f64,
            "{used} used, {} planned",
            summary.planned_memory_bytes
        );
        assert_eq!(summary.next_token.id, roomy.summary().next_token.id);
        // Products in chunks of another size are summed in another order.
        for layer in 0..2 {
            let (shared, error) =
                (shared_blocks(&roomy, &trace, layer), received_error(&roomy, &trace, layer));
            assert!(shared > 0.97 && error < 0.05, "{shared} shared, {error} in layer {layer}");
        }
        (limit, n_layouts) = (summary.planned_memory_bytes, n_layouts + 1);
    }
    assert!(n_layouts >= 8, "{n_layouts}");
}

#[test]
fn blocks_that_no_kernel_has_are_an_error() {
    let Some(([_, gpu], _alone)) = both() else { return };
    let config = StreamConfig { block_size_q: 24, block_size_k: 8, ..Default::default() };
    assert!(matches!(gpu.with(config).trace("Once."), Err(Error::Setting { .. })));
}
