//! Traces against dense attention: on all rows and on some, with an answer, and the smallest budgets that will do.

use streamtrace::{
    Error, StreamConfig, Trace, Tracer,
    trace::{CompareConfig, Fidelity, RowsOf},
};

use crate::{common, fixture::model};

/// A prompt that does not end with a block, and settings that prune much of it.
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
    let [dense, sparse] = [None, Some(1_000_000)].map(|rows| compared(&tracer, &trace, CompareConfig { rows, answer: None }));
    assert_eq!((dense.rows_of, dense.n_rows, sparse.rows_of, sparse.n_rows), (RowsOf::Dense, 1003, RowsOf::Sparse, 1003));
    assert_eq!((sparse.same_next_token, sparse.kl, sparse.dense_next_token), (None, None, None));
    assert_eq!(sparse.recall_by_head.len(), trace.n_layers());
    for (a, b) in dense.recall_by_head[0].iter().zip(&sparse.recall_by_head[0]) {
        assert!((a - b).abs() < 1e-5 && *a < 0.9, "{a} {b}");
    }
    assert!(dense.recall_by_head[5] != sparse.recall_by_head[5], "what the layers before saw differs");
}

#[test]
fn a_sample_of_rows_is_whole_blocks_and_near_all_rows() {
    let (tracer, trace) = traced();
    let [some, all] = [300, 2000].map(|rows| compared(&tracer, &trace, CompareConfig { rows: Some(rows), answer: None }));
    assert_eq!(some.n_rows, 10 * 32, "whole blocks of 32");
    assert!((some.recall - all.recall).abs() < 0.03, "{} {}", some.recall, all.recall);
    assert!(some.recall != all.recall);
    let one = compared(&tracer, &trace, CompareConfig { rows: Some(1), answer: None });
    assert_eq!(one.n_rows, 32);
}

#[test]
fn an_answer_is_scored_as_by_itself() {
    let (tracer, trace) = traced();
    let what = CompareConfig { rows: None, answer: Some(" w1 w2".into()) };
    let fidelity = compared(&tracer, &trace, what);
    let answer = fidelity.answer.unwrap();
    let [sparse, dense] = [tracer.score(trace.text(), " w1 w2"), tracer.score_dense(trace.text(), " w1 w2")].map(Result::unwrap);
    assert_eq!((answer.sparse_logprob, answer.dense_logprob), (sparse.logprob(), dense.logprob()));
    assert_eq!((answer.sparse_retained, answer.dense_retained), (sparse.retained(), dense.retained()));
    assert_ne!(answer.sparse_logprob, answer.dense_logprob);
}

#[test]
fn comparisons_that_make_no_sense_are_refused() {
    let (tracer, trace) = traced();
    let no_rows = tracer.compare_with(&trace, &CompareConfig { rows: Some(0), answer: None }).err();
    assert!(matches!(&no_rows, Some(Error::Setting { setting, .. }) if setting == "rows"), "{no_rows:?}");
    let no_answer = tracer.compare_with(&trace, &CompareConfig { rows: Some(9), answer: Some(String::new()) }).err();
    assert!(matches!(no_answer, Some(Error::Prompt { .. })), "{no_answer:?}");
    assert!(matches!(trace.recall_map(), Err(Error::Missing { .. })));
}
