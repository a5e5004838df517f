//! What one token read: the passages that a head looked at, and the heads that looked there.

use serde::Serialize;

use super::{HeadRanking, SharedExperts};
use crate::{
    error::Error,
    trace::{Span, Trace},
    words::letters::cells,
};

/// Characters of a passage, as wide as a letter of a typewriter.
const PASSAGE: usize = 92;
/// The largest number of passages, and the least share of the attention that a further one holds.
const PASSAGES: usize = 3;
const LEAST: f64 = 0.03;
/// Keys so near the query are its own surroundings, which most heads look at.
const NEAR: usize = 32;

/// What a token read over the whole prompt, in one head, and which heads read the same passage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    pub model: String,
    pub n_tokens: usize,
    /// The token that looks.
    pub query: usize,
    /// Its text.
    pub text: String,
    /// The next token and its probability, if the query is the prompt's last token.
    pub writes: Option<(String, f64)>,
    pub layer: usize,
    pub head: usize,
    /// Where the head looked, in order: keys, or blocks of keys where rows were not recorded key by key, and
    /// the share of attention on each.
    pub keys: Vec<(Span, f64)>,
    /// The passages that were read most, strongest first. The last one ends with the query.
    pub passages: Vec<Passage>,
    /// Heads by their attention on the first passage.
    pub heads: HeadRanking,
    /// The experts of the query and of the token that it read most, if the run recorded them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<SharedExperts>,
    /// Share of the pairs of all heads that was pruned.
    pub pruned: f64,
    /// That the prompt is longer than the model was made for, or than its windows, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A passage of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Passage {
    pub span: Span,
    /// The share of the head's attention on it.
    pub share: f64,
    /// The text of each token, and the share of attention on it.
    pub tokens: Vec<(String, f64)>,
}

/// A head, and what it looks at.
#[derive(Clone)]
struct Row {
    layer: usize,
    head: usize,
    keys: Vec<(Span, f64)>,
}

