//! The place of a piece of text in a trace's tokens.

use std::ops::Range;

use super::{Span, Trace, sentences::token_sentences};
use crate::error::Error;

/// Characters of the nearest match that an error shows.
const SHOWN: usize = 40;

/// The tokens that cover a piece of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covering {
    pub span: Span,
    /// Bytes that the first token holds before the piece.
    pub before: usize,
    /// Bytes that the last token holds after the piece.
    pub after: usize,
}

impl Covering {
    /// Returns whether the piece begins and ends where tokens do; if not, it falls inside a token.
    pub fn is_whole(&self) -> bool {
        self.before == 0 && self.after == 0
    }
}

impl Trace {
    /// Returns the text of some tokens.
    ///
    /// # Errors
    /// [`Error::Missing`] when the span ends past the prompt.
    pub fn span_text(&self, span: impl Into<Span>) -> Result<&str, Error> {
        let span = span.into();
        if span.is_empty() {
            return Ok("");
        }
        let span = self.checked("span", span)?;
        let start = self.tensors.u32s("offsets", 2 * span.start..2 * span.start + 1)?[0];
        let end = self.tensors.u32s("offsets", 2 * span.end - 1..2 * span.end)?[0];
        // A token may hold part of a character: widen to whole ones.
        let text = self.text();
        let start =
            (0..=text.len().min(start as usize)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let end = (end as usize..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
        Ok(&text[start.min(end)..end])
    }

    /// Returns the tokens that cover the first occurrence of a text.
    ///
    /// # Errors
    /// [`Error::Missing`] when the prompt does not contain it, with the longest beginning of it that the
    /// prompt does contain.
    pub fn find(&self, text: &str) -> Result<Span, Error> {
        self.place(text, self.text().find(text))
    }

    /// Returns the tokens that cover the last occurrence of a text.
    ///
    /// # Errors
    /// As [`Trace::find`].
    pub fn find_last(&self, text: &str) -> Result<Span, Error> {
        self.place(text, self.text().rfind(text))
    }

    /// Returns the tokens that cover a text that stands at a byte, if it does.
    fn place(&self, text: &str, at: Option<usize>) -> Result<Span, Error> {
        let missing = |why: String| Error::missing("text", format!("{text:?}"), why);
        if text.is_empty() {
            return Err(missing("an empty text is nowhere".into()));
        }
        let at = at.ok_or_else(|| missing(self.nearest(text)))?;
        match self.covering(at..at + text.len()) {
            Ok(covering) => Ok(covering.span),
            Err(_) => Err(missing("no token covers it".into())),
        }
    }

    /// Returns the tokens that cover some bytes of the prompt's text.
    ///
    /// # Errors
    /// [`Error::Missing`] for bytes outside the text, none at all, or that no token covers.
    pub fn covering(&self, bytes: Range<usize>) -> Result<Covering, Error> {
        let missing = |why: String| Error::missing("text at bytes", format!("{bytes:?}"), why);
        if bytes.is_empty() || bytes.end > self.text().len() {
            return Err(missing(format!(
                "the prompt has bytes 0..{}, and a piece at least one of them",
                self.text().len()
            )));
        }
        let offsets = self.offsets()?;
        let covers = |o: &(usize, usize)| o.0 < bytes.end && o.1 > bytes.start;
        match (offsets.iter().position(covers), offsets.iter().rposition(covers)) {
            (Some(start), Some(end)) => Ok(Covering {
                span: Span { start, end: end + 1 },
                before: bytes.start.saturating_sub(offsets[start].0),
                after: offsets[end].1.saturating_sub(bytes.end),
            }),
            _ => Err(missing("no token covers them".into())),
        }
    }

    /// Returns the tokens that cover a piece of the prompt, given as bytes of its text, such as a task's
    /// `&prompt.needles[0]`.
    ///
    /// # Errors
    /// As [`Trace::covering`].
    pub fn span(&self, bytes: &Range<usize>) -> Result<Span, Error> {
        Ok(self.covering(bytes.clone())?.span)
    }

    /// Returns the tokens of each sentence of the prompt, and of the special tokens between turns; together
    /// they are the whole prompt.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn sentences(&self) -> Result<Vec<Span>, Error> {
        let Some(n) = self.tensors.n_sentences() else {
            return Ok(token_sentences(self.text(), &self.offsets()?));
        };
        let ends = self.tensors.u32s("sentences", 0..2 * n)?;
        let spans: Vec<Span> =
            ends.as_chunks::<2>().0.iter().map(|s| Span::from(s[0] as usize..s[1] as usize)).collect();
        let follow =
            spans.windows(2).all(|pair| pair[0].end == pair[1].start) && !spans.iter().any(Span::is_empty);
        match (spans.first(), spans.last()) {
            (Some(first), Some(last)) if follow && first.start == 0 && last.end == self.n_tokens() => {
                Ok(spans)
            }
            _ => Err(self.tensors.damaged("sentences that make up the prompt", format!("{n} that do not"))),
        }
    }

    /// Returns the last token: the query whose attention produced the next one.
    pub fn output(&self) -> Span {
        Span { start: self.n_tokens() - 1, end: self.n_tokens() }
    }

    /// Returns the bytes of the text that each token covers. `[n_tokens]`
    pub(crate) fn offsets(&self) -> Result<Vec<(usize, usize)>, Error> {
        let offsets = self.tensors.u32s("offsets", 0..2 * self.n_tokens())?;
        Ok(offsets.as_chunks::<2>().0.iter().map(|&[start, end]| (start as usize, end as usize)).collect())
    }

    /// Returns the place in the prompt that agrees with the longest beginning of a text that it does not
    /// contain, in words.
    fn nearest(&self, text: &str) -> String {
        let ends: Vec<usize> = text.char_indices().map(|(i, _)| i).skip(1).collect();
        // The prompt contains a beginning if it contains a longer one.
        let n = ends.partition_point(|&end| self.text().contains(&text[..end]));
        let at = n.checked_sub(1).and_then(|last| self.text().find(&text[..ends[last]]));
        match at {
            Some(at) => {
                let place: String = self.text()[at..].chars().take(SHOWN.max(n)).collect();
                format!("the prompt does not contain it; nearest is {place:?}")
            }
            None => "the prompt does not contain it, nor its first character".into(),
        }
    }
}
