//! Sentences with their kinds: a task's own, a user's, or assigned by simple rules.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    trace::{SentenceKind, Span, Trace, is_divider, published_sentences},
};

/// A sentence of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    pub span: Span,
    pub text: String,
    /// Its role in a chain of thought; a caller who knows better may replace it.
    pub kind: SentenceKind,
}

impl Trace {
    /// Returns the prompt's sentences, with kinds by [`SentenceKind::of`]; what stands before the chain of
    /// thought, if there is one, sets up the problem. Special tokens between turns are no sentences.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn labelled_sentences(&self) -> Result<Vec<Sentence>, Error> {
        let chain = self.chain()?.map_or(0, |chain| chain.start);
        let mut sentences = Vec::new();
        for span in self.sentences()? {
            let text = self.span_text(span)?.trim().to_string();
            if !is_divider(&text) {
                let kind =
                    if span.end <= chain { SentenceKind::ProblemSetup } else { SentenceKind::of(&text) };
                sentences.push(Sentence { span, text, kind });
            }
        }
        Ok(sentences)
    }

    /// Returns the sentences of the whole prompt by the published rule
    /// ([`published_sentences`]). A token belongs to the sentence in which it
    /// begins; a sentence in which none begins is left out.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn published_sentences(&self) -> Result<Vec<Sentence>, Error> {
        let (offsets, text) = (self.offsets()?, self.text());
        let (mut start, mut sentences) = (0, Vec::new());
        for bytes in published_sentences(text) {
            let n = offsets[start..].iter().take_while(|offset| offset.0 < bytes.end).count();
            let text = text[bytes].to_string();
            let sentence =
                Sentence { span: Span { start, end: start + n }, kind: SentenceKind::of(&text), text };
            sentences.extend((n > 0).then_some(sentence));
            start += n;
        }
        Ok(sentences)
    }

    /// Returns the caller's own sentences: bytes of the prompt's text, in order, each with its kind.
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

/// Returns the tokens of each sentence.
pub(super) fn spans(sentences: &[Sentence]) -> Vec<Span> {
    sentences.iter().map(|sentence| sentence.span).collect()
}
