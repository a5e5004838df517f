//! Text to token ids and back, by a `tokenizer.json` or the vocabulary of a GGUF file.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde_json::Value;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use super::{
    in_parts::{self, Tokens},
    json_file,
    pairs::Pairs,
    pointer, start_token,
};
use crate::{error::Error, words::numbers::thousands};

/// The character that stands for a space in SentencePiece's vocabularies.
pub const MARK: &str = "\u{2581}";

/// Most white space in a row: the patterns that cut words give up on a million, and cut what follows otherwise.
const MOST_BLANKS: usize = 500_000;

/// A tokenizer, checked against the model's vocabulary.
pub struct Tokenizer {
    kind: Kind,
    /// The number of rows of the model's embedding: a prompt's ids are below it.
    vocab_size: usize,
}

enum Kind {
    /// Of a `tokenizer.json`.
    Json(Box<tokenizers::Tokenizer>),
    Pairs(Box<PairTokenizer>),
}

/// A tokenizer of Hugging Face's parts around a model of our own.
pub type PairTokenizer =
    TokenizerImpl<Pairs, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A prompt in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoding {
    pub ids: Vec<u32>,
    /// The range of the text's bytes that each token covers; `(0, 0)` for an added token, such as a start
    /// token, and an empty one for a mark that stands before a word and for nothing in the text.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` at `path`, with the start and end tokens of the `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read, [`Error::Model`] when one is damaged, or the vocabulary has an
    /// id of `vocab_size` or above. Added tokens may: models carry some that they have no embedding for.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        pointer::check(path, &bytes)?;
        let config = path.with_file_name("tokenizer_config.json");
        let config = if config.exists() { json_file::read(&config)? } else { Value::Null };
        Self::with_config(&bytes, &config, path, vocab_size)
    }

    /// Parses the contents of a `tokenizer.json`; errors name `path`.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub fn parse(bytes: &[u8], path: &Path, vocab_size: usize) -> Result<Self, Error> {
        Self::with_config(bytes, &Value::Null, path, vocab_size)
    }

    /// Parses a `tokenizer.json` with the `tokenizer_config.json` beside it.
    fn with_config(bytes: &[u8], config: &Value, path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let path = path.display();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|why| {
            let fix = match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
                Ok(_) => {
                    "it has a part that is not known, or is another file: take the model's own tokenizer.json, or its \
                     GGUF file"
                }
                Err(_) => "the file is damaged or cut off: download it again",
            };
            Error::model(&path, "a tokenizer", why, fix)
        })?;
        // A tokenizer may carry the truncation and padding of its training; a trace needs exactly the prompt.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::model(&path, "no truncation", e, "download it again"))?;
        // A tokenizer that contradicts itself is found by the check below.
        let _ = guarded(|| start_token::apply(&mut tokenizer, config));
        let added = tokenizer.get_added_tokens_decoder();
        let largest = tokenizer.get_vocab(false).into_values().filter(|id| !added.contains_key(id)).max();
        Self::checked(Kind::Json(Box::new(tokenizer)), largest, &path, vocab_size)
    }

    /// Takes the tokenizer of a GGUF file; errors name `path`.
    ///
    /// # Errors
    /// [`Error::Model`] when it has an id of `vocab_size` or above.
    pub fn of_pairs(tokenizer: PairTokenizer, path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let added = tokenizer.get_added_tokens_decoder();
        let ids = 0..tokenizer.get_model().vocabulary.len() as u32;
        let largest = ids.rev().find(|id| !added.contains_key(id));
        Self::checked(Kind::Pairs(Box::new(tokenizer)), largest, &path.display(), vocab_size)
    }

    /// Checks a tokenizer whose vocabulary has ids up to `largest`.
    fn checked(
        kind: Kind,
        largest: Option<u32>,
        path: &impl Display,
        vocab_size: usize,
    ) -> Result<Self, Error> {
        // A token that the post-processor adds, such as a start token, need not be in the vocabulary.
        let added = guarded(|| kind.encode("")).ok().and_then(|added| added.ids.into_iter().max());
        let largest = largest.max(added).map_or(0, |id| id as usize);
        if largest >= vocab_size {
            return Err(Error::model(
                path,
                format!("ids below {vocab_size}"),
                format!("id {largest}"),
                "this tokenizer belongs to another model",
            ));
        }
        Ok(Tokenizer { kind, vocab_size })
    }

    /// Splits a text into tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] when the text gives no token, or one that the model has no embedding for, or has more white
    /// space in a row than the patterns can cut.
    pub fn encode(&self, text: &str) -> Result<Encoding, Error> {
        let expected = "a text of at least one token";
        let fix = "give some text";
        if text.is_empty() {
            return Err(Error::prompt(expected, "an empty text", fix));
        }
        let blanks =
            text.split(|c: char| !c.is_whitespace()).map(|run| run.chars().count()).max().unwrap_or(0);
        if blanks > MOST_BLANKS {
            let [most, found] = [MOST_BLANKS, blanks].map(|n| thousands(n as u64));
            return Err(Error::prompt(format!("at most {most} blanks in a row"), found, "leave some out"));
        }
        let Tokens { ids, mut offsets, .. } =
            guarded(|| self.kind.encode(text)).map_err(|e| Error::prompt(expected, e, fix))?;
        if ids.is_empty() {
            return Err(Error::prompt(expected, "a text without tokens", fix));
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let expected =
                format!("tokens that the model has an embedding for, with ids below {}", self.vocab_size);
            let found = format!("{}, id {id}", self.kind.name(id));
            return Err(Error::prompt(expected, found, "leave this token out of the text"));
        }
        // Chat templates write the start tokens at the start of the text: skips those that the tokenizer adds.
        let n_added = offsets.iter().take_while(|range| **range == (0, 0)).count();
        let again = if ids.get(n_added..2 * n_added) == Some(&ids[..n_added]) { n_added } else { 0 };
        let (ids, mut offsets) = (ids[again..].to_vec(), offsets.split_off(again));
        let mark = self.kind.id(MARK);
        for (id, range) in ids.iter().zip(&mut offsets) {
            // A mark that SentencePiece puts before a word stands for no character of the text.
            if Some(*id) == mark && !text[range.0..].starts_with([' ', '\u{2581}']) {
                range.1 = range.0;
            }
        }
        Ok(Encoding { ids, offsets })
    }

    /// Returns the text of the tokens `ids` as it reads after the token `before`.
    pub fn continuation(&self, before: u32, ids: &[u32]) -> String {
        let whole = self.decode(&[&[before], ids].concat());
        whole.strip_prefix(&self.decode(&[before])).map_or_else(|| self.decode(ids), Into::into)
    }

    /// Returns the text of one token as it reads after others: with the space that some tokenizers leave out
    /// at the start of a text.
    pub fn text(&self, id: u32) -> String {
        self.continuation(id, &[id])
    }

    /// Returns the first special token that stands in a text, such as `<|im_end|>`.
    pub fn special_in(&self, text: &str) -> Option<String> {
        let added = match &self.kind {
            Kind::Json(tokenizer) => tokenizer.get_added_tokens_decoder(),
            Kind::Pairs(tokenizer) => tokenizer.get_added_tokens_decoder(),
        };
        let special = added.into_values().filter(|token| token.special && !token.content.is_empty());
        let found = special.filter_map(|token| Some((text.find(&token.content)?, token.content)));
        found.min().map(|(_, token)| token)
    }

    fn decode(&self, ids: &[u32]) -> String {
        guarded(|| self.kind.decode(ids)).unwrap_or_default()
    }
}

