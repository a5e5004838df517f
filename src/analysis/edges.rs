//! Attention as rows of numbers, for other programs: one row for each kept pair of a query block and a key
//! block, or for each pair of sentences.

mod experts;
mod save;

use std::{collections::BTreeMap, vec::IntoIter};

use crate::{
    error::Error,
    trace::{HeadTrace, Span, Trace},
};
pub use experts::{ExpertEdge, ExpertRows};

/// A key block that a query block keeps, in one head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    pub layer: usize,
    pub head: usize,
    pub query_block: usize,
    pub key_block: usize,
    /// First token of the query block, and of the key block.
    pub first_query: usize,
    pub first_key: usize,
    /// Attention on the key block, mean over the query block's queries.
    pub mass: f32,
}

/// Attention of a sentence on an earlier one or on itself, in one head. Sentences are counted as in
/// [`Trace::sentences`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SentenceEdge {
    pub layer: usize,
    pub head: usize,
    pub query_sentence: usize,
    pub key_sentence: usize,
    /// Attention on the key sentence, mean over the query sentence's tokens. A block on the border of two
    /// sentences is divided between them by its tokens.
    pub mass: f32,
}

/// The kept edges of a trace: by layer, head, query block and key block. Reads one head at a time.
pub struct EdgeRows {
    trace: Trace,
    heads: IntoIter<(usize, usize)>,
    rows: IntoIter<Edge>,
}

/// The pairs of sentences of a trace: by layer, head, query sentence and key sentence. Reads one head at a
/// time.
pub struct SentenceEdgeRows {
    trace: Trace,
    sentences: Vec<Span>,
    heads: IntoIter<(usize, usize)>,
    rows: IntoIter<SentenceEdge>,
}

impl Trace {
    /// Returns every kept key block of every query block, head and layer that the trace holds.
    pub fn edges(&self) -> EdgeRows {
        EdgeRows { trace: self.clone(), heads: heads(self), rows: Vec::new().into_iter() }
    }

    /// Returns the attention of each sentence on each other, in every layer and head, where a block of it was
    /// kept.
    ///
    /// # Errors
    /// As [`Trace::sentences`].
    pub fn sentence_edges(&self) -> Result<SentenceEdgeRows, Error> {
        let (trace, sentences) = (self.clone(), self.sentences()?);
        Ok(SentenceEdgeRows { trace, sentences, heads: heads(self), rows: Vec::new().into_iter() })
    }
}

fn heads(trace: &Trace) -> IntoIter<(usize, usize)> {
    let all = |layer| (0..trace.n_heads()).map(move |head| (layer, head));
    trace.layers().iter().copied().flat_map(all).collect::<Vec<_>>().into_iter()
}

impl Iterator for EdgeRows {
    type Item = Result<Edge, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next_row(&mut self.rows, &mut self.heads, &self.trace, edges)
    }
}

impl Iterator for SentenceEdgeRows {
    type Item = Result<SentenceEdge, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let of_head = |layer, head, read: &HeadTrace| sentence_edges(layer, head, read, &self.sentences);
        next_row(&mut self.rows, &mut self.heads, &self.trace, of_head)
    }
}

/// Returns the next of the current rows, else the first row of the next head that has any.
fn next_row<T>(
    rows: &mut IntoIter<T>,
    heads: &mut IntoIter<(usize, usize)>,
    trace: &Trace,
    of_head: impl Fn(usize, usize, &HeadTrace) -> Vec<T>,
) -> Option<Result<T, Error>> {
    loop {
        if let Some(row) = rows.next() {
            return Some(Ok(row));
        }
        let (layer, head) = heads.next()?;
        match trace.head(layer, head) {
            Ok(read) => *rows = of_head(layer, head, &read).into_iter(),
            Err(error) => return Some(Err(error)),
        }
    }
}

fn edges(layer: usize, head: usize, read: &HeadTrace) -> Vec<Edge> {
    let blocks = read.blocks;
    let row = |query_block: usize| {
        read.row(query_block).map(move |(key_block, mass)| Edge {
            layer,
            head,
            query_block,
            key_block,
            first_query: blocks.queries(query_block).start,
            first_key: blocks.keys(key_block).start,
            mass,
        })
    };
    (0..blocks.n_query_blocks()).flat_map(row).collect()
}

