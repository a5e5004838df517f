//! Synthetic findings for tests and the gallery: anchors and a sentence matrix.

use streamtrace::{
    analysis::{HeadRanking, Sentence, SentenceMatrix, ThoughtAnchors, Unit},
    trace::{SentenceKind, Span},
};

/// Makes anchors of `n` sentences of one text, with low random scores and a few high ones.
pub fn made_up_anchors(n: usize, text: &str) -> ThoughtAnchors {
    let score = |j: usize| {
        let noise = f64::from(hash([7, j as u32, 0])) / f64::from(u32::MAX);
        (j + 4 < n).then_some(0.002 + 0.004 * noise + if j % 29 == 3 { 0.02 } else { 0.0 })
    };
    let scores: Vec<Option<f64>> = (0..n).map(score).collect();
    let mut anchors: Vec<usize> = (0..n).filter(|j| scores[*j].is_some()).collect();
    anchors.sort_by(|&a, &b| scores[b].unwrap().total_cmp(&scores[a].unwrap()));
    anchors.truncate(5);
    let kurtosis: Vec<f64> = (0..48).map(|h| f64::from(hash([h, 1, 2]) % 1000) / 30.0).collect();
    let kurtosis = HeadRanking::new("kurtosis", 8, &kurtosis);
    ThoughtAnchors {
        sentences: made_up_sentences(n, text),
        scores,
        anchors,
        receivers: HeadRanking { heads: kurtosis.heads[..10].to_vec(), ..kurtosis.clone() },
        kurtosis,
        min_distance: 4,
        n_layers: 6,
        n_heads: 8,
        model: "synthetic".into(),
        sinks: Vec::new(),
        notes: Vec::new(),
    }
}

/// Makes a matrix of `n` sentences in which each needs the third before it.
pub fn made_up_matrix(n: usize) -> SentenceMatrix {
    let value = |i: usize, j: usize| {
        let noise = f64::from(hash([i as u32, j as u32, 3])) / f64::from(u32::MAX);
        0.2 * noise + if j + 3 == i { 0.7 } else { 0.0 }
    };
    SentenceMatrix {
        measure: "made-up numbers".into(),
        unit: Unit::Plain,
        sentences: made_up_sentences(n, "A sentence."),
        rows: (0..n).map(|i| (0..i).map(|j| value(i, j)).collect()).collect(),
        model: "synthetic".into(),
        known: Vec::new(),
        known_auc: None,
        note: None,
    }
}

fn made_up_sentences(n: usize, text: &str) -> Vec<Sentence> {
    let kind = |i: usize| SentenceKind::ALL[hash([5, i as u32, 1]) as usize % SentenceKind::ALL.len()];
    let sentence = |i: usize| Sentence {
        span: Span { start: 9 * i, end: 9 * i + 9 },
        text: format!("{text} {i}."),
        kind: kind(i),
    };
    (0..n).map(sentence).collect()
}

/// Returns a pseudorandom number (the finaliser of MurmurHash3).
fn hash(values: [u32; 3]) -> u32 {
    values.into_iter().fold(0x9e37_79b9, |state, value| {
        let mut h = state ^ value.wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 16)).wrapping_mul(0xc2b2_ae35);
        (h ^ (h >> 13)).wrapping_mul(0x27d4_eb2f) ^ (h >> 15)
    })
}
