//! All queries of a trace, valid and invalid.

use streamtrace::{
    error::Error,
    trace::{
        BlockMask, Fidelity, HeadTrace, LayerRecord, PositionFidelity, RowsOf, Span, Trace, TraceWriter,
    },
};

use crate::sample::{Sample, Size, small};

/// Compares everything that a trace holds with the sample.
pub fn assert_holds(trace: &Trace, sample: &Sample) {
    assert_eq!(trace.summary(), &sample.summary);
    assert_eq!((trace.n_tokens(), trace.text()), (sample.tokens.len(), sample.text.as_str()));
    assert_eq!((trace.n_layers(), trace.n_heads()), (sample.layers.len(), sample.summary.model.n_heads));
    assert_eq!(
        (trace.tokens().unwrap(), trace.logits().unwrap()),
        (sample.tokens.clone(), sample.logits.clone())
    );
    assert_eq!(trace.output(), Span { start: sample.tokens.len() - 1, end: sample.tokens.len() });
    for (layer, record) in sample.layers.iter().enumerate() {
        assert_eq!(trace.blocks(layer).unwrap(), record.mask.blocks);
        assert_eq!(trace.mask(layer).unwrap(), record.mask);
        assert_eq!(
            (trace.masses(layer).unwrap(), trace.proximity(layer).unwrap()),
            (record.mass.clone(), record.proximity.clone())
        );
        let experts = trace.experts_of(layer, 0..trace.n_tokens()).unwrap().unwrap();
        assert!(
            experts.concat().iter().eq(record.experts.iter().map(|&e| e as usize).collect::<Vec<_>>().iter())
        );
        for head in 0..trace.n_heads() {
            assert_head_holds(trace, layer, head, record);
        }
    }
}

fn assert_head_holds(trace: &Trace, layer: usize, head: usize, record: &LayerRecord) {
    let (found, mask, n_tokens) = (trace.head(layer, head).unwrap(), &record.mask, trace.n_tokens());
    assert_eq!(
        (found.blocks, found.received()),
        (mask.blocks, &record.received[head * n_tokens..(head + 1) * n_tokens])
    );
    for query_block in 0..mask.blocks.n_query_blocks() {
        let kept = mask.kept(head, query_block).iter().map(|&b| b as usize);
        let expected: Vec<_> = kept.zip(record.mass[mask.row(head, query_block)].iter().copied()).collect();
        assert_eq!(found.row(query_block).collect::<Vec<_>>(), expected);
    }
    let focus = trace.summary().focus;
    assert_eq!(trace.recall(layer).unwrap().unwrap(), record.recall);
    assert_eq!(trace.on_sink(layer).unwrap().unwrap(), record.on_sink);
    for token in focus.range() {
        let row = mask.budgets.row(head, token - focus.start, focus.len());
        let row = row.start * mask.blocks.block_size_k..row.end * mask.blocks.block_size_k;
        assert_eq!(
            trace.attention_row(layer, head, token).unwrap(),
            focus_row(mask, head, token, &record.focus[row])
        );
    }
}

/// Returns the keys that the token sees in its query block's kept blocks, with their stored numbers.
fn focus_row(mask: &BlockMask, head: usize, token: usize, stored: &[f32]) -> Vec<(usize, f32)> {
    let (blocks, mut row) = (&mask.blocks, Vec::new());
    for (i, &block) in mask.kept(head, token / blocks.block_size_q).iter().enumerate() {
        for j in 0..blocks.block_size_k {
            let key = block as usize * blocks.block_size_k + j;
            if blocks.visible_keys(token).contains(&key) {
                row.push((key, stored[i * blocks.block_size_k + j]));
            }
        }
    }
    row
}

