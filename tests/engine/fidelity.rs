//! Traces against dense attention: on all rows and on some, with an answer, and the smallest budgets that are
//! enough.

use std::collections::HashSet;

use streamtrace::{
    Budget, Criterion, Error, Intervention, ScoreConfig, Search, StreamConfig, Trace, Tracer,
    trace::{CompareConfig, Fidelity, RowsOf},
};

use crate::{common, fixture::model};

/// Returns a prompt that ends inside a block, and settings that prune most of it.
fn traced() -> (Tracer, Trace) {
    let config = StreamConfig { top_k: 8, sink_blocks: 1, local_blocks: 4, ..StreamConfig::default() };
    let tracer = common::load(model()).unwrap().with(config);
    let trace = tracer.trace(&common::prompt(1003)).unwrap();
    (tracer, trace)
}

fn compared(tracer: &Tracer, trace: &Trace, what: CompareConfig) -> Fidelity {
    tracer.compare_with(trace, &what).unwrap().summary().fidelity.clone().unwrap()
}

/// The first layer sees the same embeddings in a dense and in a sparse run.
#[test]
fn recall_inside_a_sparse_run_is_that_of_a_dense_one_in_the_first_layer() {
    let (tracer, trace) = traced();
    let [dense, sparse] = [None, Some(1_000_000)]
        .map(|rows| compared(&tracer, &trace, CompareConfig { rows, ..Default::default() }));
    assert_eq!(
        (dense.rows_of, dense.n_rows, sparse.rows_of, sparse.n_rows),
        (RowsOf::Dense, 1003, RowsOf::Sparse, 1003)
    );
    assert_eq!((sparse.same_next_token, sparse.kl, sparse.dense_next_token), (None, None, None));
    assert_eq!((dense.positions.map(|positions| positions.n), sparse.positions), (Some(256), None));
    assert_eq!(sparse.recall_by_head.len(), trace.n_layers());
    for (a, b) in dense.recall_by_head[0].iter().zip(&sparse.recall_by_head[0]) {
        assert!((a - b).abs() < 1e-5 && *a < 0.9, "{a} {b}");
    }
    assert!(dense.recall_by_head[5] != sparse.recall_by_head[5], "what the layers before saw differs");
}

#[test]
fn a_sample_of_rows_is_whole_blocks_and_near_all_rows() {
    let (tracer, trace) = traced();
    let [some, all] = [300, 2000]
        .map(|rows| compared(&tracer, &trace, CompareConfig { rows: Some(rows), ..Default::default() }));
    assert_eq!(some.n_rows, 10 * 32, "whole blocks of 32");
    assert!((some.recall - all.recall).abs() < 0.03, "{} {}", some.recall, all.recall);
    assert!(some.recall != all.recall);
    let one = compared(&tracer, &trace, CompareConfig { rows: Some(1), ..Default::default() });
    assert_eq!(one.n_rows, 32);
}

/// Both positions end a query block, so the prompt cut off after one keeps the same blocks, and its next token
/// is compared by itself.
#[test]
fn positions_inside_a_prompt_are_compared_as_its_end_would_be() {
    let config = StreamConfig {
        top_k: 8,
        sink_blocks: 1,
        local_blocks: 4,
        // By what a query block sees alone, not by a sample of the prompt.
        budget: Budget::Uniform,
        block_size_q: 32,
        block_size_k: 8,
        search: Search::Exhaustive,
        ..StreamConfig::default()
    };
    let tracer = common::load(model()).unwrap().with(config);
    // In two chunks of rows.
    let words = common::prompt(128 * 12 + 127);
    let two = CompareConfig { positions: Some(2), ..Default::default() };
    let inside = compared(&tracer, &tracer.trace(&words).unwrap(), two).positions.unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let ends = [415, 1247].map(|last| {
        let trace = tracer.trace(&words[..=last].join(" ")).unwrap();
        compared(&tracer, &trace, CompareConfig { positions: Some(0), ..Default::default() })
    });
    let [first, second] = ends.each_ref().map(|end| end.kl.unwrap());
    let same = ends.iter().filter(|end| end.same_next_token == Some(true)).count();
    assert_eq!((inside.n, inside.same_next_token), (2, same as f64 / 2.0));
    assert!((inside.mean_kl - (first + second) / 2.0).abs() < 1e-5, "{inside:?} {first} {second}");
    assert!((inside.p99_kl - first.max(second)).abs() < 1e-5 && inside.p99_kl > 1e-3, "{inside:?}");
}

