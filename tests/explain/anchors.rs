//! Sentence attention and vertical scores by the published definition, pair by pair.

use streamtrace::{
    Error, Span, Trace,
    analysis::{AnchorConfig, Calibration, HeadRanking, Sentence},
    trace::SentenceKind,
};

use crate::{trace, tracer};

/// Returns the probabilities of all pairs of a head. `[n_tokens][n_tokens]`
fn dense(trace: &Trace, layer: usize, head: usize) -> Vec<Vec<f64>> {
    let row = |query: usize| {
        let mut row = vec![0.0; trace.n_tokens()];
        trace.attention_row(layer, head, query).unwrap().iter().for_each(|&(key, p)| row[key] = f64::from(p));
        row
    };
    (0..trace.n_tokens()).map(row).collect()
}

/// Returns `A[i][j]`, the mean over all pairs of tokens.
fn mean(attention: &[Vec<f64>], i: Span, j: Span) -> f64 {
    let pairs = i.range().flat_map(|query| j.range().map(move |key| (query, key)));
    pairs.map(|(query, key)| attention[query][key]).sum::<f64>() / (i.len() * j.len()) as f64
}

fn peak(attention: &[Vec<f64>], i: Span, j: Span) -> f64 {
    i.range().map(|query| attention[query][j.range()].iter().sum()).fold(0.0, f64::max)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 2e-4 * (1.0 + b.abs())
}

#[test]
fn scores_are_the_published_definition() {
    let tracer = tracer();
    for top_k in [1000, 6] {
        let trace = trace(&tracer, 14, top_k);
        let sentences = trace.sentences().unwrap();
        assert!(sentences.len() > 8, "{sentences:?}");
        for layer in 0..trace.n_layers() {
            for head in 0..trace.n_heads() {
                let dense = dense(&trace, layer, head);
                let found = trace.sentence_attention(layer, head, &sentences).unwrap();
                let recorded = trace.vertical(layer, head).unwrap();
                for (j, &b) in sentences.iter().enumerate() {
                    for (i, &a) in sentences.iter().enumerate().skip(j) {
                        assert!(close(found.mean(i, j).unwrap().into(), mean(&dense, a, b)), "{i} on {j}");
                        assert!(close(found.peak(i, j).unwrap().into(), peak(&dense, a, b)), "{i} on {j}");
                    }
                    let later: Vec<f64> = sentences.iter().skip(j + 4).map(|&a| mean(&dense, a, b)).collect();
                    let vertical = later.iter().sum::<f64>() / later.len().max(1) as f64;
                    assert!(
                        close(recorded[j].into(), vertical),
                        "{layer}.{head} {j}: {} {vertical}",
                        recorded[j]
                    );
                    assert_eq!(found.vertical(4)[j].is_some(), !later.is_empty());
                    assert!(close(found.vertical(4)[j].unwrap_or(0.0), vertical));
                }
            }
        }
    }
}

