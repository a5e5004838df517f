//! Heads ranked by a score: kurtosis, attention on a span, or a calibration on known dependencies.

use serde::{Deserialize, Serialize};

use super::{Sentence, auc::auc, sentence::spans};
use crate::{
    error::Error,
    trace::{SentenceKind, Trace},
};

/// The heads of a model, best first, and the score they are ranked by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadRanking {
    /// How they are ranked, as every figure says.
    pub how: String,
    pub heads: Vec<RankedHead>,
}

/// A head and its score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedHead {
    pub layer: usize,
    pub head: usize,
    pub score: f64,
}

impl HeadRanking {
    /// Ranks heads by their scores, `[n_layers * n_heads]`; among equal scores the lower layer and head comes
    /// first.
    pub fn new(how: &str, n_heads: usize, scores: &[f64]) -> Self {
        let place = |i: usize| (i / n_heads.max(1), i % n_heads.max(1));
        let heads = scores.iter().enumerate().map(|(i, &score)| (place(i).0, place(i).1, score));
        Self::ranked(how, heads)
    }

    /// Ranks heads, given as layer, head and score; among equal scores the first one given comes first.
    pub fn ranked(how: &str, heads: impl IntoIterator<Item = (usize, usize, f64)>) -> Self {
        let head = |(layer, head, score)| RankedHead { layer, head, score };
        let mut heads: Vec<RankedHead> = heads.into_iter().map(head).collect();
        heads.sort_by(|a, b| b.score.total_cmp(&a.score));
        HeadRanking { how: how.into(), heads }
    }

    /// Returns the mean of several prompts' rankings of one model's heads; heads missing from any of them are
    /// left out.
    pub fn mean(rankings: &[HeadRanking]) -> Option<Self> {
        let first = rankings.first()?;
        let mut heads = Vec::new();
        for head in &first.heads {
            let same = |r: &HeadRanking| {
                r.heads.iter().find(|h| (h.layer, h.head) == (head.layer, head.head)).map(|h| h.score)
            };
            let scores: Vec<f64> = rankings.iter().filter_map(same).collect();
            if scores.len() == rankings.len() {
                heads.push(RankedHead { score: scores.iter().sum::<f64>() / scores.len() as f64, ..*head });
            }
        }
        heads.sort_by(|a, b| b.score.total_cmp(&a.score));
        let how = if rankings.len() == 1 {
            first.how.clone()
        } else {
            format!("{}, mean over {} prompts", first.how, rankings.len())
        };
        Some(HeadRanking { how, heads })
    }

    /// Returns the best `n` heads, `(layer, head)`.
    pub fn best(&self, n: usize) -> Vec<(usize, usize)> {
        self.heads.iter().take(n).map(|head| (head.layer, head.head)).collect()
    }

    /// Returns the score of a head.
    pub fn score(&self, layer: usize, head: usize) -> Option<f64> {
        self.heads.iter().find(|h| (h.layer, h.head) == (layer, head)).map(|h| h.score)
    }
}

/// Collects what heads attend to where the dependencies are known, to rank heads by how well they show them.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    n_heads: usize,
    n_prompts: usize,
    /// For each head the peak attention of pairs of sentences, and whether the later one needs the earlier
    /// one.
    cases: Vec<Vec<(f64, bool)>>,
}

impl Calibration {
    /// Adds a prompt. `depends_on[i]` are the sentences that sentence `i` needs; pairs that point to a kind
    /// in `leave_out` are left out.
    ///
    /// # Errors
    /// [`Error::Missing`] when a sentence's rows were not recorded, [`Error::Setting`] for a prompt of
    /// another model or when `depends_on` does not have one entry for each sentence.
    pub fn add(
        &mut self,
        trace: &Trace,
        sentences: &[Sentence],
        depends_on: &[Vec<usize>],
        leave_out: &[SentenceKind],
    ) -> Result<(), Error> {
        let n = trace.n_layers() * trace.n_heads();
        let fits = self.cases.is_empty() || (self.cases.len() == n && self.n_heads == trace.n_heads());
        if !fits || depends_on.len() != sentences.len() {
            return Err(Error::setting(
                "calibration",
                format!("a trace of one model, and the dependencies of {} sentences", sentences.len()),
                format!("a trace of {n} heads, and the dependencies of {}", depends_on.len()),
                "calibrate each model by itself, with one list of dependencies for each sentence",
            ));
        }
        trace.check_recorded(sentences)?;
        self.n_heads = trace.n_heads();
        self.cases.resize(n, Vec::new());
        self.n_prompts += 1;
        for (at, cases) in self.cases.iter_mut().enumerate() {
            let attention =
                trace.sentence_attention(at / self.n_heads, at % self.n_heads, &spans(sentences))?;
            let counts = |j: &usize| !leave_out.contains(&sentences[*j].kind);
            for (i, needs) in depends_on.iter().enumerate() {
                let pair =
                    |j: usize| (f64::from(attention.peak(i, j).unwrap_or_default()), needs.contains(&j));
                cases.extend((0..i).filter(counts).map(pair));
            }
        }
        Ok(())
    }

    /// Returns the heads by the area under the ROC curve of their peak attention; a head that shows nothing
    /// has 0.5.
    pub fn ranking(&self) -> HeadRanking {
        let scores: Vec<f64> = self.cases.iter().map(|cases| auc(cases).unwrap_or(0.5)).collect();
        let how = format!("calibration on the dependencies of {} other prompts", self.n_prompts);
        HeadRanking::new(&how, self.n_heads, &scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_are_sorted_and_averaged() {
        let a = HeadRanking::new("kurtosis", 2, &[1.0, 3.0, 3.0, 0.0]);
        assert_eq!(a.best(3), [(0, 1), (1, 0), (0, 0)]);
        let b = HeadRanking::new("kurtosis", 2, &[8.0, 0.0, 1.0, 0.0]);
        let mean = HeadRanking::mean(&[a.clone(), b]).unwrap();
        assert_eq!((mean.best(2), mean.score(0, 0)), (vec![(0, 0), (1, 0)], Some(4.5)));
        assert_eq!(mean.how, "kurtosis, mean over 2 prompts");
        assert_eq!((HeadRanking::mean(std::slice::from_ref(&a)), HeadRanking::mean(&[])), (Some(a), None));
    }
}
