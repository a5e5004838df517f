//! A stretch of the prompt, in tokens.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Tokens `start..end` of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The span with `n` more tokens on each side. It starts at the prompt's first token at the earliest.
    ///
    /// A span does not know the prompt's length: whatever takes it refuses an end past the prompt.
    pub fn widened(&self, n: usize) -> Span {
        Span { start: self.start.saturating_sub(n), end: self.end.saturating_add(n) }
    }

    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Returns the tokens whose outputs predict these: each token is predicted by the one before it.
    pub fn predictors(&self) -> Span {
        Span { start: self.start.saturating_sub(1), end: self.end.saturating_sub(1) }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Span { start: range.start, end: range.end.max(range.start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_widened_span_starts_in_the_prompt() {
        let span = Span { start: 3, end: 5 };
        assert_eq!((span.widened(0), span.widened(2)), (span, Span { start: 1, end: 7 }));
        assert_eq!(span.widened(usize::MAX), Span { start: 0, end: usize::MAX });
    }
}