impl Trace {
    /// Returns what the last token read, before it wrote the next one.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn reading(&self) -> Result<Reading, Error> {
        self.reading_of(self.n_tokens() - 1, None)
    }

    /// Returns what a token read, in a head, given as layer and head, or else in the one that put most of its
    /// attention on a single place: neither on a sink, nor on the tokens just before.
    ///
    /// # Errors
    /// [`Error::Missing`] for a token outside the prompt, or a layer or head that the trace does not hold;
    /// [`Error::Trace`] when the file is damaged.
    pub fn reading_of(&self, query: usize, head: Option<(usize, usize)>) -> Result<Reading, Error> {
        self.checked("token that reads", (query..query.saturating_add(1)).into())?;
        let rows = self.rows_of(query)?;
        let row = match head {
            Some((layer, head)) => self.row_of(layer, head, query)?,
            None => self.clearest(&rows, query)?.clone(),
        };
        let passages = self.passages(&row, query)?;
        let on_first = |row: &Row| share(&row.keys, passages[0].span);
        let heads = rows.iter().map(|row| (row.layer, row.head, on_first(row)));
        let how = format!("share of attention of token {query} on tokens {}", passages[0].span);
        let summary = self.summary();
        let next = &summary.next_token;
        Ok(Reading {
            model: summary.model.name.clone(),
            n_tokens: self.n_tokens(),
            query,
            text: self.span_text(query..query + 1)?.into(),
            writes: (query + 1 == self.n_tokens()).then(|| (next.text.clone(), next.logprob.exp())),
            layer: row.layer,
            head: row.head,
            heads: HeadRanking::ranked(&how, heads),
            experts: self.shared_experts(query, strongest(&row.keys, passages[0].span))?,
            passages,
            keys: row.keys,
            pruned: summary.pruned,
            note: summary.length_note(),
        })
    }

    /// Returns what each head of the trace's layers looks at.
    fn rows_of(&self, query: usize) -> Result<Vec<Row>, Error> {
        let heads = |&layer: &usize| (0..self.n_heads()).map(move |head| (layer, head));
        self.layers().iter().flat_map(heads).map(|(layer, head)| self.row_of(layer, head, query)).collect()
    }

    fn row_of(&self, layer: usize, head: usize, query: usize) -> Result<Row, Error> {
        let keys = if self.summary().focus.range().contains(&query) {
            let keys = self.attention_row(layer, head, query)?;
            keys.into_iter().map(|(key, share)| ((key..key + 1).into(), f64::from(share))).collect()
        } else {
            let read = self.head(layer, head)?;
            let seen = read.blocks.visible_keys(query);
            let within = |keys: std::ops::Range<usize>| keys.start..keys.end.min(seen.end);
            let kept = read
                .row(query / read.blocks.block_size_q)
                .map(|(block, share)| (within(read.blocks.keys(block)), share));
            kept.filter(|(keys, _)| !keys.is_empty())
                .map(|(keys, share)| (keys.into(), f64::from(share)))
                .collect()
        };
        Ok(Row { layer, head, keys })
    }

    /// Returns the row with the strongest single place that is neither near nor a sink; if there is none, the
    /// row with the strongest place.
    fn clearest<'r>(&self, rows: &'r [Row], query: usize) -> Result<&'r Row, Error> {
        let near = query.saturating_sub(NEAR);
        let mut ranked: Vec<(usize, Span, f64)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let far = row.keys.iter().filter(|(keys, _)| keys.start > 0 && keys.end <= near);
            ranked.extend(far.max_by(|a, b| a.1.total_cmp(&b.1)).map(|&(keys, share)| (at, keys, share)));
        }
        ranked.sort_by(|a, b| b.2.total_cmp(&a.2));
        for (at, keys, share) in ranked {
            let sink = |sink: &super::Sink| sink.layer == rows[at].layer;
            if share > 0.0 && !self.sinks(keys)?.iter().any(sink) {
                return Ok(&rows[at]);
            }
        }
        let most = |row: &Row| row.keys.iter().map(|key| key.1).fold(0.0, f64::max);
        let best = rows.iter().reduce(|best, row| if most(row) > most(best) { row } else { best });
        best.ok_or_else(|| Error::missing("head", "of the trace", "it holds no layer"))
    }

    /// Returns the passages around the row's strongest places, and the one that ends with the query.
    fn passages(&self, row: &Row, query: usize) -> Result<Vec<Passage>, Error> {
        let end = self.passage(row, query, query, PASSAGE * 3 / 4)?;
        let mut strongest = row.keys.clone();
        strongest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut passages: Vec<Passage> = Vec::new();
        let overlap = |a: Span, b: Span| a.start < b.end && b.start < a.end;
        for (keys, _) in strongest.iter().filter(|(keys, _)| keys.start > 0) {
            if passages.len() == PASSAGES || keys.start >= end.span.start {
                continue;
            }
            let passage = self.passage(row, keys.start, end.span.start - 1, PASSAGE)?;
            let taken = passages.iter().any(|other| overlap(other.span, passage.span));
            if !taken && (passage.share >= LEAST || passages.is_empty()) {
                passages.push(passage);
            }
        }
        passages.push(end);
        Ok(passages)
    }

    /// Returns the tokens around one, up to `last`, that fill a line of so many characters: two fifths of them
    /// before it, or all if it is the last.
    fn passage(&self, row: &Row, at: usize, last: usize, room: usize) -> Result<Passage, Error> {
        let wide = |token: usize| Ok::<_, Error>(cells(self.span_text(token..token + 1)?));
        let before = if at == last { room } else { room * 2 / 5 };
        let (mut start, mut used) = (at, wide(at)?);
        while start > 0 && used + wide(start - 1)? <= before {
            start -= 1;
            used += wide(start)?;
        }
        let mut end = at + 1;
        while end <= last && used + wide(end)? <= room {
            used += wide(end)?;
            end += 1;
        }
        // The first of several tokens of a letter has its text.
        let mut tokens = Vec::new();
        for token in start..end {
            let text = &self.span_text(start..token + 1)?[self.span_text(start..token)?.len()..];
            tokens.push((text.to_string(), share(&row.keys, (token..token + 1).into())));
        }
        let span = Span { start, end };
        Ok(Passage { span, share: share(&row.keys, span), tokens })
    }
}

/// Returns the token of a passage that gets most attention, or the first one of the block that does.
fn strongest(keys: &[(Span, f64)], passage: Span) -> usize {
    let inside = keys.iter().filter(|(span, _)| passage.range().contains(&span.start));
    inside.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(passage.start, |(span, _)| span.start)
}

