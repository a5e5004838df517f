//! Translates the vocabulary of a GGUF file to a `tokenizer.json`.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value as Stored;
use serde_json::{Map, Value, json};

use super::Gguf;
use crate::error::Error;

/// Kinds of tokens, by llama.cpp's numbers.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The character that stands for a space in SentencePiece's vocabularies.
const SPACE: &str = "\u{2581}";

/// The vocabulary of a file.
struct Vocabulary<'a> {
    gguf: &'a Gguf,
    tokens: Vec<&'a str>,
    kinds: Vec<i64>,
}

/// Makes a `tokenizer.json` of a file's metadata.
pub fn from_metadata(gguf: &Gguf) -> Result<Value, Error> {
    let vocabulary = Vocabulary::read(gguf);
    let mut json = match gguf.text("tokenizer.ggml.model") {
        Some("gpt2") => vocabulary.byte_level()?,
        Some("llama") => vocabulary.sentence_piece(),
        other => return Err(unknown(gguf, "tokenizer.ggml.model gpt2 or llama", other)),
    };
    json["version"] = json!("1.0");
    json["added_tokens"] = vocabulary.added_tokens();
    json["post_processor"] = vocabulary.post_processor();
    Ok(json)
}

/// The error for a tokenizer that cannot be translated.
fn unknown(gguf: &Gguf, expected: &str, found: Option<&str>) -> Error {
    Error::model(
        gguf.path.display(),
        expected,
        found.unwrap_or("none"),
        "put the model's tokenizer.json beside the file",
    )
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Self {
        let tokens = gguf.list("tokenizer.ggml.tokens").iter().map(|token| match token {
            Stored::String(token) => token.as_str(),
            _ => "",
        });
        let kind = |kind: &Stored| kind.to_i64().or(kind.to_i32().map(Into::into)).unwrap_or(NORMAL);
        let kinds = gguf.list("tokenizer.ggml.token_type").iter().map(kind);
        Vocabulary { gguf, tokens: tokens.collect(), kinds: kinds.collect() }
    }

    fn kind(&self, id: usize) -> i64 {
        self.kinds.get(id).copied().unwrap_or(NORMAL)
    }

    fn ids(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.to_string(), json!(id))).collect()
    }

    /// Returns the tokens that are matched in a text before it is cut into words.
    fn added_tokens(&self) -> Value {
        let added = (0..self.tokens.len()).filter(|&id| [CONTROL, USER_DEFINED].contains(&self.kind(id)));
        let word = |id: usize| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": self.kind(id) == CONTROL,
            })
        };
        added.map(word).collect()
    }

    /// Returns the post-processor that puts the start token before a text, or null if the model takes no
    /// start token.
    fn post_processor(&self) -> Value {
        let is_piece = self.gguf.text("tokenizer.ggml.model") == Some("llama");
        let by_kind = is_piece || self.pre().is_some_and(|pre| ["llama-bpe", "tekken"].contains(&pre));
        let id = self.gguf.number("tokenizer.ggml.bos_token_id").map(|id| id as usize);
        let Some((id, token)) = id.and_then(|id| Some((id, self.tokens.get(id)?))) else {
            return Value::Null;
        };
        if !self.gguf.switch("tokenizer.ggml.add_bos_token").unwrap_or(by_kind) {
            return Value::Null;
        }
        let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), text("B")],
            "special_tokens": { *token: { "id": token, "ids": [id], "tokens": [token] } },
        })
    }

    /// Returns the name of the rules that cut a text into words.
    fn pre(&self) -> Option<&'a str> {
        self.gguf.text("tokenizer.ggml.pre")
    }

    /// Returns a tokenizer of byte pairs, over words cut by a pattern.
    fn byte_level(&self) -> Result<Value, Error> {
        let Some((pattern, digits)) = self.pre().and_then(word_rules) else {
            let known = "tokenizer.ggml.pre llama-bpe, qwen2, gpt-2, gpt-4o, tekken, smollm or one like them";
            return Err(unknown(self.gguf, known, self.pre()));
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
        let merges = self
            .gguf
            .list("tokenizer.ggml.merges")
            .iter()
            .filter_map(|merge| merge.to_string().ok()?.split_once(' '));
        let is_one_of = |names: &[&str]| self.pre().is_some_and(|pre| names.contains(&pre));
        Ok(json!({
            "normalizer": if is_one_of(&["qwen2"]) { json!({ "type": "NFC" }) } else { Value::Null },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": cuts },
            "decoder": bytes(true),
            "model": { "type": "BPE", "vocab": self.ids(), "merges": merges.collect::<Vec<_>>(),
                "ignore_merges": is_one_of(&["llama-bpe", "tekken"]) },
        }))
    }

    /// Returns a tokenizer of pieces, merged by score from the highest; a character in no piece becomes its
    /// bytes.
    fn sentence_piece(&self) -> Value {
        let unknown =
            self.gguf.number("tokenizer.ggml.unknown_token_id").and_then(|id| self.tokens.get(id as usize));
        let spaced = self.gguf.switch("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let replace =
            |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let before = spaced.then(|| json!({ "type": "Prepend", "prepend": SPACE }));
        let after = spaced.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        let normalizers: Vec<Value> = before.into_iter().chain([replace(" ", SPACE)]).collect();
        let decoders = [replace(SPACE, " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
        json!({
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": null,
            "decoder": {
                "type": "Sequence",
                "decoders": decoders.into_iter().chain(after).collect::<Vec<_>>(),
            },
            "model": {
                "type": "BPE", "vocab": self.ids(), "merges": self.merges(), "unk_token": unknown,
                "fuse_unk": true, "byte_fallback": true,
            },
        })
    }

    /// Returns every pair of pieces that make a third one, in the order of the third one's score from the
    /// highest.
    fn merges(&self) -> Vec<(&'a str, &'a str)> {
        let scores = self.gguf.list("tokenizer.ggml.scores");
        let score = |id: usize| scores.get(id).and_then(|score| score.to_f32().ok()).unwrap_or(0.0);
        let pieces: Vec<usize> = (0..self.tokens.len()).filter(|&id| self.kind(id) == NORMAL).collect();
        let ids: HashMap<&str, usize> = pieces.iter().map(|&id| (self.tokens[id], id)).collect();
        let mut merges = Vec::new();
        for &id in &pieces {
            let piece = self.tokens[id];
            let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
            let halves = cuts.filter_map(|(a, b)| Some((score(id), *ids.get(a)?, *ids.get(b)?)));
            let from = merges.len();
            merges.extend(halves);
            merges[from..].sort_by_key(|&(_, a, b)| (a, b));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        merges.into_iter().map(|(_, a, b)| (self.tokens[a], self.tokens[b])).collect()
    }
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
        "llama-bpe" | "llama3" | "llama-v3" | "dbrx" | "smaug-bpe" => (Some(plain(r"\p{N}{1,3}")), false),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (Some(plain(r"\p{N}")), false),
        "gpt-4o" => (Some(cased(&format!("{suffix}?"), r"\p{N}{1,3}")), false),
        "tekken" => (Some(cased("", r"\p{N}")), false),
        "gpt-2" | "phi-2" => (None, false),
        "smollm" => (None, true),
        _ => return None,
    })
}
