//! Splits a long text into tokens in parts, several at a time.
//!
//! A tokenizer cuts a text into words, from left to right, and no token reaches past its word. Neighbouring parts
//! overlap: where both have the same tokens for a while, and start a word in the midst of them, one goes on where the
//! other ends. A text without such a place is split as a whole.

use std::ops::Range;

use rayon::prelude::*;
use tokenizers::{Encoding, Result};

/// Bytes of a part, and those that it shares with the next.
const PART: usize = 8 << 10;
const SHARED: usize = 1 << 10;

/// Tokens before and after a joint that are the same in both parts.
const ALIKE: usize = 16;

/// The tokens of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    /// Bytes of the text; `(0, 0)` for a token that the tokenizer adds.
    pub offsets: Vec<(usize, usize)>,
    /// The word of each token, if it is of one.
    words: Vec<Option<u32>>,
}

impl Tokens {
    /// Takes the tokens of a part that starts at a byte of the text.
    fn of_part(part: &Encoding, start: usize) -> Self {
        let words = part.get_word_ids().to_vec();
        let place = |(range, word): (&(usize, usize), &Option<u32>)| match word {
            Some(_) => (range.0 + start, range.1 + start),
            None => *range,
        };
        let offsets = part.get_offsets().iter().zip(&words).map(place).collect();
        Tokens { ids: part.get_ids().to_vec(), offsets, words }
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    fn starts_word(&self, i: usize) -> bool {
        i > 0 && self.words[i].is_some() && self.words[i - 1].is_some() && self.words[i] != self.words[i - 1]
    }

    /// Returns the first places in these tokens and in those of the next part where the next one may go on.
    fn joint(&self, next: &Tokens) -> Option<(usize, usize)> {
        let of_text = |tokens: &Tokens| tokens.words.iter().position(Option::is_some).unwrap_or(tokens.len());
        let (first, first_of_next) = (of_text(self), of_text(next));
        let last = self.len().checked_sub(2 * ALIKE)?;
        let last_of_next = next.len().checked_sub(2 * ALIKE)?;
        let mut at = first;
        (first_of_next..=last_of_next).find_map(|of_next| {
            let start = next.offsets[of_next];
            at += self.offsets[at..].iter().take_while(|range| range.0 < start.0).count();
            let same = |at: usize| {
                let (own, others) = (at..at + 2 * ALIKE, of_next..of_next + 2 * ALIKE);
                self.ids[own.clone()] == next.ids[others.clone()]
                    && self.offsets[own] == next.offsets[others]
                    && self.starts_word(at + ALIKE)
                    && next.starts_word(of_next + ALIKE)
            };
            (at <= last && same(at)).then_some((at + ALIKE, of_next + ALIKE))
        })
    }

    /// Adds some of the tokens of the next part.
    fn extend(&mut self, next: &Tokens, range: Range<usize>) {
        self.ids.extend_from_slice(&next.ids[range.clone()]);
        self.offsets.extend_from_slice(&next.offsets[range.clone()]);
        self.words.extend_from_slice(&next.words[range]);
    }
}

/// Splits a text by `encode`, which is told whether to add the tokens that the model wants around it.
///
/// # Errors
/// What `encode` returns.
pub fn encode(text: &str, encode: impl Fn(&str, bool) -> Result<Encoding> + Sync) -> Result<Tokens> {
    let whole = || encode(text, true).map(|all| Tokens::of_part(&all, 0));
    let n_parts = text.len() / PART;
    if n_parts < 2 {
        return whole();
    }
    let part = |i: usize| {
        let start = text.floor_char_boundary(i * PART);
        let (is_first, is_last) = (i == 0, i + 1 == n_parts);
        let end = if is_last { text.len() } else { text.floor_char_boundary((i + 1) * PART + SHARED) };
        encode(&text[start..end], is_first || is_last).map(|tokens| Tokens::of_part(&tokens, start))
    };
    let parts = (0..n_parts).into_par_iter().map(part).collect::<Result<Vec<_>>>()?;
    joined(&parts).map_or_else(whole, Ok)
}

/// Joins parts; `None` if two have no joint.
fn joined(parts: &[Tokens]) -> Option<Tokens> {
    let (mut all, mut from) = (Tokens::default(), 0);
    for (part, next) in parts.iter().zip(&parts[1..]) {
        let (to, from_next) = part.joint(next)?;
        all.extend(part, (from <= to).then_some(from..to)?);
        from = from_next;
    }
    let last = parts.last()?;
    all.extend(last, from..last.len());
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokenizers::Tokenizer;

    use super::*;

    fn bundled() -> Tokenizer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/needle-6m/tokenizer.json");
        Tokenizer::from_file(path).unwrap()
    }

    /// Returns how often `encode` was called for a text, after a check that parts change nothing.
    fn n_calls(text: &str) -> usize {
        let (tokenizer, n_calls) = (bundled(), std::sync::atomic::AtomicUsize::new(0));
        let found = encode(text, |text, adds| {
            n_calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokenizer.encode(text, adds)
        });
        let whole = tokenizer.encode(text, true).unwrap();
        let found = found.unwrap();
        assert_eq!(found.ids, whole.get_ids());
        assert_eq!(found.offsets, whole.get_offsets());
        n_calls.into_inner()
    }

    #[test]
    fn a_text_in_parts_has_the_tokens_of_the_whole() {
        const WORDS: [&str; 12] = [
            "one",
            " three,",
            " naïve",
            " 日本語",
            "\n\n",
            "x1",
            "    ",
            "😀",
            " don't.",
            "12345678",
            "<|end|>",
            "\t=>\r\n",
        ];
        let mut state = 7u32;
        let words = std::iter::from_fn(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(WORDS[(state >> 16) as usize % WORDS.len()])
        });
        let text: String = words.take(20_000).collect();
        let n_parts = text.len() / PART;
        assert!(n_parts > 8);
        assert_eq!(n_calls(&text), n_parts);
        assert_eq!(n_calls(&text[..PART]), 1);
        // Cut inside of a character.
        assert_eq!(n_calls(&"日本語 ".repeat(PART / 2)), 5);
    }

    #[test]
    fn a_text_without_joints_is_split_as_a_whole() {
        // One word: a part sees other pieces of it.
        assert_eq!(n_calls(&"a".repeat(3 * PART)), 4);
        // A word that hides every joint between two parts.
        let text =
            format!("{}{}{}", "It is so. ".repeat(800), "b".repeat(3 * SHARED), " It was.".repeat(3000));
        n_calls(&text);
    }
}
