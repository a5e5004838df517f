//! Attention sinks: keys that most heads of a layer look at from everywhere, whatever they say.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    trace::{Blocks, HeadTrace, Span, Trace},
};

/// The least mean attention of the queries behind a key with which a head looks at it from everywhere.
///
/// In Qwen2.5-0.5B and SmolLM2-135M the median head gives a sink 0.05 to 0.7, and any other key less than 0.05.
const LEAST: f32 = 0.05;

/// And the least multiple of what the key would get if all queries looked at all keys evenly, which is much in
/// a short prompt.
const TIMES_EVEN: f32 = 3.0;

/// A key that most heads of a layer look at from everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    pub layer: usize,
    pub token: usize,
    /// Heads of the layer that look at it.
    pub n_heads: usize,
}

impl Trace {
    /// Returns the sinks among some tokens, by layer.
    ///
    /// A head looks at a key from everywhere when the queries that see the key give it, in the mean, at least
    /// 0.05 of their attention and three times what they would if they looked at all keys evenly, and the
    /// farther half of them gives as much to its block. A key is a sink in a layer when more than half of the
    /// layer's heads do so. A key with fewer than two query blocks behind it is none: nothing looks at it from
    /// afar.
    ///
    /// # Errors
    /// [`Error::Missing`] for tokens outside the prompt, [`Error::Trace`] when the file is damaged.
    pub fn sinks(&self, tokens: impl Into<Span>) -> Result<Vec<Sink>, Error> {
        let tokens = self.checked("tokens", tokens.into())?;
        let mut sinks = Vec::new();
        for &layer in self.layers() {
            let least = Least::new(&self.blocks(layer)?);
            let often = self.often_looked_at(layer, tokens, &least)?;
            let mut n_heads = vec![0; often.len()];
            for head in 0..if often.is_empty() { 0 } else { self.n_heads() } {
                let head = self.head(layer, head)?;
                n_heads
                    .iter_mut()
                    .zip(&often)
                    .for_each(|(n, &token)| *n += usize::from(looks(&head, token, &least)));
            }
            let sink = |(token, n_heads)| Sink { layer, token, n_heads };
            let found = often.into_iter().zip(n_heads).map(sink);
            sinks.extend(found.filter(|sink| 2 * sink.n_heads > self.n_heads()));
        }
        Ok(sinks)
    }

    /// Returns the keys that more than half of a layer's heads give enough attention to, from near or far.
    fn often_looked_at(&self, layer: usize, tokens: Span, least: &Least) -> Result<Vec<usize>, Error> {
        let blocks = self.blocks(layer)?;
        let mut n_heads = vec![0; tokens.len()];
        for head in 0..self.n_heads() {
            let received = self.received(layer, head, tokens)?;
            for ((n, token), mass) in n_heads.iter_mut().zip(tokens.range()).zip(received) {
                *n += usize::from(mass >= least.of(token) * seeing(&blocks, token).len() as f32);
            }
        }
        Ok(tokens
            .range()
            .zip(n_heads)
            .filter(|(_, n)| 2 * n > self.n_heads())
            .map(|(token, _)| token)
            .collect())
    }
}

/// The least mean attention with which a head looks at a key, by key.
struct Least {
    blocks: Blocks,
    /// What a key that all queries see would have received before each query, if they looked evenly.
    /// `[n_tokens + 1]`
    even: Vec<f64>,
}

impl Least {
    fn new(blocks: &Blocks) -> Self {
        let keys = |query: usize| blocks.window.map_or(query + 1, |window| window.min(query + 1));
        let sums = (0..blocks.n_tokens).scan(0.0, |sum, query| {
            *sum += 1.0 / keys(query) as f64;
            Some(*sum)
        });
        Least { blocks: *blocks, even: [0.0].into_iter().chain(sums).collect() }
    }

    fn of(&self, key: usize) -> f32 {
        let queries = seeing(&self.blocks, key);
        let even = (self.even[queries.end] - self.even[queries.start]) / queries.len() as f64;
        LEAST.max(TIMES_EVEN * even as f32)
    }
}

/// Returns the queries that see a key.
fn seeing(blocks: &Blocks, key: usize) -> Span {
    let end = blocks.window.map_or(blocks.n_tokens, |window| blocks.n_tokens.min(key + window));
    Span { start: key, end }
}