/// Returns the pairs of sentences of one head; `sentences` make up the prompt.
fn sentence_edges(layer: usize, head: usize, read: &HeadTrace, sentences: &[Span]) -> Vec<SentenceEdge> {
    let mut found = Vec::new();
    for (query_sentence, sentence) in sentences.iter().enumerate() {
        let mut masses = BTreeMap::new();
        let size = read.blocks.block_size_q;
        for query_block in sentence.start / size..sentence.end.div_ceil(size) {
            let weight =
                overlap(*sentence, read.blocks.queries(query_block).into()) as f32 / sentence.len() as f32;
            for (key_block, mass) in read.row(query_block) {
                let keys = Span::from(read.blocks.keys(key_block));
                for key_sentence in holding(sentences, keys) {
                    let share = overlap(sentences[key_sentence], keys) as f32 / keys.len() as f32;
                    *masses.entry(key_sentence).or_insert(0.0) += weight * mass * share;
                }
            }
        }
        let edge = |(key_sentence, mass)| SentenceEdge { layer, head, query_sentence, key_sentence, mass };
        found.extend(masses.into_iter().map(edge));
    }
    found
}

fn overlap(a: Span, b: Span) -> usize {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// Returns the sentences that share a token with a span.
fn holding(sentences: &[Span], span: Span) -> std::ops::Range<usize> {
    sentences.partition_point(|s| s.end <= span.start)..sentences.partition_point(|s| s.start < span.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{
        BlockMask, Blocks,
        synthetic::{Shape, trace, trace_of_words},
    };

    #[test]
    fn edges_are_the_kept_blocks_of_every_head() {
        let trace = trace(&Shape { n_tokens: 100, n_layers: 2, n_heads: 3, top_k: 4, ..Default::default() });
        let edges: Vec<Edge> = trace.edges().collect::<Result<_, _>>().unwrap();
        let mut expected = Vec::new();
        for (layer, head) in (0..2).flat_map(|l| (0..3).map(move |h| (l, h))) {
            let read = trace.head(layer, head).unwrap();
            for query_block in 0..4 {
                for (key_block, mass) in read.row(query_block) {
                    let (first_query, first_key) = (32 * query_block, 8 * key_block);
                    expected.push(Edge { layer, head, query_block, key_block, first_query, first_key, mass });
                }
            }
        }
        assert_eq!(edges, expected);
        assert!(edges.len() > 60, "{}", edges.len());
    }

    #[test]
    fn a_block_on_a_border_is_shared_out() {
        let blocks = Blocks { n_tokens: 8, block_size_q: 4, block_size_k: 4, window: None };
        let kept = vec![0, BlockMask::NONE, 0, 1];
        let head = HeadTrace::new(blocks, 2, kept, vec![1.0, 0.0, 0.4, 0.6], vec![0.0; 8]);
        // Tokens 0 to 2, 3 to 5, and 6 and 7.
        let sentences = [Span { start: 0, end: 3 }, Span { start: 3, end: 6 }, Span { start: 6, end: 8 }];
        let found: Vec<(usize, usize, f32)> = sentence_edges(0, 0, &head, &sentences)
            .into_iter()
            .map(|edge| (edge.query_sentence, edge.key_sentence, (edge.mass * 1e4).round() / 1e4))
            .collect();
        // The second sentence has one query in block 0, which gives a quarter to it, and two in block 1.
        let expected = [
            (0, 0, 0.75),
            (0, 1, 0.25),
            (1, 0, 0.45),
            (1, 1, 0.35),
            (1, 2, 0.2),
            (2, 0, 0.3),
            (2, 1, 0.4),
            (2, 2, 0.3),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn all_that_a_sentence_gives_is_what_its_blocks_give() {
        let words: Vec<String> =
            (0..90).map(|t| if t % 13 == 12 { " end." } else { " word" }.into()).collect();
        let trace =
            trace_of_words(&Shape { n_tokens: 90, top_k: 50, block_size_q: 8, ..Default::default() }, &words);
        let edges: Vec<SentenceEdge> = trace.sentence_edges().unwrap().collect::<Result<_, _>>().unwrap();
        for (layer, head) in (0..2).flat_map(|l| (0..2).map(move |h| (l, h))) {
            for sentence in 0..trace.sentences().unwrap().len() {
                let row =
                    edges.iter().filter(|e| (e.layer, e.head, e.query_sentence) == (layer, head, sentence));
                let sum: f32 = row.map(|e| e.mass).sum();
                assert!((sum - 1.0).abs() < 0.01, "{layer} {head} {sentence}: {sum}");
            }
        }
    }
}
