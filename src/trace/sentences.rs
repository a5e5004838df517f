//! A text cut into sentences, by our rule or as Bogdan et al. 2025 do, and the tokens of each.

use std::ops::Range;

use super::{
    Span, lines, marks,
    turns::{chain, dividers},
};
use crate::words::letters::cells;

/// The least distance, in sentences, from which attention counts for a recorded vertical score.
pub const MIN_DISTANCE: usize = 4;

/// Shorter pieces join the next one.
const SHORTEST: usize = 10;

/// Returns the bytes of each sentence of a text, in order, without the white space around it.
///
/// It cuts after `.`, `?` and `!` where white space follows, and at blank lines, as the published rule does
/// ([`published_sentences`]). Beyond that it knows the stops of other scripts, takes closing quotes and brackets
/// along, and does not cut after abbreviations, initials and the number of an item, nor within code and
/// formulas that stand by themselves. It cuts where an item of a list, a step, a heading or a code block begins;
/// after headings and code blocks; and at special tokens such as `<|im_end|>` or `<think>`, which with the name
/// of the role after them are no sentences. Pieces under ten characters join the next one, the last before a
/// special token the one before it; a letter of East Asia, which says more, counts as two.
///
/// The segmentation of UAX 29 is not used: it ends a sentence at every line end and after most abbreviations.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    pieces(text).into_iter().filter(|piece| piece.is_sentence).map(|piece| piece.bytes).collect()
}

/// A sentence, or the special tokens between two turns.
struct Piece {
    bytes: Range<usize>,
    is_sentence: bool,
}

/// Returns the pieces of a text, in order; only white space lies between them.
fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for divider in dividers(text) {
        pieces.extend(sentences_in(text, start..divider.start));
        start = divider.end;
        pieces.push(Piece { bytes: divider, is_sentence: false });
    }
    pieces.extend(sentences_in(text, start..text.len()));
    pieces
}

/// Returns the sentences between two special tokens.
fn sentences_in(text: &str, section: Range<usize>) -> Vec<Piece> {
    let cuts = cuts(&text[section.clone()]).into_iter().map(|at| section.start + at);
    joined(text, section.clone(), cuts, cells)
        .into_iter()
        .map(|bytes| Piece { bytes, is_sentence: true })
        .collect()
}

/// Cuts a section, and joins pieces that are too short with the next, the last one with the one before.
fn joined(
    text: &str,
    section: Range<usize>,
    cuts: impl Iterator<Item = usize>,
    length: impl Fn(&str) -> usize,
) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut start = section.start;
    for end in cuts.chain([section.end]) {
        let piece = trimmed(text, start..end);
        if length(&text[piece.clone()]) >= SHORTEST {
            found.push(piece);
            start = end;
        }
    }
    let rest = trimmed(text, start..section.end);
    match found.last_mut() {
        Some(last) if !rest.is_empty() => last.end = rest.end,
        None if !rest.is_empty() => found.push(rest),
        _ => {}
    }
    found
}

/// Returns the bytes after which a sentence may begin, ascending.
fn cuts(text: &str) -> Vec<usize> {
    let verbatim = lines::verbatim(text);
    let inside = |at: &usize| verbatim.iter().any(|block| block.start < *at && *at < block.end);
    let mut cuts: Vec<usize> =
        marks::cuts(text).into_iter().chain(blank_lines(text)).filter(|at| !inside(at)).collect();
    cuts.extend(lines::cuts(text));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Returns the bytes after the line ends that a blank line follows.
fn blank_lines(text: &str) -> impl Iterator<Item = usize> {
    let follows = |at: &usize| text[*at..].trim_start_matches([' ', '\t', '\r']).starts_with('\n');
    text.match_indices('\n').map(|(at, _)| at + 1).filter(follows)
}

/// Returns the bytes of each sentence of a text by the rule that Bogdan et al. 2025 published: a sentence ends
/// after `.`, `?` or `!` before white space, and at a blank line; one of fewer than ten characters joins the
/// next. Abbreviations, closing quotes, lists, code and special tokens are not known to it.
pub fn published_sentences(text: &str) -> Vec<Range<usize>> {
    let ends_paragraph = |rest: &str| rest.starts_with("\n\n") || rest.starts_with("\r\n\r\n");
    let is_end = |(at, mark): (usize, char)| {
        let rest = &text[at + mark.len_utf8()..];
        let ends = matches!(mark, '.' | '?' | '!') && rest.starts_with(char::is_whitespace);
        (ends || ends_paragraph(&text[at..])).then_some(at + mark.len_utf8())
    };
    let cuts = text.char_indices().filter_map(is_end);
    joined(text, 0..text.len(), cuts, |piece| piece.chars().count())
}

/// Returns a range without the white space at its ends.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let start = range.start + piece.len() - piece.trim_start().len();
    start..start + piece.trim().len()
}

