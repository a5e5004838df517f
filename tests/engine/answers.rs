//! Answers of an engine process.

use streamtrace::{
    Budget, Error, ScoreConfig, Search, StreamConfig,
    trace::{AnswerScore, Fidelity},
};

use crate::{
    common,
    fixture::{Engines, model},
};

#[test]
fn an_engine_process_answers_as_the_engine_in_process_does() {
    let (process, local) = (Engines::new().load(), common::load(model()).unwrap());
    assert_eq!((process.model(), process.device()), (local.model(), local.device()));
    let config = StreamConfig {
        top_k: 8,
        sink_blocks: 1,
        local_blocks: 4,
        focus: Some(20..31),
        ..StreamConfig::default()
    };
    let (process, local) = (process.with(config.clone()), local.with(config));
    let prompt = common::prompt(301);
    assert_eq!(process.count_tokens(&prompt), Ok(301));
    assert_eq!(process.plan(301).unwrap().parts, local.plan(301).unwrap().parts);

    let (ours, theirs) = (local.trace(&prompt).unwrap(), process.trace(&prompt).unwrap());
    assert_eq!(
        (theirs.text(), theirs.tokens(), theirs.logits()),
        (ours.text(), ours.tokens(), ours.logits())
    );
    for layer in 0..ours.n_layers() {
        assert_eq!(theirs.mask(layer).unwrap(), ours.mask(layer).unwrap());
        for head in 0..ours.n_heads() {
            assert_eq!(theirs.head(layer, head).unwrap(), ours.head(layer, head).unwrap());
            assert_eq!(
                theirs.attention_row(layer, head, 30).unwrap(),
                ours.attention_row(layer, head, 30).unwrap()
            );
        }
    }
    let (ours, theirs) = (local.compare(&ours).unwrap(), process.compare(&theirs).unwrap());
    let [ours, theirs] = [ours, theirs].map(|trace| trace.summary().fidelity.clone().unwrap());
    let numbers = |f: &Fidelity| [&[f.recall, f.kl.unwrap()][..], &f.recall_by_head.concat()].concat();
    // JSON numbers are read back exactly, except for the last digit.
    assert!(
        numbers(&ours).iter().zip(numbers(&theirs)).all(|(a, b)| (a - b).abs() < 1e-14),
        "{ours:?} {theirs:?}"
    );
    assert_eq!((ours.same_next_token, ours.n_rows), (theirs.same_next_token, theirs.n_rows));
    let (ours, theirs) = (local.score(&prompt, " w1 w2").unwrap(), process.score(&prompt, " w1 w2").unwrap());
    let ids = |score: &AnswerScore| score.tokens.iter().map(|token| token.id).collect::<Vec<_>>();
    assert_eq!((ids(&theirs), theirs.top_k), (ids(&ours), ours.top_k));
    assert!((theirs.logprob() - ours.logprob()).abs() < 1e-12);
}

#[test]
fn a_request_that_fails_does_not_end_the_engine() {
    let engines = Engines::new();
    let tracer = engines.load();
    let bad = tracer.with(StreamConfig { top_k: 0, ..StreamConfig::default() });
    assert!(matches!(bad.trace("w1"), Err(Error::Setting { .. })));
    assert!(matches!(tracer.trace(""), Err(Error::Prompt { .. })));
    assert_eq!(tracer.trace("w1 w2").unwrap().n_tokens(), 2);
    assert_eq!(engines.pids().len(), 1);
}

#[test]
fn clones_share_the_engine() {
    let engines = Engines::new();
    let tracer = engines.load();
    let clone = tracer.with(StreamConfig::default());
    drop(tracer);
    assert_eq!(clone.count_tokens("w1 w2 w3"), Ok(3));
    assert_eq!(engines.pids().len(), 1);
}

/// The exhaustive search reads every visible key if there are more candidates than the budget holds.
#[test]
fn what_a_search_reads_is_counted() {
    let uniform = StreamConfig { budget: Budget::Uniform, ..StreamConfig::default() };
    let config = StreamConfig { top_k: 8, sink_blocks: 1, local_blocks: 4, beam: 8, ..uniform };
    let (tracer, prompt) = (common::load(model()).unwrap(), common::prompt(1000));
    let read = |search| {
        let tracer = tracer.with(StreamConfig { search, ..config.clone() });
        let (trace, score) = (tracer.trace(&prompt).unwrap(), tracer.score(&prompt, " w1").unwrap());
        assert_eq!(score.keys_read_per_query_block, trace.summary().keys_read_per_query_block);
        score.keys_read_per_query_block.unwrap()
    };
    // Query block q of 32 sees 4 (q + 1) blocks of 8 keys, of which 5 are not candidates; the last sees 125.
    let candidates = (0..32).map(|q: usize| (4 * (q + 1)).min(125).saturating_sub(5));
    let expected: usize = candidates.filter(|&n| n > 3).map(|n| 8 * (n + 5)).sum();
    assert!((read(Search::Exhaustive) - expected as f64 / 32.0).abs() < 1e-9);
    assert_eq!(read(Search::Window), 0.0);
    assert_eq!(
        tracer.score_with(&prompt, " w1", &ScoreConfig { dense: true }).unwrap().keys_read_per_query_block,
        None
    );
    let hierarchical = read(config.search);
    assert!(hierarchical > 0.0 && hierarchical < expected as f64 / 32.0, "{hierarchical}");
}
