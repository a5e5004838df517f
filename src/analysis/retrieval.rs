//! Retrieval heads (Wu et al. 2024, arXiv 2404.15574): heads that copy the requested text from its place in
//! the prompt.

use serde::{Deserialize, Serialize};

use super::RankedHead;
use crate::{
    error::Error,
    trace::{Span, Trace},
};

/// How much of a needle each head copies, on average over prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalHeads {
    /// The model's name.
    pub model: String,
    pub n_prompts: usize,
    /// Share of the needle's tokens that a head copies. `[n_layers][n_heads]`
    pub scores: Vec<Vec<f64>>,
}

impl Trace {
    /// Returns how much of the needle each head copies into the answer, which ends the prompt.
    ///
    /// A head copies a token when the query before it, which produces it, attends most to a position inside
    /// the needle that holds the same token. The score is the share of the needle's tokens that are copied.
    /// The queries must be in the trace's focus: [`Tracer::trace_answer`](crate::Tracer::trace_answer) makes
    /// such a trace.
    ///
    /// # Errors
    /// [`Error::Missing`] for an empty span, one that ends past the prompt, or an answer whose queries were
    /// not recorded.
    pub fn retrieval_heads(
        &self,
        needle: impl Into<Span>,
        answer: impl Into<Span>,
    ) -> Result<RetrievalHeads, Error> {
        let (needle, answer) = (needle.into(), answer.into());
        for (what, span) in [("needle", needle), ("answer", answer)] {
            if span.is_empty() || span.end > self.n_tokens() || (what == "answer" && span.start == 0) {
                let available = format!(
                    "choose tokens of the prompt, which has {}, and of an answer after its first",
                    self.n_tokens()
                );
                return Err(Error::missing(what, format!("{}..{}", span.start, span.end), available));
            }
        }
        let tokens = self.tokens()?;
        let score = |layer, head| -> Result<f64, Error> {
            let mut copied = vec![false; needle.len()];
            for token in answer.range() {
                let most = strongest(&self.attention_row(layer, head, token - 1)?);
                if let Some(key) =
                    most.filter(|key| needle.range().contains(key) && tokens[*key] == tokens[token])
                {
                    copied[key - needle.start] = true;
                }
            }
            Ok(copied.iter().filter(|&&copied| copied).count() as f64 / needle.len() as f64)
        };
        let layer = |layer| (0..self.n_heads()).map(|head| score(layer, head)).collect();
        let scores = (0..self.n_layers()).map(layer).collect::<Result<_, _>>()?;
        Ok(RetrievalHeads { model: self.summary().model.name.clone(), n_prompts: 1, scores })
    }
}

/// Returns the key with the largest probability, the first of equals.
fn strongest(row: &[(usize, f32)]) -> Option<usize> {
    row.iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map(|&(key, _)| key)
}

impl RetrievalHeads {
    /// Returns the mean over prompts of one model.
    ///
    /// # Errors
    /// [`Error::Setting`] when `of` is empty or holds models of different sizes.
    pub fn mean(of: &[RetrievalHeads]) -> Result<Self, Error> {
        let shape = |heads: &RetrievalHeads| heads.scores.iter().map(Vec::len).collect::<Vec<_>>();
        let Some(first) = of.first().filter(|first| of.iter().all(|heads| shape(heads) == shape(first)))
        else {
            return Err(Error::setting(
                "retrieval heads",
                "those of at least one prompt, all of one model",
                format!("{} of {:?}", of.len(), of.iter().map(|heads| &heads.model).collect::<Vec<_>>()),
                "trace each prompt with the same model",
            ));
        };
        let n_prompts = of.iter().map(|heads| heads.n_prompts).sum();
        let mean = |layer: usize, head: usize| {
            of.iter().map(|heads| heads.scores[layer][head] * heads.n_prompts as f64).sum::<f64>()
                / n_prompts as f64
        };
        let row =
            |(layer, heads): (usize, &Vec<f64>)| (0..heads.len()).map(|head| mean(layer, head)).collect();
        let scores = first.scores.iter().enumerate().map(row).collect();
        Ok(RetrievalHeads { model: first.model.clone(), n_prompts, scores })
    }

    /// Returns all heads, the highest score first.
    pub fn ranking(&self) -> Vec<RankedHead> {
        let of_layer = |(layer, heads): (usize, &Vec<f64>)| {
            heads
                .iter()
                .enumerate()
                .map(move |(head, &score)| RankedHead { layer, head, score })
                .collect::<Vec<_>>()
        };
        let mut heads: Vec<RankedHead> = self.scores.iter().enumerate().flat_map(of_layer).collect();
        heads.sort_by(|a, b| b.score.total_cmp(&a.score));
        heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace};

    fn heads(scores: &[&[f64]], n_prompts: usize) -> RetrievalHeads {
        RetrievalHeads {
            model: "m".into(),
            n_prompts,
            scores: scores.iter().map(|row| row.to_vec()).collect(),
        }
    }

    #[test]
    fn means_weigh_prompts_and_rank_heads() {
        let mean = RetrievalHeads::mean(&[
            heads(&[&[1.0, 0.0], &[0.25, 0.5]], 1),
            heads(&[&[0.0, 0.0], &[0.25, 0.9]], 3),
        ]);
        let mean = mean.unwrap();
        assert_eq!((mean.n_prompts, mean.scores[0][0], mean.scores[1][0]), (4, 0.25, 0.25));
        let ranking: Vec<_> = mean.ranking().iter().map(|h| (h.layer, h.head)).collect();
        assert_eq!(ranking, [(1, 1), (0, 0), (1, 0), (0, 1)]);
        for of in [&[][..], &[heads(&[&[1.0]], 1), heads(&[&[1.0, 1.0]], 1)]] {
            assert!(matches!(RetrievalHeads::mean(of), Err(Error::Setting { .. })));
        }
    }

    #[test]
    fn spans_outside_the_prompt_or_the_focus_are_refused() {
        let t = trace(&Shape { n_tokens: 300, ..Default::default() });
        for (needle, answer) in
            [(5..5, 290..300), (0..301, 290..300), (0..5, 290..301), (0..5, 0..3), (0..5, 100..120)]
        {
            assert!(
                matches!(t.retrieval_heads(needle.clone(), answer.clone()), Err(Error::Missing { .. })),
                "{needle:?} {answer:?}"
            );
        }
        assert!(t.retrieval_heads(0..5, 269..300).is_ok());
    }
}
