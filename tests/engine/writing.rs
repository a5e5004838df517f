//! Generation: each step gives the result of running the whole text again.

use serde_json::json;
use streamtrace::{Budget, GenerateConfig, Search, StreamConfig, Tracer, protocol::End};

use crate::{
    common,
    fixture::{Engines, model},
};

/// Budgets by head would be those of the first prompt in one case, of each longer one in the other.
fn config(search: Search) -> StreamConfig {
    let uniform = StreamConfig { budget: Budget::Uniform, ..StreamConfig::default() };
    StreamConfig { top_k: 8, sink_blocks: 1, local_blocks: 4, search, ..uniform }
}

/// Returns the greedy choices from traces of the prompt with all text so far, in words of the test's
/// tokenizer.
fn by_traces(tracer: &Tracer, prompt: &str, n: usize) -> Vec<u32> {
    let mut text = prompt.to_string();
    let step = |_| {
        let next = tracer.trace(&text).unwrap().summary().next_token.clone();
        text.push_str(&format!(" {}", next.text));
        next.id
    };
    (0..n).map(step).collect()
}

fn greedy(max_tokens: usize) -> GenerateConfig {
    GenerateConfig { max_tokens, ..GenerateConfig::default() }
}

fn ids(tracer: &Tracer, prompt: &str, how: &GenerateConfig) -> Vec<u32> {
    tracer.generate_streaming(prompt, how, |_| {}).unwrap().tokens.iter().map(|token| token.id).collect()
}

/// Generation past the ends of key blocks and query blocks, from prompts that end before, at and after such
/// an end.
#[test]
fn sparse_steps_are_those_of_whole_prompts() {
    let default = StreamConfig::default().search;
    for search in [default, Search::Exhaustive, Search::Window, Search::Random { seed: 4 }] {
        let tracer = common::load(model()).unwrap().with(config(search));
        for n_prompt in [1, 219, 224, 225] {
            let prompt = common::prompt(n_prompt);
            assert_eq!(
                ids(&tracer, &prompt, &greedy(12)),
                by_traces(&tracer, &prompt, 12),
                "{search:?} {n_prompt}"
            );
        }
    }
}

#[test]
fn dense_steps_are_those_of_whole_prompts() {
    let tracer =
        common::load(model()).unwrap().with(StreamConfig { top_k: 1000, ..config(Search::Exhaustive) });
    let few = tracer.with(config(Search::Window));
    for n_prompt in [1, 221] {
        let (prompt, how) = (common::prompt(n_prompt), GenerateConfig { dense: true, ..greedy(8) });
        assert_eq!(ids(&few, &prompt, &how), by_traces(&tracer, &prompt, 8));
    }
}

/// Generation with experts, which are read when they are chosen, and with learned sinks.
#[test]
fn experts_and_sinks_are_no_exception() {
    for changes in [
        json!({ "model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 48 }),
        json!({ "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
            "intermediate_size": 64, "sliding_window": 50, "quantization_config": { "quant_method": "mxfp4" } }),
    ] {
        let folder = common::random_model(changes);
        let tracer = common::load(folder.path()).unwrap().with(config(StreamConfig::default().search));
        let prompt = common::prompt(125);
        assert_eq!(ids(&tracer, &prompt, &greedy(20)), by_traces(&tracer, &prompt, 20));
        let dense = GenerateConfig { dense: true, ..greedy(8) };
        let all = tracer.with(StreamConfig { top_k: 1000, ..config(Search::Exhaustive) });
        assert_eq!(ids(&tracer, &prompt, &dense), by_traces(&all, &prompt, 8));
    }
}

/// Generation with sliding windows, grouped keys of another family, and key blocks larger than query blocks.
#[test]
fn windows_and_large_key_blocks_are_no_exception() {
    let folder = common::random_model(json!({ "model_type": "mistral", "sliding_window": 50 }));
    let sizes = StreamConfig {
        block_size_q: 16,
        block_size_k: 32,
        top_k: 3,
        sink_blocks: 1,
        local_blocks: 1,
        ..StreamConfig::default()
    };
    let tracer = common::load(folder.path()).unwrap().with(sizes);
    let prompt = common::prompt(125);
    assert_eq!(ids(&tracer, &prompt, &greedy(20)), by_traces(&tracer, &prompt, 20));
}

#[test]
fn log_probabilities_are_those_of_the_trace() {
    let tracer = common::load(model()).unwrap().with(config(StreamConfig::default().search));
    let prompt = common::prompt(300);
    let (generated, traced) =
        (tracer.generate_streaming(&prompt, &greedy(1), |_| {}).unwrap(), tracer.trace(&prompt).unwrap());
    assert_eq!((&generated.end, generated.n_prompt, generated.top_k), (&End::MaxTokens, 300, Some(8)));
    let [ours, theirs] = [generated.tokens[0].logprob, traced.summary().next_token.logprob];
    assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
}

#[test]
fn stops_and_ends_of_text_are_not_part_of_it() {
    let tracer = common::load(model()).unwrap();
    let prompt = common::prompt(40);
    let whole = tracer.generate_streaming(&prompt, &greedy(6), |_| {}).unwrap();
    let third = whole.tokens[2].text.clone();
    let mut shown = String::new();
    let how = GenerateConfig { stop: vec!["never".into(), third.clone()], ..greedy(6) };
    let stopped = tracer.generate_streaming(&prompt, &how, |text| shown.push_str(text)).unwrap();
    assert_eq!(stopped.end, End::Stop(third.clone()));
    assert_eq!(stopped.text, whole.text[..whole.text.find(&third).unwrap()]);
    assert_eq!(shown, stopped.text);

    let ending = common::random_model(
        json!({ "model_type": "llama", "num_hidden_layers": 6, "eos_token_id": [96, whole.tokens[2].id] }),
    );
    let ended = common::load(ending.path()).unwrap().generate_streaming(&prompt, &greedy(6), |_| {}).unwrap();
    assert_eq!((ended.end, ended.tokens.len()), (End::EndOfText, 2));
}

#[test]
fn draws_are_the_seeds_alone_and_as_wild_as_asked_for() {
    let tracer = common::load(model()).unwrap();
    let prompt = common::prompt(40);
    let draw = |seed, temperature, top_p| {
        ids(&tracer, &prompt, &GenerateConfig { seed, temperature, top_p, ..greedy(10) })
    };
    assert_eq!(draw(1, 1.0, None), draw(1, 1.0, None));
    assert_ne!(draw(1, 1.0, None), draw(2, 1.0, None));
    assert_eq!(draw(1, 1.0, Some(1e-9)), draw(1, 0.0, None), "of the most likely token alone");
    assert_eq!(draw(1, 1e-4, None), draw(2, 0.0, None), "cold");
}

#[test]
fn an_engine_process_sends_the_text_as_it_comes() {
    let (process, local) = (Engines::new().load(), common::load(model()).unwrap());
    let (prompt, how) = (common::prompt(50), greedy(5));
    let mut pieces = Vec::new();
    let generated = process.generate_streaming(&prompt, &how, |text| pieces.push(text.to_string())).unwrap();
    assert_eq!((pieces.concat(), pieces.len()), (generated.text.clone(), 5));
    assert_eq!(generated.text, local.generate_streaming(&prompt, &how, |_| {}).unwrap().text);
}