#[test]
fn every_position_can_be_compared() {
    let (tracer, trace) = traced();
    let all = CompareConfig { positions: Some(1_000_000), ..Default::default() };
    let [all, some] = [all, CompareConfig::default()].map(|what| compared(&tracer, &trace, what));
    let (all, spread) = (all.positions.unwrap(), some.positions.unwrap());
    assert_eq!((all.n, spread.n), (1003, 256));
    assert!((all.mean_kl / spread.mean_kl - 1.0).abs() < 0.2, "{all:?} {spread:?}");
    assert!((all.same_next_token - spread.same_next_token).abs() < 0.1 && all.same_next_token < 1.0);
}

#[test]
fn an_answer_is_scored_as_by_itself() {
    let (tracer, trace) = traced();
    let what = CompareConfig { positions: Some(0), answer: Some(" w1 w2".into()), ..Default::default() };
    let fidelity = compared(&tracer, &trace, what);
    assert_eq!(fidelity.positions, None);
    let answer = fidelity.answer.unwrap();
    let [sparse, dense] = [
        tracer.score(trace.text(), " w1 w2"),
        tracer.score_with(trace.text(), " w1 w2", &ScoreConfig { dense: true }),
    ]
    .map(Result::unwrap);
    assert_eq!((answer.sparse_logprob, answer.dense_logprob), (sparse.logprob(), dense.logprob()));
    assert_eq!((answer.sparse_survives, answer.dense_survives), (sparse.survives(), dense.survives()));
    assert_ne!(answer.sparse_logprob, answer.dense_logprob);
}

#[test]
fn comparisons_that_make_no_sense_are_refused() {
    let (tracer, trace) = traced();
    let refused = |what: CompareConfig| tracer.compare_with(&trace, &what).err();
    for (rows, positions, wrong) in [(0, None, "rows"), (9, Some(9), "positions")] {
        let error = refused(CompareConfig { rows: Some(rows), positions, ..CompareConfig::default() });
        assert!(matches!(&error, Some(Error::Setting { setting, .. }) if setting == wrong), "{error:?}");
    }
    let no_answer =
        refused(CompareConfig { rows: Some(9), answer: Some(String::new()), ..Default::default() });
    assert!(matches!(no_answer, Some(Error::Prompt { .. })), "{no_answer:?}");
    let unsampled = StreamConfig { sample: 0, budget: Budget::Uniform, ..StreamConfig::default() };
    let silent = tracer.with(unsampled).trace(trace.text()).unwrap();
    assert!(matches!(silent.recall_map(), Err(Error::Missing { .. })));
}

/// An exact run is the model's own, whatever is recorded of it.
#[test]
fn an_exact_run_is_dense_and_knows_its_recall() {
    let (tracer, sparse) = traced();
    let trace = tracer.exact().trace(sparse.text()).unwrap();
    let fidelity = compared(&tracer, &trace, CompareConfig::default());
    let told = trace.summary().recall.unwrap();
    assert_eq!((told.rows, fidelity.n_rows), (1003, 1003));
    assert!(fidelity.kl.unwrap() < 1e-9 && fidelity.same_next_token == Some(true), "{fidelity:?}");
    let positions = fidelity.positions.clone().unwrap();
    assert!(positions.mean_kl < 1e-9 && positions.same_next_token == 1.0, "{positions:?}");
    assert!((told.mean - fidelity.recall).abs() < 1e-4 && told.mean < 0.9, "{told:?} {}", fidelity.recall);
    for layer in 0..trace.n_layers() {
        let measured = &fidelity.recall_by_head[layer];
        for (a, b) in trace.recall(layer).unwrap().unwrap().iter().zip(measured) {
            assert!((f64::from(*a) - b).abs() < 1e-4, "{a} {b}");
        }
        for head in 0..trace.n_heads() {
            let head = trace.head(layer, head).unwrap();
            let received: f32 = head.received().iter().sum();
            assert!((received - 1003.0).abs() < 0.01, "all attention is received: {received}");
        }
    }
    let row = |trace: &Trace| trace.attention_row(5, 0, 1002).unwrap();
    let sum = |row: &[(usize, f32)]| row.iter().map(|(_, p)| p).sum::<f32>();
    assert!(sum(&row(&sparse)) > 0.999 && sum(&row(&trace)) < 0.99, "shares of the model's own softmax");
}

