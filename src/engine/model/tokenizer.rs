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
    /// Bytes of the text that each token covers; `(0, 0)` for a token that was added, such as a start token.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// # Errors
    /// [`Error::File`] when the file is missing, [`Error::Model`] when it is damaged or has ids past the model's vocabulary.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self, Error> {
        Self::parse(&std::fs::read(path).map_err(Error::io("read", path))?, path, vocab_size)
    }

    /// A tokenizer from the text of its file, which `path` names in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub fn parse(bytes: &[u8], path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let bad =
            |expected: String, found: String, fix: &str| Error::model(path.display(), expected, found, fix);
        let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|why| bad("a tokenizer".into(), why, "the file is damaged: download it again"))?;
        // A tokenizer may carry the truncation and padding of its training; a trace needs the whole prompt and no more.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| bad("no truncation".into(), e.to_string(), "download it again"))?;
        let words = tokenizer.get_vocab(true).into_values().max();
        // What the post-processor adds, such as a start token, need not be in the vocabulary.
        let added = guarded(|| tokenizer.encode("", true))
            .ok()
            .and_then(|added| added.get_ids().iter().copied().max());
        let largest = words.max(added).map_or(0, |id| id as usize);
        if largest >= vocab_size {
            let found = format!("id {largest}");
            return Err(bad(
                format!("ids below {vocab_size}"),
                found,
                "this tokenizer belongs to another model",
            ));
        }
        Ok(Tokenizer(tokenizer))
    }

    /// # Errors
    /// [`Error::Prompt`] when the text gives no token.
    pub fn encode(&self, text: &str) -> Result<Encoding, Error> {
        let refused = |found: String| Error::prompt("a text of at least one token", found, "give some text");
        if text.is_empty() {
            return Err(refused("an empty text".into()));
        }
        let encoding = guarded(|| self.0.encode(text, true)).map_err(refused)?;
        if encoding.is_empty() {
            return Err(refused("a text without tokens".into()));
        }
        let (ids, offsets) = (encoding.get_ids(), encoding.get_offsets());
        // A text that begins with the start token, as chat templates write it, gets no second one.
        let again = usize::from(offsets[0] == (0, 0) && ids.get(1) == Some(&ids[0]));
        Ok(Encoding { ids: ids[again..].to_vec(), offsets: offsets[again..].to_vec() })
    }

    /// The text of tokens that follow another, as they read there.
    pub fn continuation(&self, before: u32, ids: &[u32]) -> String {
        let whole = self.decode(&[&[before], ids].concat());
        whole.strip_prefix(&self.decode(&[before])).map_or_else(|| self.decode(ids), Into::into)
    }

    /// The text of one token, as it would read after others: with the space that some tokenizers leave out at the start.
    pub fn text(&self, id: u32) -> String {
        self.continuation(id, &[id])
    }

    fn decode(&self, ids: &[u32]) -> String {
        guarded(|| self.0.decode(ids, false)).unwrap_or_default()
    }
}

/// What a tokenizer answers; a file that is cut off or contradicts itself makes it panic.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("a tokenizer.json that is cut off or contradicts itself".into()),
    }
}
