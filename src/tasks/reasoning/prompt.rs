//! A word problem as a prompt: its facts scattered over prose, then the question and the chain of thought.

use std::ops::Range;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::WordProblem;
use crate::{
    error::Error,
    tasks::{
        draft::{Draft, Insert, Role},
        fit::{CountTokens, Elastic, fit},
        haystack::{Haystack, Source},
    },
    trace::SentenceKind,
};

/// A word problem as a prompt: facts among prose, question, chain of thought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReasoningPrompt {
    pub text: String,
    /// Bytes of `text` that hold each fact, in order.
    pub facts: Vec<Range<usize>>,
    pub question: Range<usize>,
    /// Bytes of `text` that hold each sentence of the problem's chain, in order.
    pub chain: Vec<Range<usize>>,
    /// The text that continues the prompt: "\nAnswer: The answer is 42."
    pub answer: String,
    /// The number of tokens that `count_tokens` counted.
    pub n_tokens: usize,
}

impl WordProblem {
    /// Writes the problem as a prompt: its facts, in order, at random places of a prose haystack, then the
    /// question and the chain. It has at most `n_tokens` tokens, and is shorter by at most 1 %, 64 tokens or
    /// one sentence.
    ///
    /// # Errors
    /// [`Error::Prompt`] when facts, question and chain alone are longer, and the errors of `count_tokens`.
    pub fn prompt(
        &self,
        n_tokens: usize,
        count_tokens: &mut CountTokens<'_>,
    ) -> Result<ReasoningPrompt, Error> {
        let fitted = fit(&mut Scattered::new(self), n_tokens, count_tokens)?;
        Ok(ReasoningPrompt {
            facts: fitted.draft.ranges(Role::Needle),
            question: fitted.draft.ranges(Role::Question).swap_remove(0),
            chain: fitted.draft.ranges(Role::Thought),
            answer: format!("\nAnswer:{}", self.answer),
            text: fitted.draft.text,
            n_tokens: fitted.n_tokens,
        })
    }
}

impl ReasoningPrompt {
    /// Bytes of `text` that hold the whole chain.
    pub fn thoughts(&self) -> Range<usize> {
        self.chain.first().map_or(0, |sentence| sentence.start)
            ..self.chain.last().map_or(0, |sentence| sentence.end)
    }
}

struct Scattered<'a> {
    problem: &'a WordProblem,
    haystack: Haystack,
    facts: Vec<Insert>,
}

impl<'a> Scattered<'a> {
    fn new(problem: &'a WordProblem) -> Self {
        // A stream other than the one that the problem was drawn from.
        let mut rng = Rng::with_seed(!problem.seed);
        let haystack = Haystack::new(Source::Prose(rng.fork()));
        let mut depths: Vec<f64> =
            problem.facts.iter().map(|_| f64::from(rng.u32(..)) / f64::from(u32::MAX)).collect();
        depths.sort_by(f64::total_cmp);
        let insert = |(text, depth): (&String, f64)| Insert { depth, text: text.clone(), role: Role::Needle };
        let facts = problem.facts.iter().zip(depths).map(insert).collect();
        Scattered { problem, haystack, facts }
    }
}

impl Elastic for Scattered<'_> {
    fn draft(&mut self, n_units: usize) -> Draft {
        let mut draft = Draft::default();
        draft.scatter(self.haystack.take(n_units), Role::Filling, &self.facts);
        draft.push("\nQuestion:", Role::Filling);
        draft.push(&self.problem.question, Role::Question);
        draft.push("\nThink:", Role::Filling);
        self.problem.chain.iter().for_each(|sentence| draft.push(&sentence.text, Role::Thought));
        draft
    }
}

impl WordProblem {
    /// The bytes and kinds of the chain's sentences in a prompt made from this problem, as
    /// [`Trace::sentences_at`](crate::Trace::sentences_at) takes them.
    pub fn chain_pieces(&self, prompt: &ReasoningPrompt) -> Vec<(Range<usize>, SentenceKind)> {
        prompt.chain.iter().cloned().zip(self.chain.iter().map(|sentence| sentence.kind)).collect()
    }
}
