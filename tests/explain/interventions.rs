//! Runs with some attention hidden.

use serde_json::json;
use streamtrace::{
    Edges, Effect, Error, Intervention, Span, analysis::SuppressionMeasure, trace::SentenceKind,
};

use crate::{common, trace, tracer};

fn all(queries: Span, keys: Span) -> Edges {
    Edges { layer: None, head: None, queries, keys }
}

fn span(range: std::ops::Range<usize>) -> Span {
    range.into()
}

/// Returns the log-probabilities of all rows, and their divergences.
fn numbers(effect: &Effect) -> Vec<f64> {
    effect
        .tokens
        .iter()
        .chain([&effect.next])
        .flat_map(|token| [token.before, token.after, token.kl])
        .collect()
}

#[test]
fn the_base_is_the_trace_and_hiding_nothing_changes_nothing() {
    let tracer = tracer();
    let trace = trace(&tracer, 12, 6);
    let n = trace.n_tokens();
    let nothing = Intervention {
        name: "nothing".into(),
        hide: vec![all(span(9..n), span(0..n))],
        keep: vec![all(span(0..n), span(0..n))],
    };
    let effect = &tracer.knock_out(&trace, &[nothing], Span::from(20..n)).unwrap()[0];
    let next = &trace.summary().next_token;
    assert_eq!((effect.next.id, effect.next_token.id, effect.name.as_str()), (next.id, next.id, "nothing"));
    assert!((effect.next.before - next.logprob).abs() < 1e-6, "{} {}", effect.next.before, next.logprob);
    assert!(effect.tokens.iter().all(|t| (t.before - t.after).abs() < 1e-6 && t.kl < 1e-9), "{effect:?}");
    assert_eq!(effect.tokens.len(), n - 20);
}

#[test]
fn runs_beside_each_other_do_not_touch() {
    let tracer = tracer();
    let trace = trace(&tracer, 14, 7);
    let n = trace.n_tokens();
    let one =
        |name: &str, edges: Edges| Intervention { name: name.into(), hide: vec![edges], keep: Vec::new() };
    let interventions = [
        one("late", all(span(60..n), span(0..20))),
        one("early", all(span(12..n), span(5..9))),
        one("head", Edges { layer: Some(1), head: Some(0), ..all(span(30..n), span(0..n)) }),
        one("last", all(span(n - 1..n), span(0..n - 5))),
    ];
    let together = tracer.knock_out(&trace, &interventions, Span::from(10..n)).unwrap();
    for (intervention, together) in interventions.iter().zip(&together) {
        let alone =
            &tracer.knock_out(&trace, std::slice::from_ref(intervention), Span::from(10..n)).unwrap()[0];
        let pairs: Vec<(f64, f64)> = numbers(alone).into_iter().zip(numbers(together)).collect();
        assert!(pairs.iter().all(|(a, b)| (a - b).abs() < 1e-6), "{}", intervention.name);
        let first = intervention.first_query();
        // The row at the first query predicts the token after it.
        assert!(together.tokens[..first - 9].iter().all(|t| t.kl == 0.0), "{}", intervention.name);
        assert!(together.next.kl > 0.0, "{}", intervention.name);
    }
}

#[test]
fn a_hidden_block_is_a_block_that_was_not_kept() {
    let tracer = tracer();
    let trace = trace(&tracer, 12, 1000);
    let n = trace.n_tokens();
    // Everything that a query block sees except its sinks and last blocks: a search with that budget keeps
    // these blocks.
    let small = tracer
        .with(streamtrace::StreamConfig { top_k: 4, ..crate::config(4, n) })
        .trace(trace.text())
        .unwrap();
    let hide = (0..n.div_ceil(8)).filter(|q| 8 * q + 8 > 16).map(|q| {
        let end = (8 * q + 8).min(n);
        all(span(8 * q..end), span(4..end.div_ceil(4).saturating_sub(3) * 4))
    });
    let hide: Vec<Edges> = hide.filter(|edges| !edges.keys.is_empty()).collect();
    let effect = &tracer
        .knock_out(&trace, &[Intervention { name: "pruned".into(), hide, keep: Vec::new() }], None)
        .unwrap()[0];
    let next = &small.summary().next_token;
    assert_eq!(effect.next_token.id, next.id);
    assert!(
        (effect.next_token.logprob - next.logprob).abs() < 1e-4,
        "{} {}",
        effect.next_token.logprob,
        next.logprob
    );
    assert!(effect.next.kl > 1e-6);
}

