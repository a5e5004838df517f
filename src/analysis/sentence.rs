//! Sentences with their kinds: a task's own, a user's, or by simple rules.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    tasks::{ReasoningPrompt, WordProblem},
    trace::{SentenceKind, Span, Trace},
};

/// A sentence of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    pub span: Span,
    pub text: String,
    /// What it does in a chain of thought; whoever knows better may replace it.
    pub kind: SentenceKind,
}

impl Trace {
    /// The prompt's sentences, with kinds by [`SentenceKind::of`].
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn labelled_sentences(&self) -> Result<Vec<Sentence>, Error> {
        let sentence = |span: Span| {
            let text = self.span_text(span)?.trim().to_string();
            Ok(Sentence { span, kind: SentenceKind::of(&text), text })
        };
        self.sentences()?.into_iter().map(sentence).collect()
    }

    /// Sentences of one's own: bytes of the prompt's text, in order, each with its kind.
    ///
    /// # Errors
    /// [`Error::Missing`] for bytes that no token covers, or pieces that share a token.
    pub fn sentences_at(&self, pieces: &[(Range<usize>, SentenceKind)]) -> Result<Vec<Sentence>, Error> {
        let sentence = |(bytes, kind): &(Range<usize>, SentenceKind)| {
            let span = self.covering(bytes.clone())?.span;
            let text = self.text().get(bytes.clone()).unwrap_or_default().trim().to_string();
            Ok(Sentence { span, text, kind: *kind })
        };
        let sentences = pieces.iter().map(sentence).collect::<Result<Vec<_>, Error>>()?;
        super::sentence_attention::check(&spans(&sentences), self.n_tokens())?;
        Ok(sentences)
    }
}

impl WordProblem {
    /// The sentences of the chain of thought in a prompt made from this problem, as [`Trace::sentences_at`] takes them.
    pub fn chain_pieces(&self, prompt: &ReasoningPrompt) -> Vec<(Range<usize>, SentenceKind)> {
        prompt.chain.iter().cloned().zip(self.chain.iter().map(|sentence| sentence.kind)).collect()
    }
}

/// Words that give a kind away, in lower case; the first kind with one of its words in a sentence is taken.
const WORDS: [(SentenceKind, &[&str]); 7] = [
    (SentenceKind::FinalAnswerEmission, &["final answer", "the answer is", "\\boxed", "therefore"]),
    (SentenceKind::UncertaintyManagement, &["wait", "hmm", "not sure", "alternatively", "maybe", "actually"]),
    (SentenceKind::SelfChecking, &["check", "verify", "confirm", "yes,"]),
    (SentenceKind::PlanGeneration, &["plan", "let me", "let's", "i'll", "first,", "next,", "we should", "we can"]),
    (SentenceKind::ProblemSetup, &["i need to", "we need to", "the question", "asked to", "find how"]),
    (SentenceKind::ResultConsolidation, &["so,", "thus", "hence", "in total", "this means", "so we have"]),
    (SentenceKind::FactRetrieval, &["says that", "given that", "recall", "remember", "by definition", "is defined"]),
];

impl SentenceKind {
    /// A kind by simple rules: the first of a few words that give one away; else a computation if there is a digit and one of
    /// `=`, `+`, `*` or `/`; else filler. A guess that a user's own label should replace.
    pub fn of(text: &str) -> Self {
        let lower = text.to_lowercase();
        let by_word = WORDS.iter().find(|(_, words)| words.iter().any(|word| lower.contains(word)));
        let computes = lower.contains(['=', '+', '*', '/']) && lower.contains(|c: char| c.is_ascii_digit());
        match by_word {
            // "So 3 + 4 = 7" is a computation, whatever it begins with.
            Some((SentenceKind::ResultConsolidation | SentenceKind::PlanGeneration, _)) | None if computes => {
                SentenceKind::ActiveComputation
            }
            Some((kind, _)) => *kind,
            None => SentenceKind::Filler,
        }
    }
}

/// The tokens of each sentence.
pub(super) fn spans(sentences: &[Sentence]) -> Vec<Span> {
    sentences.iter().map(|sentence| sentence.span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_rule_agree_with_the_word_problems_own() {
        let (mut right, mut all) = (0, 0);
        for seed in 0..20 {
            for sentence in WordProblem::generate(10, seed).unwrap().chain {
                if sentence.kind != SentenceKind::Filler {
                    right += usize::from(SentenceKind::of(&sentence.text) == sentence.kind);
                    all += 1;
                }
            }
        }
        assert!(right * 10 >= all * 8, "{right} of {all}");
    }

    #[test]
    fn rules_are_simple() {
        for (text, kind) in [
            ("So 3 + 4 = 7.", SentenceKind::ActiveComputation),
            ("Wait, that is wrong.", SentenceKind::UncertaintyManagement),
            ("The grass is green.", SentenceKind::Filler),
            ("The final answer is 7.", SentenceKind::FinalAnswerEmission),
        ] {
            assert_eq!(SentenceKind::of(text), kind, "{text}");
        }
    }
}