#[test]
fn what_a_run_records_and_what_rows_tell_are_the_same_anchors() {
    let trace = trace(&tracer(), 14, 6);
    let recorded = trace.thought_anchors().unwrap();
    // With another distance, the same sentences are measured from rows.
    let config = AnchorConfig { min_distance: 5, ..AnchorConfig::default() };
    let other = trace.thought_anchors_with(&config).unwrap();
    assert_eq!(recorded.scores.iter().flatten().count(), recorded.sentences.len() - 4);
    assert_eq!(other.scores.iter().flatten().count(), recorded.sentences.len() - 5);
    assert!(recorded.anchors.len() <= 5 && recorded.receivers.heads.len() == 10);
    let scores: Vec<f64> = recorded.anchors.iter().map(|&j| recorded.scores[j].unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
}

#[test]
fn depth_control_ranks_each_row() {
    let trace = trace(&tracer(), 10, 1000);
    let sentences = trace.sentences().unwrap();
    let plain = trace.sentence_attention(0, 0, &sentences).unwrap();
    let ranked = plain.ranked();
    for i in 0..sentences.len() {
        let values: Vec<f32> = (0..=i).map(|j| plain.mean(i, j).unwrap()).collect();
        for j in 0..=i {
            let not_above = values.iter().filter(|v| **v <= values[j]).count();
            let below = values.iter().filter(|v| **v < values[j]).count();
            let rank = (below + not_above + 1) as f32 / 2.0 / (i + 1) as f32;
            assert!((ranked.mean(i, j).unwrap() - rank).abs() < 1e-6, "{i} {j}");
        }
    }
}

#[test]
fn kinds_that_are_left_out_have_no_score_and_chosen_heads_are_taken() {
    let trace = trace(&tracer(), 12, 6);
    let mut sentences = trace.labelled_sentences().unwrap();
    sentences[2].kind = SentenceKind::PlanGeneration;
    let heads = HeadRanking::new("by hand", trace.n_heads(), &[0.0, 9.0, 5.0]);
    let config = AnchorConfig {
        sentences: Some(sentences.clone()),
        leave_out: vec![SentenceKind::PlanGeneration],
        heads: Some(heads.clone()),
        n_receiver_heads: 2,
        ..AnchorConfig::default()
    };
    let anchors = trace.thought_anchors_with(&config).unwrap();
    assert_eq!((anchors.scores[2], anchors.receivers.best(9)), (None, heads.best(2)));
    let of =
        |h: usize, j: usize| f64::from(trace.vertical(heads.heads[h].layer, heads.heads[h].head).unwrap()[j]);
    assert!(close(anchors.scores[3].unwrap(), (of(0, 3) + of(1, 3)) / 2.0));
}

#[test]
fn calibration_finds_the_head_that_tells() {
    let trace = trace(&tracer(), 12, 1000);
    let sentences = trace.labelled_sentences().unwrap();
    // The truth is made from the sentences that head 1·1 looks at most.
    let spans: Vec<Span> = sentences.iter().map(|s| s.span).collect();
    let head = trace.sentence_attention(1, 1, &spans).unwrap();
    let most =
        |i: usize| (0..i).max_by(|&a, &b| head.peak(i, a).unwrap().total_cmp(&head.peak(i, b).unwrap()));
    let all: Vec<f32> = (1..12).map(|i| head.peak(i, most(i).unwrap()).unwrap()).collect();
    let least = all.iter().copied().fold(f32::MAX, f32::min);
    let needs: Vec<Vec<usize>> = (0..sentences.len())
        .map(|i| (0..i).filter(|&j| head.peak(i, j).unwrap() >= least).collect())
        .collect();
    let mut calibration = Calibration::default();
    calibration.add(&trace, &sentences, &needs, &[]).unwrap();
    let ranking = calibration.ranking();
    assert_eq!((ranking.best(1), ranking.score(1, 1)), (vec![(1, 1)], Some(1.0)));
    assert!(ranking.how.contains("1 other prompt"), "{}", ranking.how);
    let links = trace.sentence_links(&sentences, &ranking, 1).unwrap();
    assert_eq!(links.auc(&needs, &[]), Some(1.0));
    assert!(links.measure.contains("L1H1") && links.measure.contains("calibration"));
    assert!(matches!(calibration.add(&trace, &sentences, &[], &[]), Err(Error::Setting { .. })));
}

#[test]
fn too_few_sentences_and_rows_that_were_not_recorded_are_errors() {
    let tracer = tracer();
    let few = trace(&tracer, 3, 6).thought_anchors().unwrap_err().to_string();
    assert!(few.contains("more than 4 sentences") && few.contains("found 3"), "{few}");
    let (text, _) = crate::text(12);
    let short = tracer
        .with(streamtrace::StreamConfig { focus: Some(40..50), ..crate::config(6, 1) })
        .trace(&text)
        .unwrap();
    let sentences: Vec<Sentence> = short.labelled_sentences().unwrap();
    let config = AnchorConfig { min_distance: 2, ..AnchorConfig::default() };
    for error in [
        short.thought_anchors_with(&config).unwrap_err(),
        short.sentence_links(&sentences, &HeadRanking::new("by hand", 2, &[1.0]), 1).unwrap_err(),
    ] {
        assert!(
            error
                .to_string()
                .contains("rows were recorded for tokens 40 to 49; trace again with StreamConfig::focus"),
            "{error}"
        );
    }
    assert!(short.thought_anchors().is_ok());
    assert!(matches!(
        short.sentences_at(&[(0..5, SentenceKind::Filler), (3..9, SentenceKind::Filler)]),
        Err(Error::Missing { .. })
    ));
}

#[test]
fn rows_of_a_piece_of_the_prompt_are_recorded() {
    let tracer = tracer();
    let (text, _) = crate::text(12);
    let piece = text.find(" . ").unwrap() + 3..text.rfind(" . ").unwrap();
    let focused = tracer.with(crate::config(6, 0)).trace_focused(&text, piece.clone()).unwrap();
    let span = focused.covering(piece.clone()).unwrap().span;
    let focus = focused.summary().focus;
    assert!(
        focus.start <= span.start && focus.end >= span.end && focus.len() <= span.len() + 1,
        "{focus} for {span}"
    );
    for bytes in [9..9, text.len() - 1..text.len() + 1] {
        let error = tracer.trace_focused(&text, bytes).map(drop).unwrap_err();
        assert!(matches!(&error, Error::Missing { .. }), "{error}");
    }
}
