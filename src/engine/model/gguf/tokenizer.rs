//! A tokenizer of the vocabulary in a GGUF file.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::{AddedToken, TokenizerBuilder};

use super::Gguf;
use crate::{
    engine::model::{
        pairs::{Pairs, merges::Merges, vocabulary::Vocabulary},
        tokenizer::{MARK, PairTokenizer, Tokenizer, guarded},
    },
    error::Error,
};

/// Kinds of tokens, by llama.cpp's numbers.
const NORMAL: u32 = 1;
const UNKNOWN: u32 = 2;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// Names of the rules of models that take a start token, and whose words are tokens whatever their merges give.
const WHOLE_WORDS: [&str; 4] = ["llama-bpe", "llama3", "llama-v3", "tekken"];

/// The metadata of a file that say how its model cuts texts.
struct Metadata<'a> {
    gguf: &'a Gguf,
    /// The kind of each token; the last ones may be missing.
    kinds: Vec<u32>,
    /// The name of the rules that cut a text into words.
    pre: Option<Cow<'a, str>>,
    /// Whether the vocabulary is one of SentencePiece.
    is_pieces: bool,
}

/// Hugging Face's descriptions of what happens to a text before and after the model cuts its words.
struct Around {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
}

/// Makes a tokenizer of a file's metadata, for a model of `vocab_size` tokens.
pub fn from_metadata(gguf: &Gguf, vocab_size: usize) -> Result<Tokenizer, Error> {
    let metadata = Metadata::read(gguf)?;
    let around = if metadata.is_pieces { metadata.pieces() } else { metadata.byte_level()? };
    let tokenizer = guarded(|| metadata.tokenizer(around)).map_err(|why| {
        let fix = "its vocabulary contradicts itself: put the model's tokenizer.json beside the file";
        Error::model(gguf.path.display(), "a tokenizer", why, fix)
    })?;
    Tokenizer::of_pairs(tokenizer, &gguf.path, vocab_size)
}

/// The error for a tokenizer that cannot be made.
fn unknown(gguf: &Gguf, expected: &str, found: Option<&str>) -> Error {
    Error::model(
        gguf.path.display(),
        expected,
        found.unwrap_or("none"),
        "put the model's tokenizer.json beside the file",
    )
}

