//! A text cut into sentences by the rule of Bogdan et al. 2025, and the tokens of each.

use std::ops::Range;

use super::Span;

/// The least distance, in sentences, from which attention counts for a recorded vertical score.
pub const MIN_DISTANCE: usize = 4;

/// Pieces with fewer characters join the next one.
const SHORTEST: usize = 10;

/// Returns the bytes of each sentence of a text, in order, without the white space around it.
///
/// It cuts after `.`, `?` and `!` where white space follows, after their full-width forms, and at blank
/// lines. Pieces under ten characters join the next one, the last of a text the one before it.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for end in cuts(text).chain([text.len()]) {
        let piece = trimmed(text, start..end);
        if text[piece.clone()].chars().count() >= SHORTEST {
            found.push(piece);
            start = end;
        }
    }
    let rest = trimmed(text, start..text.len());
    match found.last_mut() {
        Some(last) if !rest.is_empty() => last.end = rest.end,
        None if !rest.is_empty() => found.push(rest),
        _ => {}
    }
    found
}

/// Returns the bytes after which a sentence may begin.
fn cuts(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.char_indices().filter_map(|(at, c)| {
        let end = at + c.len_utf8();
        let next = text[end..].chars().next();
        let ends = match c {
            '.' | '?' | '!' => next.is_some_and(char::is_whitespace),
            '。' | '？' | '！' => true,
            '\n' => next == Some('\n'),
            _ => false,
        };
        ends.then_some(end)
    })
}

/// Returns a range without the white space at its ends.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let start = range.start + piece.len() - piece.trim_start().len();
    start..start + piece.trim().len()
}

/// Returns the tokens of each sentence of a text: stretches that follow each other and make up the whole
/// prompt.
///
/// `offsets` are the bytes of each token. A token belongs to the sentence in which it begins, white space
/// before a sentence to that sentence; a sentence in which no token begins is part of its neighbour. A text
/// without sentences is one stretch.
pub fn token_sentences(text: &str, offsets: &[(usize, usize)]) -> Vec<Span> {
    let ends: Vec<usize> = sentences(text).iter().map(|s| s.end).collect();
    let mut spans: Vec<Span> = Vec::new();
    let (mut sentence, mut token) = (0, 0);
    while token < offsets.len() {
        let start = token;
        let end = ends.get(sentence).copied().filter(|_| sentence + 1 < ends.len()).unwrap_or(usize::MAX);
        while token < offsets.len() && offsets[token].0 < end {
            token += 1;
        }
        if token > start {
            spans.push(Span { start, end: token });
        }
        sentence += 1;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn marks_cut_only_before_white_space() {
        assert_eq!(
            cut("It costs 3.50 euros. Is that much? No way at all!"),
            ["It costs 3.50 euros.", "Is that much?", "No way at all!"]
        );
        assert_eq!(
            cut("A first line\n\nAnd another one\nthat goes on"),
            ["A first line", "And another one\nthat goes on"]
        );
        assert_eq!(
            cut("今日は天気がとてもいいです。明日は雨が降るでしょうか？"),
            ["今日は天気がとてもいいです。", "明日は雨が降るでしょうか？"]
        );
    }

    #[test]
    fn short_pieces_join_the_next_and_the_last_the_one_before() {
        assert_eq!(cut("Okay. Let me see. It is so.  Yes."), ["Okay. Let me see.", "It is so.  Yes."]);
        assert_eq!((cut("Yes."), cut(" \n "), cut("")), (vec!["Yes."], vec![], vec![]));
    }

    #[test]
    fn every_token_belongs_to_one_sentence() {
        let text = "First sentence here. Second one here.\n\nThird and last.";
        // " First", " sentence here", ".", " Second one here", ".\n\nThird" as one token, " and last.", and
        // an end of text.
        let offsets = [(0, 5), (5, 19), (19, 20), (20, 36), (36, 44), (44, 54), (54, 54)];
        let spans = token_sentences(text, &offsets);
        assert_eq!(spans, [Span { start: 0, end: 3 }, Span { start: 3, end: 5 }, Span { start: 5, end: 7 }]);
        // One token over three sentences: the ones without a token of their own vanish.
        assert_eq!(token_sentences(text, &[(0, 54)]), [Span { start: 0, end: 1 }]);
        assert_eq!(token_sentences("", &[(0, 0)]), [Span { start: 0, end: 1 }]);
        assert!(token_sentences(text, &[]).is_empty());
    }

    #[test]
    fn a_long_text_is_cut_in_linear_time() {
        let text = "A sentence of some words. ".repeat(100_000);
        assert_eq!(sentences(&text).len(), 100_000);
    }
}