/// Returns the tokens of each sentence of a text, and of the special tokens between turns: stretches that
/// follow each other and make up the whole prompt.
///
/// `offsets` are the bytes of each token. A token belongs to the stretch in which it begins, white space
/// before a sentence to that sentence; a sentence in which no token begins is part of its neighbour. A text
/// without sentences is one stretch.
pub fn token_sentences(text: &str, offsets: &[(usize, usize)]) -> Vec<Span> {
    stretches(text, offsets).into_iter().map(|(span, _)| span).collect()
}

/// Returns the same stretches, each with whether its vertical score is recorded: the score of a sentence up to
/// the end of the chain of thought, or of the prompt where there is none.
pub(crate) fn recorded_sentences(text: &str, offsets: &[(usize, usize)]) -> Vec<(Span, bool)> {
    let end = chain(text).map_or(usize::MAX, |chain| chain.end);
    let mut stretches = stretches(text, offsets);
    stretches.iter_mut().for_each(|(span, counts)| *counts &= offsets[span.start].0 < end);
    // A prompt of special tokens alone.
    if stretches.iter().all(|(_, counts)| !counts) {
        stretches.iter_mut().for_each(|(_, counts)| *counts = true);
    }
    stretches
}

/// Returns the vertical scores of all sentences, NaN where none was recorded; as they are if they are not those
/// of the sentences that count. `[n_heads, n_sentences]`
pub(super) fn spread(recorded: &[f32], counts: &[bool], n_heads: usize) -> Vec<f32> {
    if recorded.len() != n_heads * counts.iter().filter(|counts| **counts).count() {
        return recorded.to_vec();
    }
    let mut recorded = recorded.iter();
    let all = (0..n_heads).flat_map(|_| counts);
    all.map(|counts| counts.then(|| recorded.next().copied()).flatten().unwrap_or(f32::NAN)).collect()
}