/// The run that interventions are compared with is the exact one, too.
#[test]
fn knocking_out_of_an_exact_run_is_against_the_exact_run() {
    let (tracer, sparse) = traced();
    let exact = tracer.exact();
    let trace = exact.trace(sparse.text()).unwrap();
    let nothing = [Intervention::without_span("nothing", 1002..1003)];
    let effect = &exact.knock_out(&trace, &nothing, None).unwrap()[0];
    assert!((effect.next.before - trace.summary().next_token.logprob).abs() < 1e-5, "{effect:?}");
}

/// The two budgets next to the result give the reported outcomes when run by themselves.
#[test]
fn the_smallest_budget_is_just_enough() {
    let prompt = common::prompt(603);
    for search in [StreamConfig::default().search, Search::Exhaustive] {
        let config = StreamConfig { sink_blocks: 1, local_blocks: 4, search, ..StreamConfig::default() };
        let tracer = common::load(model()).unwrap().with(config.clone());
        let found = tracer.smallest_top_k(&prompt, &Criterion::KlAtMost(0.05)).unwrap();
        assert_eq!((found.n_key_blocks, found.search), (76, search));
        let kl = |top_k| {
            let tracer = tracer.with(StreamConfig { top_k, ..config.clone() });
            let trace = tracer.compare(&tracer.trace(&prompt).unwrap()).unwrap();
            (trace.summary().fidelity.as_ref().unwrap().kl.unwrap(), trace.summary().pruned)
        };
        for tried in found.tried.iter().filter(|tried| tried.top_k.abs_diff(found.top_k) <= 1) {
            let (kl, pruned) = kl(tried.top_k);
            assert!((kl - tried.kl).abs() < 1e-6 && (pruned - tried.pruned).abs() < 1e-12, "{tried:?} {kl}");
            assert_eq!(tried.passes, kl <= 0.05);
            assert_eq!(tried.passes, tried.top_k >= found.top_k);
        }
        assert!(found.top_k > 5 && found.tried.len() > 2, "{found:?}");
    }
}

#[test]
fn budgets_for_the_impossible_are_refused() {
    let tracer = common::load(model()).unwrap();
    let prompt = common::prompt(50);
    for nats in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = tracer.smallest_top_k(&prompt, &Criterion::KlAtMost(nats)).unwrap_err();
        assert!(error.to_string().contains("KL: expected a bound above 0"), "{error}");
    }
    let error = tracer
        .smallest_top_k(&prompt, &Criterion::AnswerSurvives(" w1 w1 w1".into()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no budget can keep what is not there"), "{error}");
    let all = tracer.smallest_top_k("w1", &Criterion::SameNextToken).unwrap();
    assert_eq!((all.top_k, all.tried.len()), (1, 0), "a prompt of one block");
}

/// In a prompt of two words, random heads copy some tokens by chance; the expected ones are read off the
/// rows.
#[test]
fn retrieval_heads_are_those_that_attend_most_to_the_token_that_comes_next() {
    let tracer = common::load(model())
        .unwrap()
        .with(StreamConfig { search: Search::Exhaustive, ..StreamConfig::default() });
    let words: Vec<String> = (0..204usize).map(|i| format!("w{}", i * i / 7 % 2)).collect();
    let (prompt, answer) = (words[..200].join(" "), format!(" {}", words[200..].join(" ")));
    let (trace, span) = tracer.trace_answer(&prompt, &answer).unwrap();
    assert_eq!((span.range(), trace.summary().focus.range()), (200..204, 199..203));
    let needle = 20..160;
    let heads = trace.retrieval_heads(needle.clone(), span).unwrap();
    let mut n_copied = 0;
    for (layer, head) in (0..trace.n_layers()).flat_map(|l| (0..trace.n_heads()).map(move |h| (l, h))) {
        let most = |query| {
            let row = trace.attention_row(layer, head, query).unwrap();
            row.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
        };
        let copies = (199..203)
            .map(|query| (query, most(query)))
            .filter(|(query, key)| words[*key] == words[query + 1]);
        let copied: HashSet<usize> = copies.map(|(_, key)| key).filter(|key| needle.contains(key)).collect();
        assert_eq!(heads.scores[layer][head], copied.len() as f64 / 140.0, "{layer} {head}");
        n_copied += copied.len();
    }
    assert!(n_copied > 3, "{n_copied}");
    assert!(matches!(tracer.trace_answer(&prompt, ""), Err(Error::Prompt { .. })));
}
