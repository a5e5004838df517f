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
    /// The span with `n` more tokens on each side. It begins at the prompt's first token at the latest; a figure cuts off what
    /// reaches past the prompt's end.
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

    /// The tokens whose outputs predict these: each token is predicted by the one before it.
    pub fn predictors(&self) -> Span {
        Span { start: self.start.saturating_sub(1), end: self.end.saturating_sub(1) }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Span { start: range.start, end: range.end.max(range.start) }
    }
}
