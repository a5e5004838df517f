//! Anchors of a chain of thought inside a chat: its sentences alone, without sinks, by the published definition.

use std::path::Path;

use streamtrace::{
    Error, Span, StreamConfig, Trace,
    analysis::{AnchorConfig, Sentence, Sink},
    trace::SentenceKind,
};

use crate::{common, text, tracer};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/needle-6m");

/// Returns a chat: a question of five sentences, a thought of nine, and an answer of three.
fn chat() -> String {
    let (all, _) = text(17);
    let parts: Vec<String> = all.split(" . ").map(|s| format!("{} .", s.trim_end_matches(" ."))).collect();
    format!(
        "<|im_start|>user\n{}\n<|im_end|>\n<|im_start|>assistant\n<think>\n{}\n</think>\n{}\n<|im_end|>\n",
        parts[..5].join(" "),
        parts[5..14].join(" "),
        parts[14..].join(" ")
    )
}

/// Returns a trace of the chat that keeps every block, with the rows of `focus`.
fn trace(focus: std::ops::Range<usize>) -> Trace {
    let config = StreamConfig { focus: Some(focus), ..crate::config(1000, 0) };
    tracer().with(config).trace(&chat()).unwrap()
}

fn whole() -> Trace {
    let n_tokens = trace(0..1).n_tokens();
    trace(0..n_tokens)
}

/// Returns the probabilities of all pairs of a head. `[n_tokens][n_tokens]`
fn rows(trace: &Trace, layer: usize, head: usize) -> Vec<Vec<f32>> {
    let row = |query: usize| {
        let mut row = vec![0.0; trace.n_tokens()];
        trace.attention_row(layer, head, query).unwrap().iter().for_each(|&(key, p)| row[key] = p);
        row
    };
    (0..trace.n_tokens()).map(row).collect()
}

/// Returns the vertical scores of the sentences by the published definition, from all pairs of tokens.
fn vertical(trace: &Trace, layer: usize, head: usize, sentences: &[Sentence]) -> Vec<Option<f64>> {
    let rows = rows(trace, layer, head);
    let mean = |i: Span, j: Span| {
        let pairs = i.range().flat_map(|query| j.range().map(move |key| (query, key)));
        pairs.map(|(query, key)| f64::from(rows[query][key])).sum::<f64>() / (i.len() * j.len()) as f64
    };
    let of = |j: usize| {
        let later: Vec<f64> = sentences.iter().skip(j + 4).map(|s| mean(s.span, sentences[j].span)).collect();
        (!later.is_empty()).then(|| later.iter().sum::<f64>() / later.len() as f64)
    };
    (0..sentences.len()).map(of).collect()
}

#[test]
fn anchors_are_of_the_thought_alone() {
    let trace = whole();
    let anchors = trace.thought_anchors().unwrap();
    let all = trace.labelled_sentences().unwrap();
    assert_eq!((all.len(), anchors.sentences.len()), (17, 9));
    assert_eq!(anchors.sentences, all[5..14]);
    let chain = trace.chain().unwrap().unwrap();
    assert!(anchors.sentences.iter().all(|s| chain.start <= s.span.start && s.span.end <= chain.end));
    assert!(all[..5].iter().all(|sentence| sentence.kind == SentenceKind::ProblemSetup));
    assert!(all.iter().all(|sentence| !sentence.text.contains(['<', '|'])), "{all:?}");
    assert!(anchors.notes.is_empty(), "{:?}", anchors.notes);
}

/// The answer, and the special tokens around it, look at the thought, too; they do not count.
#[test]
fn recorded_scores_are_the_published_ones_of_the_chain() {
    let trace = whole();
    let sentences = trace.thought_anchors().unwrap().sentences;
    let stretches = trace.sentences().unwrap();
    let column = |s: &Sentence| stretches.iter().position(|stretch| *stretch == s.span).unwrap();
    for (layer, head) in (0..trace.n_layers()).flat_map(|l| (0..trace.n_heads()).map(move |h| (l, h))) {
        let recorded = trace.vertical(layer, head).unwrap();
        for (sentence, expected) in sentences.iter().zip(vertical(&trace, layer, head, &sentences)) {
            let found = f64::from(recorded[column(sentence)]);
            assert!((found - expected.unwrap_or(0.0)).abs() < 2e-4, "{layer}.{head}: {found} {expected:?}");
        }
        // Two turns' special tokens, the thought's end, three sentences and the end of the turn.
        assert_eq!(recorded.iter().filter(|score| score.is_nan()).count(), 7);
    }
}

