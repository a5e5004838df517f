//! Text to token ids and back, by a `tokenizer.json` or the vocabulary of a GGUF file.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use super::pairs::Pairs;
use crate::error::Error;

/// A tokenizer, checked against the model's vocabulary.
pub struct Tokenizer(Kind);

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
    /// token.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` at `path`.
    ///
    /// # Errors
    /// [`Error::File`] when the file is missing, [`Error::Model`] when it is damaged or has an id of
    /// `vocab_size` or above.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self, Error> {
        Self::parse(&std::fs::read(path).map_err(Error::io("read", path))?, path, vocab_size)
    }

    /// Parses the contents of a `tokenizer.json`; errors name `path`.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub fn parse(bytes: &[u8], path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let path = path.display();
        let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|why| {
            Error::model(&path, "a tokenizer", why, "the file is damaged: download it again")
        })?;
        // A tokenizer may carry the truncation and padding of its training; a trace needs exactly the prompt.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::model(&path, "no truncation", e, "download it again"))?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        Self::checked(Kind::Json(Box::new(tokenizer)), largest, &path, vocab_size)
    }

    /// Takes the tokenizer of a GGUF file; errors name `path`.
    ///
    /// # Errors
    /// [`Error::Model`] when it has an id of `vocab_size` or above.
    pub fn of_pairs(tokenizer: PairTokenizer, path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let largest = tokenizer.get_model().vocabulary.len().checked_sub(1).map(|id| id as u32);
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
        let added = guarded(|| kind.encode("")).ok().and_then(|added| added.get_ids().iter().copied().max());
        let largest = largest.max(added).map_or(0, |id| id as usize);
        if largest >= vocab_size {
            return Err(Error::model(
                path,
                format!("ids below {vocab_size}"),
                format!("id {largest}"),
                "this tokenizer belongs to another model",
            ));
        }
        Ok(Tokenizer(kind))
    }

    /// Splits a text into tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] when the text gives no token.
    pub fn encode(&self, text: &str) -> Result<Encoding, Error> {
        let expected = "a text of at least one token";
        let fix = "give some text";
        if text.is_empty() {
            return Err(Error::prompt(expected, "an empty text", fix));
        }
        let encoding = guarded(|| self.0.encode(text)).map_err(|e| Error::prompt(expected, e, fix))?;
        if encoding.is_empty() {
            return Err(Error::prompt(expected, "a text without tokens", fix));
        }
        let ids = encoding.get_ids();
        let offsets = encoding.get_offsets();
        // Chat templates write the start token at the start of the text: skips the one that the tokenizer
        // adds.
        let again = usize::from(offsets[0] == (0, 0) && ids.get(1) == Some(&ids[0]));
        Ok(Encoding { ids: ids[again..].to_vec(), offsets: offsets[again..].to_vec() })
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

    fn decode(&self, ids: &[u32]) -> String {
        guarded(|| self.0.decode(ids)).unwrap_or_default()
    }
}

impl Kind {
    /// Splits a text, with the tokens that the model wants around it.
    fn encode(&self, text: &str) -> tokenizers::Result<tokenizers::Encoding> {
        match self {
            Kind::Json(tokenizer) => tokenizer.encode(text, true),
            Kind::Pairs(tokenizer) => tokenizer.encode(text, true),
        }
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