/// Returns the attention on some tokens; that on a block is spread evenly over its tokens.
fn share(keys: &[(Span, f64)], tokens: Span) -> f64 {
    let first = keys.partition_point(|(span, _)| span.end <= tokens.start);
    let inside = keys[first..].iter().take_while(|(span, _)| span.start < tokens.end);
    inside
        .map(|(span, share)| {
            let common = span.end.min(tokens.end) - span.start.max(tokens.start);
            share * common as f64 / span.len() as f64
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace, trace_of_words};

    fn long() -> Trace {
        trace(&Shape { n_tokens: 4096, n_layers: 2, n_heads: 4, top_k: 40, ..Default::default() })
    }

    #[test]
    fn the_clearest_head_reads_the_needle() {
        let trace = long();
        let reading = trace.reading().unwrap();
        let needle = 4096 / 8 / 10 * 8;
        assert!(
            reading.passages[0].span.range().contains(&(needle + 5)),
            "{:?} {needle}",
            reading.passages[0].span
        );
        assert_eq!(reading.passages.last().unwrap().span.end, 4096);
        let at = reading.heads.heads.iter().position(|h| (h.layer, h.head) == (reading.layer, reading.head));
        assert!(at.is_some() && reading.heads.heads.len() == 8);
        let of_row: f64 = trace.readers(reading.passages[0].span, trace.output()).unwrap().heads[0].score;
        assert!((of_row - reading.heads.heads[0].score).abs() < 1e-6, "{of_row}");
        assert!(reading.writes.is_some_and(|(_, p)| (0.0..=1.0).contains(&p)));
    }

    #[test]
    fn a_chosen_head_and_a_token_before_the_focus_are_read_by_blocks() {
        let trace = long();
        let reading = trace.reading_of(2000, Some((1, 2))).unwrap();
        assert_eq!((reading.layer, reading.head, reading.writes.is_none()), (1, 2, true));
        assert!(reading.keys.iter().any(|(keys, _)| keys.len() == 8));
        assert!(reading.keys.iter().all(|(keys, _)| keys.end <= 2001), "no key lies after the query");
        for (query, head) in [(4096, None), (usize::MAX, None), (9, Some((2, 0))), (9, Some((0, 4)))] {
            assert!(matches!(trace.reading_of(query, head), Err(Error::Missing { .. })), "{query} {head:?}");
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_said_in_every_finding() {
        let shape = Shape { n_tokens: 600, ..Default::default() };
        assert!(trace(&shape).reading().unwrap().note.is_none());
        let words: Vec<String> =
            (0..600).map(|i| if i % 10 == 9 { " end." } else { " word" }.into()).collect();
        let trace = trace_of_words(&Shape { context_length: Some(512), ..shape }, &words);
        let notes = [
            trace.reading().unwrap().note,
            trace.routes(60..69, trace.output()).unwrap().note,
            trace.thought_anchors().unwrap().notes.into_iter().find(|note| note.contains("made for")),
        ];
        assert!(
            notes.iter().all(|note| note.as_ref().is_some_and(|note| note.contains("made for 512 tokens"))),
            "{notes:?}"
        );
        let svg = trace.routes(60..69, trace.output()).unwrap().figure().svg().to_string();
        assert!(
            svg.contains("made for 512 tokens")
                && trace.reading().unwrap().figure().svg().contains("made for 512")
        );
    }

    #[test]
    fn a_prompt_beyond_a_window_is_said_in_every_finding() {
        let said = |n_tokens: usize| {
            let shape = Shape { n_tokens, n_layers: 3, window: Some(512), ..Default::default() };
            let trace = trace(&shape);
            let figures = [
                trace.reading().unwrap().figure(),
                trace.routes(60..69, trace.output()).unwrap().figure(),
                trace.overview().unwrap(),
                trace.attention_map(0, 0).unwrap().figure(),
            ];
            let texts = figures.iter().map(|figure| figure.svg().to_string()).chain([trace.to_string()]);
            texts.map(|text| text.contains("3 of 3 layers see only 512 tokens back")).collect::<Vec<_>>()
        };
        assert_eq!((said(512), said(600)), (vec![false; 5], vec![true; 5]));
    }

    #[test]
    fn short_prompts_have_one_passage() {
        for n_tokens in [1, 2, 20] {
            let reading =
                trace(&Shape { n_tokens, n_layers: 1, n_heads: 1, ..Default::default() }).reading().unwrap();
            assert_eq!(reading.passages.last().unwrap().span.end, n_tokens);
        }
    }

    #[test]
    fn attention_on_a_block_is_spread_over_its_tokens() {
        let keys = [(Span { start: 0, end: 8 }, 0.8), (Span { start: 8, end: 16 }, 0.16)];
        assert!((share(&keys, Span { start: 6, end: 10 }) - 0.24).abs() < 1e-12);
        assert_eq!(share(&keys, Span { start: 16, end: 20 }), 0.0);
    }
}