/// Returns the tokens of each piece, and whether it is a sentence.
fn stretches(text: &str, offsets: &[(usize, usize)]) -> Vec<(Span, bool)> {
    let mut stretches = Vec::new();
    let (mut start, mut pieces) = (0, pieces(text).into_iter().peekable());
    while start < offsets.len() {
        let piece = pieces.next();
        let bytes =
            piece.as_ref().filter(|_| pieces.peek().is_some()).map_or(usize::MAX, |piece| piece.bytes.end);
        let n = offsets[start..].iter().take_while(|offset| offset.0 < bytes).count();
        if n > 0 {
            let span = Span { start, end: start + n };
            stretches.push((span, piece.is_none_or(|piece| piece.is_sentence)));
        }
        start += n;
    }
    stretches
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
        assert_eq!(cut("他回家了，真的。当然。好。"), ["他回家了，真的。", "当然。好。"]);
        assert_eq!(cut("我去公园吧。他回家了。好。"), ["我去公园吧。", "他回家了。好。"]);
    }

    /// The published rule knows `\r\n\r\n`, too.
    #[test]
    fn a_blank_line_may_hold_white_space() {
        for blank in ["\n\n", "\r\n\r\n", "\n \t\n", "\n\n\n"] {
            assert_eq!(cut(&format!("The first line{blank}And another")), ["The first line", "And another"]);
        }
    }

    #[test]
    fn turns_and_lists_end_sentences() {
        let text = "<|im_start|>user\nHow many are there?<|im_end|>\n<|im_start|>assistant\nI see two rows\n\
                    1. Count them\n2. Add them up.\nSix.<|im_end|>";
        assert_eq!(
            cut(text),
            ["How many are there?", "I see two rows", "1. Count them", "2. Add them up.\nSix."]
        );
        assert_eq!(cut("<think>\nYes.\n</think>\nIt is so."), ["Yes.", "It is so."]);
        assert_eq!(
            cut("We run it.\n```\nprint(1)\n```\nIt prints one"),
            ["We run it.", "```\nprint(1)\n```", "It prints one"]
        );
    }

    #[test]
    fn code_and_formulas_are_whole() {
        let code = "We run it.\n```\nx = f(a. b) # so. it is\n\nprint(x)\n```\nIt prints one";
        assert_eq!(
            cut(code),
            ["We run it.", "```\nx = f(a. b) # so. it is\n\nprint(x)\n```", "It prints one"]
        );
        let formula = "So we get\n\\[ x = 3 . \\quad y = 4. \\text{ so. } \\]\nand we go on from there";
        assert_eq!(cut(formula).len(), 2, "{:?}", cut(formula));
    }

    #[test]
    fn the_published_rule_is_kept_as_it_was_published() {
        let cut = |text: &'static str| {
            published_sentences(text).into_iter().map(|range| &text[range]).collect::<Vec<_>>()
        };
        assert_eq!(
            cut("Mr. Smith went home. He said \"Stop.\" Then he left.\n\nA new line\r\n\r\nAnd one more"),
            ["Mr. Smith went home.", "He said \"Stop.\" Then he left.", "A new line", "And one more"]
        );
        assert_eq!(
            cut("The list is\n1. Count them all\n2. Add"),
            ["The list is\n1.", "Count them all\n2. Add"]
        );
    }

    #[test]
    fn special_tokens_are_stretches_of_their_own() {
        let parts = [
            "<|im_start|>",
            "user",
            "\n",
            "How many",
            " are there?",
            "<|im_end|>",
            "\n",
            "<|im_start|>",
            "assistant",
            "\n",
            "I count them.",
            " They are six.",
            "<|im_end|>",
            "\n",
        ];
        let ends: Vec<usize> = parts
            .iter()
            .scan(0, |end, part| {
                *end += part.len();
                Some(*end)
            })
            .collect();
        let offsets: Vec<(usize, usize)> =
            ends.iter().zip(parts).map(|(&end, part)| (end - part.len(), end)).collect();
        let found = recorded_sentences(&parts.concat(), &offsets);
        let expected =
            [(0..3, false), (3..5, true), (5..10, false), (10..11, true), (11..12, true), (12..14, false)];
        assert_eq!(found, expected.map(|(range, counts)| (Span::from(range), counts)));
        // What follows a thought is a sentence, but none whose attention is counted.
        let thought = "It is so.</think>It is.";
        let offsets = [(0, 9), (9, 17), (17, 23)];
        let counted: Vec<bool> =
            recorded_sentences(thought, &offsets).into_iter().map(|(_, counts)| counts).collect();
        assert_eq!(counted, [true, false, false]);
    }

    #[test]
    fn scores_are_spread_over_the_sentences_that_count() {
        let spread = |recorded: &[f32], counts: &[bool]| format!("{:?}", spread(recorded, counts, 2));
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0], &[true, false, true]), "[1.0, NaN, 2.0, 3.0, NaN, 4.0]");
        assert_eq!(spread(&[1.0, 2.0], &[true, true]), "[1.0, 2.0]");
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