/// Returns whether a head looks at a key from everywhere.
fn looks(head: &HeadTrace, key: usize, least: &Least) -> bool {
    let (blocks, queries, least) = (head.blocks, seeing(&head.blocks, key), least.of(key));
    let near = head.received()[key] / queries.len() as f32;
    let middle = (queries.start + queries.end) / 2;
    let far =
        (middle.div_ceil(blocks.block_size_q)..queries.end.div_ceil(blocks.block_size_q)).map(|block| {
            let on_key = head.row(block).find(|&(kept, _)| kept == key / blocks.block_size_k);
            (blocks.queries(block).len() as f32, on_key.map_or(0.0, |(_, mass)| mass))
        });
    let (n, mass) = far.fold((0.0, 0.0), |(n, sum), (len, mass)| (n + len, sum + len * mass));
    let is_far = queries.len() >= 2 * blocks.block_size_q;
    is_far && near >= least && mass >= least * n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::{HeadRanking, anchors::kurtosis},
        trace::{
            BlockMask,
            synthetic::{Shape, trace_of_words},
        },
    };

    /// A head of 32 query blocks of 4 tokens over key blocks of 4, where block `b` gives `mass(b)` to key 5.
    fn head(mass: impl Fn(usize) -> f32) -> HeadTrace {
        let blocks = Blocks { n_tokens: 128, block_size_q: 4, block_size_k: 4, window: None };
        let kept: Vec<u32> =
            (0..32).flat_map(|b| [if b > 0 { 1 } else { BlockMask::NONE }, BlockMask::NONE]).collect();
        let masses: Vec<f32> = (0..32).flat_map(|b| [mass(b), 0.0]).collect();
        let mut received = vec![0.0; 128];
        received[5] = (1..32).map(|b| 4.0 * mass(b)).sum();
        HeadTrace::new(blocks, 2, kept, masses, received)
    }

    fn is_looked_at(mass: impl Fn(usize) -> f32) -> bool {
        let head = head(mass);
        looks(&head, 5, &Least::new(&head.blocks))
    }

    #[test]
    fn a_head_looks_from_everywhere_when_its_far_queries_do() {
        // Evenly, key 5 would get 0.025.
        assert!(is_looked_at(|_| 0.08));
        assert!(!is_looked_at(|_| 0.07));
        // Much from the next blocks, nothing from afar; much from a few, little in the mean.
        assert!(!is_looked_at(|b| if b < 15 { 0.9 } else { 0.0 }));
        assert!(!is_looked_at(|b| if b > 28 { 0.5 } else { 0.0 }));
    }

    #[test]
    fn what_is_even_depends_on_the_length_and_the_window() {
        let blocks = |n_tokens, window| Blocks { n_tokens, block_size_q: 4, block_size_k: 4, window };
        let of = |n_tokens, window, key| Least::new(&blocks(n_tokens, window)).of(key);
        // The last query looks evenly at 4 keys, those before at fewer.
        assert!((of(4, None, 2) - 3.0 * (1.0 / 3.0 + 1.0 / 4.0) / 2.0).abs() < 1e-6);
        assert!((of(100, Some(10), 50) - 0.3).abs() < 1e-6);
        assert_eq!(of(100_000, None, 50_000), LEAST);
    }

    #[test]
    fn a_window_bounds_who_sees_a_key() {
        let blocks = Blocks { n_tokens: 32, block_size_q: 4, block_size_k: 4, window: Some(8) };
        assert_eq!(seeing(&blocks, 5), Span { start: 5, end: 13 });
        assert_eq!(seeing(&blocks, 30), Span { start: 30, end: 32 });
    }

    /// A trace of sentences of 13 tokens in which all heads look at the first block, with the rows of all tokens.
    fn with_sinks() -> Trace {
        let words: Vec<String> =
            (0..300).map(|t| if t % 13 == 12 { " end." } else { " word" }.into()).collect();
        let shape = Shape { n_tokens: 300, block_size_k: 4, top_k: 40, focus: 300, ..Shape::default() };
        trace_of_words(&shape, &words)
    }

    #[test]
    fn a_sentence_with_a_sink_has_no_score_and_no_part_in_kurtosis() {
        let trace = with_sinks();
        let expected: Vec<Sink> = [0, 1]
            .into_iter()
            .flat_map(|layer| (0..4).map(move |token| Sink { layer, token, n_heads: 2 }))
            .collect();
        assert_eq!(trace.sinks(0..300).unwrap(), expected);
        assert_eq!(trace.sinks(3..300).unwrap().len(), 2);
        let anchors = trace.thought_anchors().unwrap();
        let n = anchors.sentences.len();
        assert!(
            n == 23 && anchors.scores[0].is_none() && anchors.scores[1..n - 4].iter().all(Option::is_some)
        );
        assert!(!anchors.anchors.contains(&0) && anchors.sinks == expected);
        assert!(
            anchors.notes.iter().any(|note| note.contains("what holds a sink") && note.contains("0 “word"))
        );
        for head in &anchors.kurtosis.heads {
            let recorded = trace.vertical(head.layer, head.head).unwrap();
            let counted: Vec<f64> = recorded[1..n - 4].iter().map(|&score| score.into()).collect();
            assert_eq!(head.score, kurtosis(&counted));
        }
    }

    #[test]
    fn links_leave_out_what_sinks_get() {
        let trace = with_sinks();
        let sentences = trace.labelled_sentences().unwrap();
        let heads = HeadRanking::ranked("by hand", [(1, 0, 1.0)]);
        let links = trace.sentence_links(&sentences, &heads, 1).unwrap();
        assert_eq!(links.measure, "peak attention of heads L1H0, by by hand, without sinks");
        let share = |query: usize, keys: Span| {
            let row = trace.attention_row(1, 0, query).unwrap();
            row.iter().filter(|(key, _)| keys.range().contains(key)).map(|(_, p)| p).sum::<f32>()
        };
        let peak = |i: usize, keys: Span| {
            sentences[i].span.range().map(|query| share(query, keys)).fold(0.0, f32::max)
        };
        for i in 1..sentences.len() {
            let (whole, rest) = (peak(i, Span { start: 0, end: 13 }), peak(i, Span { start: 4, end: 13 }));
            assert!((links.rows[i][0] - f64::from(rest)).abs() < 1e-4 && rest < whole / 2.0, "{i}");
        }
    }
}