#[test]
fn suppression_changes_only_what_comes_later() {
    let tracer = tracer();
    let trace = trace(&tracer, 12, 1000);
    let sentences = trace.labelled_sentences().unwrap();
    for measure in [SuppressionMeasure::Published, SuppressionMeasure::Peak] {
        let matrix = tracer.suppress_sentences(&trace, &sentences, measure).unwrap();
        assert!(
            matrix
                .rows
                .iter()
                .enumerate()
                .all(|(i, row)| row.len() == i && row.iter().all(|v| v.is_finite()))
        );
        let middle = |row: &Vec<f64>| row.iter().sum::<f64>() / row.len() as f64;
        let centred = matrix.rows[1..].iter().all(|row| middle(row).abs() < 1e-9);
        assert_eq!(centred, measure == SuppressionMeasure::Published);
    }
}

#[test]
fn a_matrix_is_measured_against_what_is_known() {
    let tracer = tracer();
    let trace = trace(&tracer, 12, 1000);
    let mut sentences = trace.labelled_sentences().unwrap();
    sentences[0].kind = SentenceKind::PlanGeneration;
    let mut matrix = tracer.suppress_sentences(&trace, &sentences, SuppressionMeasure::Peak).unwrap();
    matrix.rows[9][2] = 50.0;
    matrix.rows[11][4] = 40.0;
    let mut needs = vec![vec![]; sentences.len()];
    (needs[9], needs[11], needs[5]) = (vec![0, 2], vec![4], vec![0]);
    let matrix = matrix.against(&needs, &[SentenceKind::PlanGeneration]);
    assert_eq!((&matrix.known[..], matrix.known_auc), (&[(9, 2), (11, 4)][..], Some(1.0)));
    let test = matrix.test("two sentences", &[2, 4], 4);
    assert_eq!(test.claimed, [("2".into(), 50.0), ("4".into(), 40.0)]);
    // The last four have no sentence that far behind them.
    assert_eq!((test.controls.len(), test.n_as_strong()), (sentences.len() - 4 - 2, 0));
    assert_eq!(matrix.test("a later one", &[9], 4).claimed, []);
}

#[test]
fn what_cannot_be_hidden_is_an_error() {
    let tracer = tracer();
    let trace = trace(&tracer, 6, 6);
    let n = trace.n_tokens();
    let hide = |edges: Edges| Intervention { name: "it".into(), hide: vec![edges], keep: Vec::new() };
    let whole = || all(span(0..n), span(0..n));
    let of = |intervention: Intervention, asked: std::ops::Range<usize>| {
        tracer.knock_out(&trace, &[intervention], Span::from(asked)).unwrap_err().to_string()
    };
    assert!(of(Intervention::default(), 0..0).contains("expected something to hide"));
    assert!(
        of(hide(Edges { layer: Some(3), ..whole() }), 0..0).contains("layer 3 does not exist: choose 0 to 2")
    );
    assert!(of(hide(Edges { head: Some(9), ..whole() }), 0..0).contains("head 9 does not exist"));
    assert!(of(hide(all(span(n..n + 4), span(0..2))), 0..0).contains("span of queries"));
    assert!(of(hide(all(span(0..n), span(3..3))), 0..0).contains("span of keys 3..3"));
    assert!(of(hide(whole()), 0..3).contains("the first token is predicted by none"));
    assert!(of(hide(whole()), 3..n + 1).contains("span of predicted tokens"));
    let folder = common::random_model(json!({ "model_type": "llama", "num_hidden_layers": 2 }));
    let other = common::load(folder.path()).unwrap().knock_out(&trace, &[hide(whole())], None).unwrap_err();
    assert!(
        matches!(&other, Error::Setting { fix, .. } if fix.contains("load the model that made the trace")),
        "{other}"
    );
}
