//! How much the sentences of a prompt attend to each other in one head.

use crate::{
    error::Error,
    trace::{Span, Trace},
};

/// One head's mean attention of sentences on sentences, `A[i, j]` of Bogdan et al. 2025; rows are queries.
///
/// The mean over (tokens of sentence i) × (tokens of sentence j) of the probabilities on kept keys.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceAttention {
    n_sentences: usize,
    /// Of each sentence whose tokens were recorded key by key: the sentence, and what it attends to, ascending.
    rows: Vec<(usize, Vec<(usize, f32)>)>,
}

impl Trace {
    /// How the sentences that lie in the trace's focus attend to the sentences before them, in one head.
    ///
    /// `sentences` are stretches of tokens in the prompt's order, as [`Trace::sentences`] returns them or of one's own;
    /// tokens in none of them are left out.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer, head or sentence out of range, or sentences out of order; [`Error::Trace`].
    pub fn sentence_attention(&self, layer: usize, head: usize, sentences: &[Span]) -> Result<SentenceAttention, Error> {
        check(sentences, self.n_tokens())?;
        let focus = self.summary().focus;
        let of_token = of_tokens(sentences, self.n_tokens());
        let mut rows = Vec::new();
        for (i, sentence) in sentences.iter().enumerate() {
            if focus.start <= sentence.start && sentence.end <= focus.end {
                let mut on = vec![0.0f32; i + 1];
                for token in sentence.range() {
                    for (key, p) in self.attention_row(layer, head, token)? {
                        if let Some(j) = of_token[key] {
                            on[j as usize] += p;
                        }
                    }
                }
                let mean = |(j, sum): (usize, f32)| (j, sum / (sentence.len() * sentences[j].len()) as f32);
                rows.push((i, on.into_iter().enumerate().filter(|(_, sum)| *sum > 0.0).map(mean).collect()));
            }
        }
        Ok(SentenceAttention { n_sentences: sentences.len(), rows })
    }
}

impl SentenceAttention {
    /// Mean attention of sentence `i` on sentence `j`; 0 where nothing was kept, none where `i` was not recorded.
    pub fn get(&self, i: usize, j: usize) -> Option<f32> {
        let (_, row) = &self.rows[self.rows.binary_search_by_key(&i, |row| row.0).ok()?];
        Some(row.binary_search_by_key(&j, |on| on.0).map_or(0.0, |at| row[at].1))
    }

    /// The sentences that were recorded, each with what it attends to, ascending.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[(usize, f32)])> {
        self.rows.iter().map(|(i, row)| (*i, row.as_slice()))
    }

    /// Vertical scores: for each sentence the mean attention it gets from the recorded sentences at least `min_distance`
    /// after it; none where there is no such sentence. `[n_sentences]`
    pub fn vertical(&self, min_distance: usize) -> Vec<Option<f64>> {
        let mut sums = vec![0.0; self.n_sentences];
        for (i, row) in &self.rows {
            for (j, mean) in row.iter().filter(|(j, _)| j + min_distance <= *i) {
                sums[*j] += f64::from(*mean);
            }
        }
        let after = |j: usize| self.rows.len() - self.rows.partition_point(|(i, _)| *i < j + min_distance);
        sums.iter().enumerate().map(|(j, sum)| (after(j) > 0).then(|| sum / after(j) as f64)).collect()
    }

    /// The same with each row replaced by the ranks of its numbers over its length: what a sentence deep in the text attends
    /// to less, because there is more of it, counts as much.
    pub fn ranked(&self) -> Self {
        let rows = self.rows.iter().map(|(i, row)| (*i, ranks(row, i + 1))).collect();
        SentenceAttention { n_sentences: self.n_sentences, rows }
    }
}

/// Ranks from 0 to 1 of a row of `len` numbers, those that are left out being 0; equal numbers get the mean of their ranks.
fn ranks(row: &[(usize, f32)], len: usize) -> Vec<(usize, f32)> {
    let mut all = vec![0.0; len];
    row.iter().for_each(|&(j, mean)| all[j] = mean);
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_by(|&a, &b| f32::total_cmp(&all[a], &all[b]));
    let mut ranked = vec![(0, 0.0); len];
    let mut before = 0;
    for ties in order.chunk_by(|&a, &b| all[a] == all[b]) {
        let rank = (before as f32 + (ties.len() + 1) as f32 / 2.0) / len as f32;
        ties.iter().for_each(|&j| ranked[j] = (j, rank));
        before += ties.len();
    }
    ranked
}

/// The sentence of each token.
fn of_tokens(sentences: &[Span], n_tokens: usize) -> Vec<Option<u32>> {
    let mut of = vec![None; n_tokens];
    for (i, sentence) in sentences.iter().enumerate() {
        of[sentence.range()].fill(Some(i as u32));
    }
    of
}

/// Whether sentences hold tokens, follow each other and end in the prompt.
pub(super) fn check(sentences: &[Span], n_tokens: usize) -> Result<(), Error> {
    let mut free = 0;
    for sentence in sentences {
        if sentence.is_empty() || sentence.start < free || sentence.end > n_tokens {
            return Err(Error::Missing {
                what: "sentence".into(),
                index: format!("{}..{}", sentence.start, sentence.end),
                available: format!("sentences hold tokens, follow each other, and end within the prompt's {n_tokens} tokens"),
            });
        }
        free = sentence.end;
    }
    Ok(())
}