/// Saves, opens and compares; returns the file's bytes.
fn round_trip(size: Size) -> Vec<u8> {
    let sample = size.sample();
    assert_holds(&sample.trace, &sample);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    sample.trace.save(&path).unwrap();
    assert_holds(&Trace::open(&path).unwrap(), &sample);
    std::fs::read(path).unwrap()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn small_traces_read_back() {
    round_trip(small().windows(&[None, Some(5)]));
    round_trip(Size { block_size_q: 2, block_size_k: 8, ..small() }.windows(&[Some(1), None, Some(1000)]));
    round_trip(Size { n_tokens: 1, top_k: 9, focus: 0..1, ..small() }.windows(&[None]));
    round_trip(Size { n_tokens: 64, top_k: 2, focus: 0..64, n_heads: 1, ..small() }.windows(&[None]));
    round_trip(Size { focus: 4..4, ..small() }.windows(&[None]));
}

#[test]
fn block_indices_are_as_wide_as_they_must_be() {
    let many = |n_tokens| Size {
        n_tokens,
        block_size_q: 256,
        block_size_k: 1,
        top_k: 2,
        n_heads: 2,
        focus: n_tokens - 2..n_tokens,
        windows: vec![None],
    };
    let narrow = "kept\":{\"dtype\":\"U16\"";
    assert!(contains(&round_trip(many(65_534)), narrow));
    assert!(!contains(&round_trip(many(65_535)), narrow));
    assert!(!contains(&round_trip(many(70_001)), narrow));
}

#[test]
fn what_does_not_exist_is_said_to_be_missing() {
    let sample = small().windows(&[None, Some(5)]).sample();
    let trace = &sample.trace;
    let missing = |error: Error, text: &str| {
        assert!(matches!(error, Error::Missing { .. }) && error.to_string().contains(text), "{error}");
    };
    missing(trace.head(2, 0).unwrap_err(), "layer 2 does not exist: choose 0 to 1");
    missing(trace.head(0, 3).unwrap_err(), "head 3 does not exist: choose 0 to 2");
    missing(trace.mask(usize::MAX).unwrap_err(), "layer 18446744073709551615");
    missing(trace.blocks(2).unwrap_err(), "layer 2");
    missing(trace.attention_row(0, 3, 14).unwrap_err(), "head 3");
    missing(trace.attention_row(2, 0, 14).unwrap_err(), "layer 2");
    for token in [0, 12, 17, usize::MAX] {
        missing(trace.attention_row(0, 0, token).unwrap_err(), "rows were recorded for tokens 13 to 16");
    }
    missing(trace.span_text(20..24).unwrap_err(), "span 20..24 does not exist: the prompt has tokens 0..23");
    let none = Size { focus: 0..0, ..small() }.windows(&[None]).sample();
    missing(none.trace.attention_row(0, 0, 0).unwrap_err(), "no rows were recorded");
    assert_eq!(trace.summary().blocks(99).window, None);
}

#[test]
fn text_is_cut_at_whole_characters() {
    let sample = small().windows(&[None]).sample();
    let trace = &sample.trace;
    // n é😀 n é😀…: bytes n 0, é 1-2, 😀 3-6, space 7; tokens of two bytes.
    assert_eq!(trace.text().chars().take(5).collect::<String>(), "né😀 n");
    assert_eq!(trace.span_text(0..1).unwrap(), "né");
    assert_eq!(trace.span_text(1..2).unwrap(), "é😀");
    assert_eq!(trace.span_text(2..3).unwrap(), "😀");
    assert_eq!(trace.span_text(3..5).unwrap(), "😀 né");
    assert_eq!(trace.span_text(0..23).unwrap(), trace.text());
    assert_eq!(
        (trace.span_text(4..4).unwrap(), trace.span_text(Span { start: 9, end: 3 }).unwrap()),
        ("", "")
    );
    for (start, end) in (0..23).flat_map(|start| (start..=23).map(move |end| (start, end))) {
        assert!(trace.text().contains(trace.span_text(start..end).unwrap()));
    }
}

#[test]
fn text_is_found_by_the_tokens_that_cover_it() {
    let sample = small().windows(&[None]).sample();
    let trace = &sample.trace;
    assert_eq!(trace.find("n").unwrap(), Span { start: 0, end: 1 });
    assert_eq!(trace.find("é").unwrap(), Span { start: 0, end: 2 });
    assert_eq!(trace.find("😀").unwrap(), Span { start: 1, end: 4 });
    assert_eq!(trace.find(" ").unwrap(), Span { start: 3, end: 4 });
    assert_eq!(trace.find(trace.text()).unwrap(), Span { start: 0, end: 23 });
    assert!(trace.find("😀n").unwrap_err().to_string().contains("the prompt does not contain it"));
    assert!(trace.find("").unwrap_err().to_string().contains("an empty text is nowhere"));
}

#[test]
fn tokens_without_text_cover_nothing() {
    let size = Size { n_tokens: 4, focus: 0..1, ..small() }.windows(&[None]);
    let sample = size.sample();
    let mut writer = TraceWriter::new(&[1, 2, 3, 4], &[(0, 0), (0, 2), (2, 4), (0, 0)], "abcd").unwrap();
    writer.layer(0, &sample.layers[0]).unwrap();
    let trace = writer.finish(sample.summary, &sample.logits).unwrap();
    assert_eq!(trace.find("a").unwrap(), Span { start: 1, end: 2 });
    assert_eq!(trace.find("bc").unwrap(), Span { start: 1, end: 3 });
    assert_eq!((trace.span_text(0..1).unwrap(), trace.span_text(0..3).unwrap()), ("", "abcd"));
}

#[test]
fn a_comparison_is_kept_with_the_trace() {
    let sample = small().windows(&[None]).sample();
    let recall_by_head = vec![vec![0.5, 1.0, 0.25]];
    let fidelity = Fidelity {
        recall_by_head,
        recall: 1.75 / 3.0,
        n_rows: 23,
        rows_of: RowsOf::Sparse,
        same_next_token: Some(true),
        kl: Some(1e-7),
        dense_next_token: None,
        positions: Some(PositionFidelity { n: 7, same_next_token: 0.75, mean_kl: 0.125, p99_kl: 1.5 }),
        answer: None,
    };
    let compared = sample.trace.with_fidelity(fidelity.clone());
    assert_eq!(sample.trace.summary().fidelity, None);
    let folder = tempfile::tempdir().unwrap();
    compared.save(folder.path().join("a.trace")).unwrap();
    assert_eq!(Trace::open(folder.path().join("a.trace")).unwrap().summary().fidelity, Some(fidelity));
}

#[test]
fn comparisons_of_older_traces_are_read() {
    let older = r#"{"recall_by_head":[[1.0]],"recall":1.0,"n_rows":9,"same_next_token":true,"kl":0.0}"#;
    let fidelity: Fidelity = serde_json::from_str(older).unwrap();
    assert_eq!((fidelity.rows_of, fidelity.positions, fidelity.answer), (RowsOf::Dense, None, None));
}

#[test]
fn spans_and_heads_made_by_hand_do_not_panic() {
    let backwards = Span { start: 9, end: 3 };
    assert!(backwards.is_empty() && Span::from(5..5).is_empty());
    assert_eq!((backwards.len(), Span::from(3..9).len()), (0, 6));
    let record = &small().windows(&[None]).sample().layers[0];
    let head = HeadTrace::new(record.mask.blocks, 5, vec![0; 3], vec![0.5; 2], vec![]);
    assert_eq!((head.row(0).count(), head.row(99).count(), head.row(usize::MAX).count()), (0, 0, 0));
    let blocks = record.mask.blocks;
    assert!(blocks.queries(usize::MAX).is_empty() && blocks.keys(usize::MAX).is_empty());
}
