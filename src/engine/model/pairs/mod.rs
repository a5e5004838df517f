//! A tokenizer's model that puts a word together from its characters, pair by pair, with the vocabulary of a
//! GGUF file. The crate `tokenizers` has one too, but takes seconds to build it of a large vocabulary.

pub mod merges;
#[cfg(test)]
mod tests;
pub mod vocabulary;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    path::{Path, PathBuf},
};

use tokenizers::{Model, Result, Token, models::bpe::BpeTrainer};

use self::{
    merges::{Merges, Rank},
    vocabulary::Vocabulary,
};

/// A vocabulary and its merges.
pub struct Pairs {
    pub vocabulary: Vocabulary,
    pub merges: Merges,
    /// The token of each byte of a character that is not in the vocabulary. `[256]`, or empty without such
    /// tokens.
    pub bytes: Vec<Option<u32>>,
    /// The token of neighbouring characters that have no other.
    pub unknown: Option<u32>,
    /// Whether a word that is in the vocabulary is one token, whatever its merges give.
    pub whole_words: bool,
}

/// A token of a word that is being put together.
struct Part {
    id: u32,
    /// Its bytes in the word; none once it belongs to a part before.
    start: usize,
    end: usize,
    /// The parts before and after it; [`NONE`] at the ends.
    before: usize,
    after: usize,
}

const NONE: usize = usize::MAX;

/// A merge of a part with the next one: its rank, the part, and the token that they become.
type Merge = Reverse<(Rank, usize, u32)>;

impl Pairs {
    fn parts(&self, word: &str) -> Vec<Part> {
        let mut parts = self.characters(word);
        let mut queue: BinaryHeap<Merge> =
            (0..parts.len()).filter_map(|left| self.merge(word, &parts, left)).collect();
        while let Some(Reverse((_, left, id))) = queue.pop() {
            let is_gone = parts[left].start == parts[left].end;
            // The part or the next one may have become another since.
            if is_gone || self.merge(word, &parts, left).is_none_or(|Reverse((.., now))| now != id) {
                continue;
            }
            let right = parts[left].after;
            let Part { end, after, .. } = parts[right];
            parts[right].end = parts[right].start;
            parts[left] = Part { id, end, after, ..parts[left] };
            if after != NONE {
                parts[after].before = left;
            }
            let before = parts[left].before;
            queue.extend([before, left].into_iter().filter_map(|left| self.merge(word, &parts, left)));
        }
        parts.retain(|part| part.start < part.end);
        parts
    }

    /// Returns the tokens of the word's characters.
    fn characters(&self, word: &str) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(word.len());
        let mut push = |id, start, end| match parts.last_mut() {
            Some(last) if Some(id) == self.unknown && last.id == id => last.end = end,
            _ => {
                let at = parts.len();
                parts.push(Part { id, start, end, before: at.wrapping_sub(1), after: at + 1 });
            }
        };
        for (start, character) in word.char_indices() {
            let end = start + character.len_utf8();
            let bytes =
                || word.as_bytes()[start..end].iter().map(|&byte| *self.bytes.get(usize::from(byte))?);
            if let Some(id) = self.vocabulary.id(&word[start..end]) {
                push(id, start, end);
            } else if bytes().all(|id| id.is_some()) {
                bytes().flatten().zip(start..).for_each(|(id, at)| push(id, at, at + 1));
            } else if let Some(id) = self.unknown {
                push(id, start, end);
            }
        }
        parts.last_mut().into_iter().for_each(|last| last.after = NONE);
        parts
    }

    /// Returns the merge of the part `left` with the next one.
    fn merge(&self, word: &str, parts: &[Part], left: usize) -> Option<Merge> {
        let a = parts.get(left)?;
        let b = parts.get(a.after)?;
        // A character may end in neither of two bytes.
        let text = word.get(a.start..b.end)?;
        let (rank, id) = self.merges.find(&self.vocabulary, a.id, b.id, text)?;
        Some(Reverse((rank, left, id)))
    }
}

/// What the crate's `Tokenizer` asks of a model.
impl Model for Pairs {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        let token = |id, start, end| {
            Token::new(id, self.vocabulary.token(id).unwrap_or_default().into(), (start, end))
        };
        match self.vocabulary.id(word).filter(|_| self.whole_words) {
            Some(id) => Ok(vec![token(id, 0, word.len())]),
            None => Ok(self.parts(word).iter().map(|part| token(part.id, part.start, part.end)).collect()),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary.token(id).map(Into::into)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.vocabulary.iter().map(|(token, id)| (token.into(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer of a GGUF file is not written".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
