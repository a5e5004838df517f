//! `tokenizer.json`: text to token ids and back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use crate::error::Error;

/// A Hugging Face tokenizer, checked against the model's vocabulary.
pub struct Tokenizer(tokenizers::Tokenizer);

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
        let words = tokenizer.get_vocab(true).into_values().max();
        // A token that the post-processor adds, such as a start token, need not be in the vocabulary.
        let added = guarded(|| tokenizer.encode("", true))
            .ok()
            .and_then(|added| added.get_ids().iter().copied().max());
        let largest = words.max(added).map_or(0, |id| id as usize);
        if largest >= vocab_size {
            return Err(Error::model(
                &path,
                format!("ids below {vocab_size}"),
                format!("id {largest}"),
                "this tokenizer belongs to another model",
            ));
        }
        Ok(Tokenizer(tokenizer))
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
        let encoding = guarded(|| self.0.encode(text, true)).map_err(|e| Error::prompt(expected, e, fix))?;
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
        guarded(|| self.0.decode(ids, false)).unwrap_or_default()
    }
}

/// Calls the tokenizer, which panics for a file that is cut off or contradicts itself, and returns that as an
/// error.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("a tokenizer.json that is cut off or contradicts itself".into()),
    }
}