#[test]
fn another_stretch_is_looked_at_where_one_is_given() {
    let whole = whole();
    let all = whole.labelled_sentences().unwrap();
    let over = |range: std::ops::Range<usize>| AnchorConfig {
        over: Some(Span { start: all[range.start].span.start + 1, end: all[range.end].span.end - 1 }),
        ..AnchorConfig::default()
    };
    // With rows, what comes behind the stretch does not count: not even through the recorded scores.
    let anchors = whole.thought_anchors_with(&over(2..9)).unwrap();
    assert_eq!((&anchors.sentences[..], &anchors.notes), (&all[2..=9], &vec![]));
    let receivers = &anchors.receivers.heads;
    let scores: Vec<_> =
        receivers.iter().map(|h| vertical(&whole, h.layer, h.head, &all[2..=9])[0]).collect();
    let mean = scores.iter().flatten().sum::<f64>() / scores.len() as f64;
    assert!((anchors.scores[0].unwrap() - mean).abs() < 2e-4);
    // Without, it counts, and the result says so.
    let without = trace(0..1);
    let anchors = without.thought_anchors_with(&over(2..9)).unwrap();
    assert!(
        anchors.notes[0].contains("attention from 4 sentences behind them counts"),
        "{:?}",
        anchors.notes
    );
    // The answer was not recorded.
    assert!(matches!(without.thought_anchors_with(&over(2..15)), Err(Error::Missing { .. })));
}

#[test]
fn stretches_outside_the_prompt_or_with_few_sentences_are_errors() {
    let trace = trace(0..1);
    let n = trace.n_tokens();
    let error = |start: usize, end: usize| {
        let over = Some(Span { start, end });
        let config = AnchorConfig { over, ..AnchorConfig::default() };
        trace.thought_anchors_with(&config).unwrap_err().to_string()
    };
    for (start, end) in [(0, n + 1), (n, n + 9), (9, 9), (9, 3), (0, usize::MAX)] {
        let error = error(start, end);
        assert!(error.contains("stretch") && error.contains(&format!("tokens 0..{n}")), "{error}");
    }
    let few = error(0, 9);
    assert!(few.contains("more than 4 sentences") && few.contains("in the stretch"), "{few}");
}

#[test]
fn a_prompt_that_is_no_chain_is_said_to_be_none() {
    let text = "w1 plain w2 words . ".repeat(9);
    let trace = tracer().with(crate::config(1000, 1)).trace(&text).unwrap();
    assert_eq!(trace.chain().unwrap(), None);
    // Words with digits read like facts to the rules, so nothing is said.
    assert!(trace.thought_anchors().unwrap().notes.is_empty());
    let text = "plain words and others . ".repeat(9);
    let trace = tracer().with(crate::config(1000, 1)).trace(&text).unwrap();
    let anchors = trace.thought_anchors().unwrap();
    assert!(anchors.notes[0].contains("do not read like a chain of thought"), "{:?}", anchors.notes);
    assert!(anchors.to_string().contains("do not read like"), "{anchors}");
    // Sentences of one's own are a choice.
    let config =
        AnchorConfig { sentences: Some(trace.labelled_sentences().unwrap()), ..AnchorConfig::default() };
    assert!(trace.thought_anchors_with(&config).unwrap().notes.is_empty());
}

/// Returns the sinks by their definition, from all pairs of tokens; blocks of queries have 8 tokens, of keys 4.
fn sinks(trace: &Trace) -> Vec<Sink> {
    let n = trace.n_tokens();
    let looks = |rows: &[Vec<f32>], token: usize| {
        let on = |queries: std::ops::Range<usize>, keys: std::ops::Range<usize>| {
            let n_queries = queries.len() as f32;
            rows[queries].iter().map(|row| row[keys.clone()].iter().sum::<f32>()).sum::<f32>() / n_queries
        };
        let even = (token..n).map(|query| 1.0 / (query + 1) as f32).sum::<f32>() / (n - token) as f32;
        let least = (3.0 * even).max(0.05);
        let (block, far) = (token / 4 * 4, ((token + n) / 2).next_multiple_of(8)..n);
        n - token >= 16 && on(token..n, token..token + 1) >= least && on(far, block..block + 4) >= least
    };
    let mut found = Vec::new();
    for layer in 0..trace.n_layers() {
        let heads: Vec<Vec<Vec<f32>>> = (0..trace.n_heads()).map(|head| rows(trace, layer, head)).collect();
        for token in 0..n {
            let n_heads = heads.iter().filter(|rows| looks(rows, token)).count();
            if 2 * n_heads > heads.len() {
                found.push(Sink { layer, token, n_heads });
            }
        }
    }
    found
}

#[test]
fn sinks_are_what_most_heads_look_at_from_everywhere() {
    let tracer = common::load(Path::new(MODEL)).unwrap();
    // Blocks of a few tokens, in a short text whose words come back: some keys are looked at by most heads.
    let text = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";
    for n in [1, 3, 6] {
        let text = text.repeat(n);
        let n_tokens = tracer.count_tokens(&text).unwrap();
        let trace = tracer.with(crate::config(1000, n_tokens)).trace(&text).unwrap();
        assert_eq!(trace.sinks(0..n_tokens).unwrap(), sinks(&trace), "{n}");
        for bad in [Span { start: 0, end: n_tokens + 1 }, Span { start: 5, end: 5 }] {
            assert!(matches!(trace.sinks(bad), Err(Error::Missing { .. })));
        }
    }
}
