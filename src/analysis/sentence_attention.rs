//! How much the sentences of a prompt attend to each other in one head.

use crate::{
    error::Error,
    trace::{Span, Trace},
};

/// Attention of sentences on sentences in one head; rows are queries.
///
/// The mean over (tokens of sentence i) × (tokens of sentence j) of the probabilities on kept keys is `A[i,
/// j]` of Bogdan et al. 2025; the peak is the largest share that one token of sentence i gives to the whole
/// of sentence j.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceAttention {
    n_sentences: usize,
    /// For each sentence whose tokens were recorded key by key: the sentence, and the sentences it attends
    /// to, ascending.
    rows: Vec<(usize, Vec<On>)>,
}

/// Attention of a sentence on sentence `j`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct On {
    j: usize,
    mean: f32,
    peak: f32,
}

impl Trace {
    /// Returns how the sentences in the trace's focus attend to the sentences before them, in one head.
    ///
    /// `sentences` are stretches of tokens in the prompt's order, as [`Trace::sentences`] returns them or the
    /// caller's own; tokens outside them are left out.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer, head or sentence out of range, or sentences out of order;
    /// [`Error::Trace`].
    pub fn sentence_attention(
        &self,
        layer: usize,
        head: usize,
        sentences: &[Span],
    ) -> Result<SentenceAttention, Error> {
        self.sentence_attention_without(layer, head, sentences, &[])
    }

    /// Returns the same with nothing on some keys, such as sinks.
    pub(super) fn sentence_attention_without(
        &self,
        layer: usize,
        head: usize,
        sentences: &[Span],
        keys: &[usize],
    ) -> Result<SentenceAttention, Error> {
        check(sentences, self.n_tokens())?;
        let focus = self.summary().focus;
        let mut of_token = of_tokens(sentences, self.n_tokens());
        keys.iter().for_each(|&key| of_token[key] = None);
        let mut rows = Vec::new();
        for (i, sentence) in sentences.iter().enumerate() {
            if focus.start <= sentence.start && sentence.end <= focus.end {
                let mut on: Vec<On> = (0..=i).map(|j| On { j, ..On::default() }).collect();
                for token in sentence.range() {
                    let mut shares = vec![0.0; i + 1];
                    for (key, p) in self.attention_row(layer, head, token)? {
                        if let Some(j) = of_token[key] {
                            shares[j as usize] += p;
                        }
                    }
                    for (on, share) in on.iter_mut().zip(shares) {
                        on.mean += share / (sentence.len() * sentences[on.j].len()) as f32;
                        on.peak = on.peak.max(share);
                    }
                }
                on.retain(|on| on.peak > 0.0);
                rows.push((i, on));
            }
        }
        Ok(SentenceAttention { n_sentences: sentences.len(), rows })
    }
}

impl SentenceAttention {
    /// Returns the mean attention of sentence `i` on sentence `j`; 0 where nothing was kept, `None` where `i`
    /// was not recorded.
    pub fn mean(&self, i: usize, j: usize) -> Option<f32> {
        self.on(i, j).map(|on| on.mean)
    }

    /// Returns the largest share that one token of sentence `i` gives to sentence `j`; 0 where nothing was
    /// kept, `None` where `i` was not recorded.
    pub fn peak(&self, i: usize, j: usize) -> Option<f32> {
        self.on(i, j).map(|on| on.peak)
    }

    pub fn n_sentences(&self) -> usize {
        self.n_sentences
    }

    /// Returns the number of recorded sentences.
    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    fn on(&self, i: usize, j: usize) -> Option<On> {
        let (_, row) = &self.rows[self.rows.binary_search_by_key(&i, |row| row.0).ok()?];
        Some(row.binary_search_by_key(&j, |on| on.j).map_or(On::default(), |at| row[at]))
    }

    /// Returns the vertical scores: for each sentence the mean attention it gets from the recorded sentences
    /// at least `min_distance` after it; `None` where there is no such sentence. `[n_sentences]`
    pub fn vertical(&self, min_distance: usize) -> Vec<Option<f64>> {
        let mut sums = vec![0.0; self.n_sentences];
        for (i, row) in &self.rows {
            for on in row.iter().filter(|on| on.j + min_distance <= *i) {
                sums[on.j] += f64::from(on.mean);
            }
        }
        let after = |j: usize| self.rows.len() - self.rows.partition_point(|(i, _)| *i < j + min_distance);
        sums.iter().enumerate().map(|(j, sum)| (after(j) > 0).then(|| sum / after(j) as f64)).collect()
    }

    /// Returns the same with the means of each row replaced by the ranks of its numbers over its length: a
    /// sentence deep in the text spreads its attention over more sentences, and ranks make it count as much.
    pub fn ranked(&self) -> Self {
        let rows = self.rows.iter().map(|(i, row)| (*i, ranks(row, i + 1))).collect();
        SentenceAttention { n_sentences: self.n_sentences, rows }
    }
}

/// Returns the ranks from 0 to 1 of a row of `len` numbers; numbers left out are 0, and equal numbers get the
/// mean of their ranks.
fn ranks(row: &[On], len: usize) -> Vec<On> {
    let mut all: Vec<On> = (0..len).map(|j| On { j, ..On::default() }).collect();
    row.iter().for_each(|on| all[on.j] = *on);
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_by(|&a, &b| f32::total_cmp(&all[a].mean, &all[b].mean));
    let (mut ranked, mut before) = (all.clone(), 0);
    for ties in order.chunk_by(|&a, &b| all[a].mean == all[b].mean) {
        let rank = (before as f32 + (ties.len() + 1) as f32 / 2.0) / len as f32;
        ties.iter().for_each(|&j| ranked[j].mean = rank);
        before += ties.len();
    }
    ranked
}

/// Returns the sentence of each token.
fn of_tokens(sentences: &[Span], n_tokens: usize) -> Vec<Option<u32>> {
    let mut of = vec![None; n_tokens];
    for (i, sentence) in sentences.iter().enumerate() {
        of[sentence.range()].fill(Some(i as u32));
    }
    of
}

/// Checks that sentences hold tokens, follow each other and end in the prompt.
pub(super) fn check(sentences: &[Span], n_tokens: usize) -> Result<(), Error> {
    let mut free = 0;
    for sentence in sentences {
        if sentence.is_empty() || sentence.start < free || sentence.end > n_tokens {
            return Err(Error::missing(
                "sentence",
                format!("{}..{}", sentence.start, sentence.end),
                format!(
                    "sentences hold tokens, follow each other, and end within the prompt's {n_tokens} tokens"
                ),
            ));
        }
        free = sentence.end;
    }
    Ok(())
}
