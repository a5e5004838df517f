//! Invalid prompts and settings, for a valid model.

use serde_json::json;
use streamtrace::{
    DeviceChoice, Error, GenerateConfig, LoadOptions, Search, StreamConfig, Tracer,
    words::numbers::parse_bytes,
};
use tempfile::TempDir;

use crate::{assert_says, common};

fn model() -> TempDir {
    common::random_model(json!({ "model_type": "mistral", "sliding_window": 50 }))
}

#[test]
fn prompts_without_tokens_are_refused() {
    let model = model();
    let tracer = common::load(model.path()).unwrap();
    for (prompt, found) in [("", "an empty text"), (" \n\t ", "a text without tokens")] {
        let words = ["prompt: expected a text of at least one token", found, "give some text"];
        assert_says("trace", tracer.trace(prompt), &words);
        assert_says("count", tracer.count_tokens(prompt), &words);
        assert_says("score", tracer.score(prompt, "w1"), &words);
    }
    assert_says("no answer", tracer.score("w1", ""), &["an answer of at least one token", "\"\""]);
}

#[test]
fn settings_that_do_not_fit_are_refused_before_anything_runs() {
    let blocks = StreamConfig { block_size_q: 32, block_size_k: 8, ..StreamConfig::default() };
    let ok = StreamConfig { top_k: 8, sink_blocks: 1, local_blocks: 4, ..blocks };
    let cases: [(StreamConfig, &[&str]); 22] = [
        (StreamConfig { top_k: 0, ..ok.clone() }, &["top_k: expected at least 5", "found 0", "raise top_k"]),
        (StreamConfig { top_k: 4, ..ok.clone() }, &["top_k: expected at least 5", "found 4"]),
        (
            StreamConfig { top_k: 5, sink_blocks: 1, local_blocks: 0, block_size_q: 64, ..ok.clone() },
            &["at least 9", "found 5"],
        ),
        (
            StreamConfig { sink_blocks: usize::MAX, ..ok.clone() },
            &["top_k: expected at least", "lower sink_blocks"],
        ),
        (
            StreamConfig { local_blocks: usize::MAX, ..ok.clone() },
            &["top_k: expected at least", "lower sink_blocks"],
        ),
        (
            StreamConfig { block_size_q: 0, ..ok.clone() },
            &["block sizes: expected sizes above 0", "0 and 8", "powers of two"],
        ),
        (
            StreamConfig { block_size_k: 0, ..ok.clone() },
            &["block sizes: expected sizes above 0", "32 and 0"],
        ),
        (StreamConfig { block_size_k: 12, ..ok.clone() }, &["one divides the other", "32 and 12"]),
        (StreamConfig { block_size_q: 512, ..ok.clone() }, &["at most 256 tokens", "512 and 8"]),
        (
            StreamConfig { beam: usize::MAX, ..ok.clone() },
            &["beam: expected at most", "0 the published search"],
        ),
        (StreamConfig { recall: Some(1.0), ..ok.clone() }, &["recall: expected a share above 0", "found 1"]),
        (StreamConfig { recall: Some(f64::NAN), ..ok.clone() }, &["recall", "found NaN"]),
        (
            StreamConfig { recall: Some(0.9), pruned: Some(0.5), ..ok.clone() },
            &["recall: expected no share to prune beside it", "leave out one of them"],
        ),
        (
            StreamConfig { recall: Some(0.9), sample: 0, ..ok.clone() },
            &["recall: expected a sample and budgets by head", "sample 512 queries"],
        ),
        (StreamConfig { split: 3, ..ok.clone() }, &["split: expected 2, 4 or 8", "found 3"]),
        (
            StreamConfig { pruned: Some(1.0), ..ok.clone() },
            &["pruned: expected a share of at least 0 and below 1", "found 1"],
        ),
        (StreamConfig { pruned: Some(-0.5), ..ok.clone() }, &["pruned", "found -0.5"]),
        (StreamConfig { pruned: Some(f64::NAN), ..ok.clone() }, &["pruned", "found NaN"]),
        (
            StreamConfig { pruned: Some(0.99), ..ok.clone() },
            &["pruned: expected at most", "200 tokens", "found 0.99", "longer prompt"],
        ),
        (
            StreamConfig { focus: Some(190..201), ..ok.clone() },
            &["focus: expected a span of the prompt's 200 tokens", "190..201"],
        ),
        (StreamConfig { focus: Some(5..5), ..ok.clone() }, &["focus", "found 5..5"]),
        (
            StreamConfig { focus: Some(std::ops::Range { start: usize::MAX, end: 3 }), ..ok.clone() },
            &["focus", "leave it out for the last ones"],
        ),
    ];
    let (model, prompt) = (model(), common::prompt(200));
    let tracer = common::load(model.path()).unwrap();
    for (config, words) in cases {
        for search in [Search::Exhaustive, config.search] {
            let tracer = tracer.with(StreamConfig { search, ..config.clone() });
            assert_says(&format!("{config:?}"), tracer.trace(&prompt), words);
        }
    }
    assert!(tracer.with(ok).trace(&prompt).is_ok());
}