impl Kind {
    /// Splits a text, with the tokens that the model wants around it.
    fn encode(&self, text: &str) -> tokenizers::Result<Tokens> {
        in_parts::encode(text, |part, adds| match self {
            Kind::Json(tokenizer) => tokenizer.encode(part, adds),
            Kind::Pairs(tokenizer) => tokenizer.encode(part, adds),
        })
    }

    /// Returns the id of a token of the vocabulary.
    fn id(&self, token: &str) -> Option<u32> {
        match self {
            Kind::Json(tokenizer) => tokenizer.token_to_id(token),
            Kind::Pairs(tokenizer) => tokenizer.token_to_id(token),
        }
    }

    /// Returns the token of an id, as the vocabulary writes it.
    fn name(&self, id: u32) -> String {
        match self {
            Kind::Json(tokenizer) => tokenizer.id_to_token(id),
            Kind::Pairs(tokenizer) => tokenizer.id_to_token(id),
        }
        .unwrap_or_default()
    }

    /// Puts a text together, with its special tokens.
    fn decode(&self, ids: &[u32]) -> tokenizers::Result<String> {
        match self {
            Kind::Json(tokenizer) => tokenizer.decode(ids, false),
            Kind::Pairs(tokenizer) => tokenizer.decode(ids, false),
        }
    }
}

/// Calls the crate, which panics for a tokenizer that is cut off or contradicts itself, and returns that as an
/// error.
pub(super) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("a tokenizer that is cut off or contradicts itself".into()),
    }
}