impl<'a> Metadata<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self, Error> {
        let is_pieces = match gguf.text("tokenizer.ggml.model").as_deref() {
            Some("gpt2") => false,
            Some("llama") => true,
            other => return Err(unknown(gguf, "tokenizer.ggml.model gpt2 or llama", other)),
        };
        let kinds = gguf.numbers("tokenizer.ggml.token_type").map(|kind| kind as u32);
        Ok(Metadata { gguf, kinds: kinds.collect(), pre: gguf.text("tokenizer.ggml.pre"), is_pieces })
    }

    fn kind(&self, id: usize) -> u32 {
        self.kinds.get(id).copied().unwrap_or(NORMAL)
    }

    fn tokenizer(&self, around: Around) -> tokenizers::Result<PairTokenizer> {
        let vocabulary = Vocabulary::new(self.gguf.texts("tokenizer.ggml.tokens"));
        let (start, added) = (self.post_processor(&vocabulary), self.added_tokens(&vocabulary));
        let mut tokenizer: PairTokenizer = TokenizerBuilder::new()
            .with_model(self.model(vocabulary)?)
            .with_normalizer(part(around.normalizer)?)
            .with_pre_tokenizer(part(around.pre_tokenizer)?)
            .with_decoder(part(around.decoder)?)
            .with_post_processor(part(start)?)
            .build()?;
        tokenizer.add_tokens(added)?;
        Ok(tokenizer)
    }

    fn model(&self, vocabulary: Vocabulary) -> Result<Pairs, String> {
        if !self.is_pieces {
            let merges = Merges::listed(&vocabulary, self.gguf.texts("tokenizer.ggml.merges"))?;
            let whole_words = self.is_one_of(&WHOLE_WORDS);
            return Ok(Pairs { vocabulary, merges, bytes: Vec::new(), unknown: None, whole_words });
        }
        let mut scores = self.gguf.numbers("tokenizer.ggml.scores");
        let scores = (0..vocabulary.len()).map(|id| {
            let score = scores.next().filter(|score| !score.is_nan()).unwrap_or(0.0);
            (self.kind(id) == NORMAL).then_some(score as f32)
        });
        let merges = Merges::scored(scores);
        let bytes = (0..=255u8).map(|byte| vocabulary.id(&format!("<0x{byte:02X}>"))).collect();
        let unknown = self.id("unknown").filter(|&id| vocabulary.token(id).is_some());
        Ok(Pairs { vocabulary, merges, bytes, unknown, whole_words: false })
    }

    /// Returns the tokens that are matched in a text before it is cut into words.
    fn added_tokens(&self, vocabulary: &Vocabulary) -> Vec<AddedToken> {
        let kinds = [UNKNOWN, CONTROL, USER_DEFINED];
        let added = (0..vocabulary.len()).filter(|&id| kinds.contains(&self.kind(id)));
        let token = |id: usize| {
            let text = vocabulary.token(id as u32).unwrap_or_default();
            AddedToken::from(text, self.kind(id) != USER_DEFINED).normalized(false)
        };
        added.map(token).collect()
    }

    /// Returns the post-processor that puts the start token before a text, or null if the model takes no
    /// start token.
    fn post_processor(&self, vocabulary: &Vocabulary) -> Value {
        let Some((id, token)) = self.id("bos").and_then(|id| Some((id, vocabulary.token(id)?))) else {
            return Value::Null;
        };
        let by_kind = self.is_pieces || self.is_one_of(&WHOLE_WORDS);
        if !self.gguf.switch("tokenizer.ggml.add_bos_token").unwrap_or(by_kind) {
            return Value::Null;
        }
        let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), text("B")],
            "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
        })
    }

    /// Returns the id of a token with a part to play, such as "bos".
    fn id(&self, part: &str) -> Option<u32> {
        self.gguf.number(&format!("tokenizer.ggml.{part}_token_id")).map(|id| id as u32)
    }

    /// Whether the rules that cut a text into words have one of these names.
    fn is_one_of(&self, names: &[&str]) -> bool {
        self.pre.as_deref().is_some_and(|pre| names.contains(&pre))
    }

    /// Returns what surrounds a model of byte pairs: words cut by a pattern, whose bytes are written as
    /// characters.
    fn byte_level(&self) -> Result<Around, Error> {
        let Some((pattern, digits)) = self.pre.as_deref().and_then(word_rules) else {
            let known = "tokenizer.ggml.pre llama-bpe, qwen2, gpt-2, gpt-4o, tekken, smollm or one like them";
            return Err(unknown(self.gguf, known, self.pre.as_deref()));
        };
        let mut cuts = Vec::new();
        if digits {
            cuts.push(json!({ "type": "Digits", "individual_digits": true }));
        }
        if let Some(pattern) = &pattern {
            cuts.push(json!({
                "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
            }));
        }
        let bytes = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                "use_regex": use_regex,
            })
        };
        cuts.push(bytes(pattern.is_none()));
        Ok(Around {
            normalizer: if self.is_one_of(&["qwen2"]) { json!({ "type": "NFC" }) } else { Value::Null },
            pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": cuts }),
            decoder: bytes(true),
        })
    }

    /// Returns what surrounds a model of pieces, which cuts the whole text as one word.
    fn pieces(&self) -> Around {
        let spaced = self.gguf.switch("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let replace =
            |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let before = spaced.then(|| json!({ "type": "Prepend", "prepend": MARK }));
        let after = spaced.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        let normalizers: Vec<Value> = before.into_iter().chain([replace(" ", MARK)]).collect();
        let decoders = [replace(MARK, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
        let decoders: Vec<Value> = decoders.into_iter().chain(after).collect();
        Around {
            normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
            pre_tokenizer: Value::Null,
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
        }
    }
}

/// Makes a part of a tokenizer of its description; none of null.
fn part<T: DeserializeOwned>(description: Value) -> tokenizers::Result<Option<T>> {
    Ok(serde_json::from_value(description)?)
}

/// Returns the pattern that cuts a text into words, `None` for GPT-2's, and whether each digit is cut off
/// before it is applied. Returns `None` if the rules `pre` are unknown.
fn word_rules(pre: &str) -> Option<(Option<String>, bool)> {
    let suffix = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    let rest = |more: &str| format!(r" ?[^\s\p{{L}}\p{{N}}]+[\r\n{more}]*|\s*[\r\n]+|\s+(?!\S)|\s+");
    let plain = |digits: &str| format!(r"{suffix}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{}", rest(""));
    // Words are cut where a capital follows a small letter.
    let cased = |suffix: &str, digits: &str| {
        let upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
        let lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
        let start = r"[^\r\n\p{L}\p{N}]?";
        format!("{start}{upper}*{lower}+{suffix}|{start}{upper}+{lower}*{suffix}|{digits}|{}", rest("/"))
    };
    Some(match pre {
        "llama-bpe" | "llama3" | "llama-v3" | "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => {
            (Some(plain(r"\p{N}{1,3}")), false)
        }
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (Some(plain(r"\p{N}")), false),
        "gpt-4o" => (Some(cased(&format!("{suffix}?"), r"\p{N}{1,3}")), false),
        "tekken" => (Some(cased("", r"\p{N}")), false),
        "gpt-2" | "phi-2" | "olmo" | "mpt" => (None, false),
        "smollm" | "refact" | "starcoder" | "command-r" | "codeshell" => (None, true),
        _ => return None,
    })
}