/// The largest allowed values, and prompts shorter than the blocks that are always kept.
#[test]
fn settings_far_above_the_prompt_are_no_error() {
    let model = model();
    let tracer = common::load(model.path()).unwrap();
    for config in [
        StreamConfig { top_k: usize::MAX, ..StreamConfig::default() },
        StreamConfig {
            top_k: usize::MAX,
            sink_blocks: usize::MAX,
            local_blocks: usize::MAX,
            ..StreamConfig::default()
        },
        StreamConfig { block_size_q: 256, block_size_k: 256, ..StreamConfig::default() },
        StreamConfig { pruned: Some(0.0), ..StreamConfig::default() },
    ] {
        for n_tokens in [1, 2, 9, 300] {
            let tracer = tracer.with(config.clone());
            let trace = tracer.compare(&tracer.trace(&common::prompt(n_tokens)).unwrap()).unwrap();
            let fidelity = trace.summary().fidelity.as_ref().unwrap();
            assert!(
                (fidelity.recall - 1.0).abs() < 1e-3
                    && fidelity.same_next_token == Some(true)
                    && fidelity.kl < Some(1e-6),
                "{fidelity:?}"
            );
        }
    }
}

#[test]
fn a_prompt_longer_than_memory_allows_is_refused_before_anything_runs() {
    let model = model();
    let load = |memory| {
        let options = LoadOptions { memory: Some(memory), ..common::cpu(model.path()) };
        Tracer::load_with(options).unwrap()
    };
    let needed = load(u64::MAX).plan(5_000).unwrap().total();
    let prompt = common::prompt(5_000);
    let words = ["memory: this run needs", "and may take", "raise the limit to", "or shorten the prompt"];
    assert_says("trace", load(needed - 1).trace(&prompt), &words);
    assert_says("score", load(needed - 1).score(&prompt, "w1 w2"), &words);
    let trace = load(u64::MAX).trace(&prompt).unwrap();
    assert_says("compare", load(needed - 1).compare(&trace), &words);
    assert!(load(needed).trace(&prompt).is_ok());
    assert!(load(1).plan(5_000).unwrap().check().is_err());
}

#[test]
fn writing_that_makes_no_sense_is_refused() {
    let model = model();
    let tracer = common::load(model.path()).unwrap();
    let ok = GenerateConfig::default();
    let cases: [(GenerateConfig, &[&str]); 8] = [
        (GenerateConfig { max_tokens: 0, ..ok.clone() }, &["max_tokens: expected at least 1", "found 0"]),
        (
            GenerateConfig { max_tokens: usize::MAX, ..ok.clone() },
            &["max_tokens: expected at most", "write less"],
        ),
        (
            GenerateConfig { temperature: -1.0, ..ok.clone() },
            &["temperature: expected a number from 0 on", "found -1"],
        ),
        (GenerateConfig { temperature: f64::NAN, ..ok.clone() }, &["temperature", "found NaN"]),
        (GenerateConfig { temperature: f64::INFINITY, ..ok.clone() }, &["temperature", "found inf"]),
        (
            GenerateConfig { top_p: Some(0.0), ..ok.clone() },
            &["top_p: expected a probability above 0", "found 0"],
        ),
        (GenerateConfig { top_p: Some(1.5), ..ok.clone() }, &["top_p", "found 1.5"]),
        (
            GenerateConfig { stop: vec!["a".into(), String::new()], ..ok.clone() },
            &["stop: expected texts", "an empty one"],
        ),
    ];
    for (how, words) in cases {
        assert_says(&format!("{how:?}"), tracer.generate_with("w1 w2", &how), words);
    }
    assert_says(
        "an empty prompt",
        tracer.generate_with("", &ok),
        &["prompt: expected a text of at least one token"],
    );
    let top_k = StreamConfig { top_k: 0, ..StreamConfig::default() };
    assert_says("top_k", tracer.with(top_k).generate_with("w1", &ok), &["top_k: expected at least"]);
}

/// Generation holds the keys and values of all layers, unlike a trace.
#[test]
fn writing_is_planned_before_it_runs() {
    let model = model();
    let prompt = common::prompt(5_000);
    let of_a_trace = common::load(model.path()).unwrap().plan(5_063).unwrap().total();
    let load = |memory| {
        Tracer::load_with(LoadOptions { memory: Some(memory), ..common::cpu(model.path()) }).unwrap()
    };
    let Err(Error::Memory { needed, .. }) =
        load(of_a_trace).generate_with(&prompt, &GenerateConfig::default())
    else {
        panic!("it fits where a trace just fits")
    };
    let enough = load(parse_bytes(&needed).unwrap());
    assert_eq!(
        enough
            .generate_with(&prompt, &GenerateConfig { max_tokens: 2, ..Default::default() })
            .unwrap()
            .tokens
            .len(),
        2
    );
}

#[test]
fn plans_for_impossible_lengths_are_refused() {
    let model = model();
    let tracer = common::load(model.path()).unwrap();
    for n_tokens in [0, usize::MAX, u32::MAX as usize + 1] {
        assert_says("plan", tracer.plan(n_tokens), &["prompt: expected", &n_tokens.to_string()]);
    }
    assert!(tracer.plan(u32::MAX as usize).unwrap().check().is_err());
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let model = model();
    match Tracer::load_with(LoadOptions { device: DeviceChoice::Cuda, ..common::cpu(model.path()) }) {
        Ok(tracer) => assert_ne!(tracer.device(), "cpu", "this machine has one"),
        Err(error) => assert!(matches!(error, Error::Device { .. }), "{error:?}"),
    }
}
