//! Hard texts, cut by the tokenizers of the supported families: the vocabulary in a GGUF file gives the same ids as
//! `tokenizer.json`, which the crate `tokenizers` reads. The vocabularies are small, and trained on the texts.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use candle_core::quantized::{GgmlDType, gguf_file::Value};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use streamtrace::engine::model::{Model, gguf::Gguf, tokenizer::Tokenizer};
use tempfile::TempDir;
use tokenizers::{
    models::{TrainerWrapper, bpe::BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::{common, hash::sha256, writer::Writer};

const TEXTS: [&str; 60] = [
    "Hello, world!",
    " leading space",
    "trailing space ",
    "  two  spaces  inside",
    "\ttab\tseparated\t",
    "line\nbreak",
    "two\n\nbreaks\n\n\n",
    "carriage\r\nreturn\r\n\r\n",
    "   \n   \n",
    "\n",
    " ",
    "    ",
    "don't can't I'll we've they'RE she'D",
    "CamelCaseAndSnake_case and kebab-case",
    "ALLCAPS lower Title mIxEd",
    "1 12 123 1234 12345 1234567890",
    "3.14159 1,000,000 -5 +7 1e-10",
    "٣٤٥ ५६७ １２３ Ⅷ ½ ²",
    "x=1;y=2;z=x+y*(a-b)/c%d",
    "def f(x):\n    return x ** 2  # comment\n",
    "{\"key\": [1, 2, {\"a\": null}]}",
    "<div class=\"a\">text &amp; more</div>",
    "https://example.org/a/b?c=d&e=f#g",
    "user.name+tag@example.co.uk",
    "!!! ??? ... --- *** ### @@@ $$$ %%%",
    "«quotes» “double” ‘single’ „low“",
    "naïve café résumé Ångström",
    "cafe\u{301} decomposed e\u{308} n\u{303}",
    "Straße GROẞ ǆ ǅ Ǆ",
    "Привет, мир! Как дела?",
    "Ελληνικά ΣΊΣΥΦΟΣ",
    "עברית עם ניקוד שָׁלוֹם",
    "العربية مع تشكيل مَرْحَبًا",
    "हिन्दी क्षत्रिय ज्ञान",
    "ไทยไม่มีช่องว่าง",
    "今天天气真好我们一起去公园散步",
    "日本語とカタカナとｶﾀｶﾅ",
    "한국어 조합형 \u{1112}\u{1161}\u{11ab}",
    "中文English混合123文本",
    "全角　空格，标点。",
    "emoji 😀😃 👍🏽 🏳️‍🌈",
    "family 👨‍👩‍👧‍👦 flag 🇩🇪🇫🇷",
    "math ∑∫∂√∞ ≠ ≤ ⊂ α→β",
    "zero\u{200b}width\u{200d}joiner\u{feff}mark",
    "non\u{a0}breaking\u{2003}em\u{3000}ideographic",
    "soft\u{ad}hyphen and \u{2028}line separator",
    "control \u{1}\u{2}\u{7f} characters",
    "nul \0 inside",
    "𝕬𝖑𝖕𝖍𝖆 𐍈 𠜎 supplementary",
    "ﬁ ﬂ ligatures ㎏ ℡",
    "a",
    "é",
    "▁ underscore ▁▁ of SentencePiece ▁a",
    "Ġ Ċ letters that stand for bytes Ã©",
    "<s> and </s> and <unk> in a text",
    "<s></s>",
    "text</s>more<s> text",
    "<0x41> <0xE4> as text",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The quick brown fox jumps over the lazy dog. The quick brown fox.",
];

/// The first tokens of every vocabulary.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// A tokenizer of one family, and how its GGUF files say so.
struct Family {
    name: &'static str,
    /// `tokenizer.ggml.pre`; "" for pieces.
    pre: &'static str,
    normalizer: Json,
    pre_tokenizer: Json,
    /// Whether a word of the vocabulary is one token, whatever its merges give.
    ignore_merges: bool,
    has_start: bool,
    /// `tokenizer.ggml.add_space_prefix`
    spaced: bool,
}

fn bytes(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex })
}

fn pattern(regex: &str) -> Json {
    let split =
        json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
}

fn digits() -> Json {
    json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, bytes(true)] })
}

fn byte_levels() -> Vec<Family> {
    let family = |name, pre, pre_tokenizer| Family {
        name,
        pre,
        normalizer: Json::Null,
        pre_tokenizer,
        ignore_merges: false,
        has_start: false,
        spaced: false,
    };
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let qwen2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let gpt4o = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let tekken = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    vec![
        family("GPT-2, OLMo", "gpt-2", bytes(true)),
        family("OLMo", "olmo", bytes(true)),
        family("SmolLM2", "smollm", digits()),
        family("Granite", "refact", digits()),
        Family { ignore_merges: true, has_start: true, ..family("Llama 3", "llama-bpe", pattern(llama3)) },
        family("OLMo 2", "dbrx", pattern(llama3)),
        family("GLM-4", "glm4", pattern(llama3)),
        Family { normalizer: json!({ "type": "NFC" }), ..family("Qwen2", "qwen2", pattern(qwen2)) },
        family("Phi-4", "gpt-4o", pattern(gpt4o)),
        Family { ignore_merges: true, has_start: true, ..family("Mistral Nemo", "tekken", pattern(tekken)) },
    ]
}

fn pieces() -> Vec<Family> {
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let prepend = json!({ "type": "Prepend", "prepend": "▁" });
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    let split = json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
    let family = |name, normalizer, pre_tokenizer, spaced| Family {
        name,
        pre: "",
        normalizer,
        pre_tokenizer,
        ignore_merges: false,
        has_start: true,
        spaced,
    };
    vec![
        family("Llama 2", json!({ "type": "Sequence", "normalizers": [prepend, replace] }), Json::Null, true),
        family("Mistral", Json::Null, metaspace, true),
        family("Gemma", replace, split, false),
    ]
}

impl Family {
    fn rules(&self) -> &str {
        if self.pre.is_empty() { self.name } else { self.pre }
    }

    /// Returns a `tokenizer.json` around a model.
    fn json(&self, model: Json, added: Json) -> Json {
        let start = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let id = model["vocab"]["<s>"].clone();
        let processor = json!({
            "type": "TemplateProcessing", "single": [start, text("A")], "pair": [start, text("A"), text("B")],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [id], "tokens": ["<s>"] } },
        });
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer, "decoder": null, "model": model,
            "post_processor": if self.has_start && !id.is_null() { processor } else { Json::Null },
        })
    }

    /// Returns the pieces that the texts have most often, and the two parts of each, the most frequent first.
    fn trained(&self) -> (Vec<String>, Vec<[String; 2]>) {
        let empty = json!({ "type": "BPE", "vocab": {}, "merges": [] });
        let text = self.json(empty, json!([])).to_string();
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(text.as_bytes()).unwrap();
        let mut trainer = BpeTrainer::builder().vocab_size(900).show_progress(false);
        if !self.pre.is_empty() {
            trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
        }
        let mut trainer: TrainerWrapper = trainer.build().into();
        // Some letters are left out, so that they are cut into bytes.
        let texts = TEXTS.iter().filter(|text| !text.contains('😀') && !text.contains('ไ'));
        tokenizer.train(&mut trainer, texts.map(|text| text.to_string())).unwrap();
        let json: Json = serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
        let mut tokens: Vec<(u64, String)> = json["model"]["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
            .collect();
        tokens.sort();
        let merges = serde_json::from_value(json["model"]["merges"].clone()).unwrap();
        (tokens.into_iter().map(|(_, token)| token).collect(), merges)
    }

    /// Returns the tokenizer of a `tokenizer.json` and that of a GGUF file with the same vocabulary.
    fn both(&self, folder: &TempDir) -> [Tokenizer; 2] {
        self.written(&folder.path().join("tokenizer.gguf"))
    }

    /// Returns both, and leaves the GGUF file of a small model, which llama.cpp opens.
    fn written(&self, path: &Path) -> [Tokenizer; 2] {
        let (trained, mut merges) = self.trained();
        let is_pieces = self.pre.is_empty();
        let mut tokens: Vec<String> = SPECIAL.map(String::from).to_vec();
        let mut kinds = vec![2, 3, 3];
        if is_pieces {
            tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
            kinds.extend([6; 256]);
        }
        tokens.extend(
            trained.into_iter().filter(|token| !SPECIAL.contains(&token.as_str()) && !token.contains('\0')),
        );
        kinds.resize(tokens.len(), 1);
        let id = |token: &str| tokens.iter().position(|other| other == token);
        merges.retain(|[a, b]| {
            [a.clone(), b.clone(), format!("{a}{b}")].iter().all(|token| id(token).is_some())
        });
        // The frequency of a piece is its score; letters come last.
        let made = |token: &String| merges.iter().position(|[a, b]| *token == format!("{a}{b}"));
        let scores: Vec<f32> =
            tokens.iter().map(|token| made(token).map_or(-1e6, |rank| -(rank as f32))).collect();
        if is_pieces {
            merges = every_pair(&tokens, &scores);
        }
        let vocabulary: serde_json::Map<String, Json> =
            tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        let model = json!({
            "type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": if is_pieces { json!("<unk>") } else { Json::Null },
            "fuse_unk": is_pieces, "byte_fallback": is_pieces, "ignore_merges": self.ignore_merges,
        });
        let special = |id: usize| {
            json!({ "id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
        };
        let json = self.json(model, json!([special(0), special(1), special(2)]));
        let texts = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
        let n_tokens = tokens.len();
        let config = common::config(json!({ "vocab_size": n_tokens, "head_dim": 16 }));
        let weights = common::random_weights(&config, Dtype::F32);
        let mut writer = Writer::of("llama", &config, &weights, GgmlDType::F32);
        writer.set("tokenizer.ggml.model", Value::String(if is_pieces { "llama" } else { "gpt2" }.into()));
        writer.set("tokenizer.ggml.pre", Value::String(if is_pieces { "default" } else { self.pre }.into()));
        writer.set("tokenizer.ggml.tokens", texts(tokens));
        writer.set("tokenizer.ggml.token_type", Value::Array(kinds.into_iter().map(Value::I32).collect()));
        writer.set("tokenizer.ggml.merges", texts(merges.iter().map(|pair| pair.join(" ")).collect()));
        writer.set("tokenizer.ggml.scores", Value::Array(scores.into_iter().map(Value::F32).collect()));
        writer.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
        writer.set("tokenizer.ggml.bos_token_id", Value::U32(1));
        writer.set("tokenizer.ggml.add_space_prefix", Value::Bool(self.spaced));
        writer.set("tokenizer.ggml.eos_token_id", Value::U32(2));
        writer.write(path);
        let of_json = Tokenizer::parse(json.to_string().as_bytes(), path, n_tokens).unwrap();
        [of_json, Gguf::open(path).unwrap().tokenizer(n_tokens).unwrap()]
    }
}

/// Returns the two parts of every piece, in every way, the piece of the best score first: so `transformers` makes
/// merges of a vocabulary of SentencePiece.
fn every_pair(tokens: &[String], scores: &[f32]) -> Vec<[String; 2]> {
    let ids: std::collections::HashMap<&str, usize> =
        tokens.iter().enumerate().skip(3 + 256).map(|(id, token)| (token.as_str(), id)).collect();
    let mut pairs = Vec::new();
    for (&token, &id) in &ids {
        for (at, _) in token.char_indices().skip(1) {
            let (a, b) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(a), ids.get(b)) {
                pairs.push((-scores[id] as u32, id, left, right, [a.to_string(), b.to_string()]));
            }
        }
    }
    pairs.sort();
    pairs.into_iter().map(|(.., pair)| pair).collect()
}

/// llama.cpp puts a space before every text, and before what follows a special token, as Llama 2's own tokenizer does.
/// Mistral's newer one puts none before a space, and none after a special token. A GGUF file follows llama.cpp.
fn differs_from_llama_cpp(text: &str) -> bool {
    text.starts_with([' ', '▁']) || ["<s>", "</s>"].iter().any(|token| text.contains(token))
}

#[test]
fn hard_texts_give_the_same_ids_from_a_folder_and_from_a_gguf_file() {
    let folder = TempDir::new().unwrap();
    for family in byte_levels().into_iter().chain(pieces()) {
        let both = family.both(&folder);
        let mut n_merged = 0;
        for text in TEXTS {
            if family.name == "Mistral" && differs_from_llama_cpp(text) {
                continue;
            }
            let [json, gguf] = both.each_ref().map(|tokenizer| tokenizer.encode(text).unwrap());
            assert_eq!(json, gguf, "{}: {text:?}", family.name);
            n_merged += usize::from(json.ids.len() < text.len());
        }
        assert!(n_merged > 40, "{}: the vocabulary has hardly a merge", family.name);
    }
}

#[test]
fn a_gguf_file_puts_spaces_where_llama_cpp_does() {
    let folder = TempDir::new().unwrap();
    let mistral = pieces().swap_remove(1);
    let both = mistral.both(&folder);
    let [json, gguf] = both.each_ref().map(|tokenizer| tokenizer.encode("a</s>a").unwrap().ids);
    assert_eq!((json.len(), gguf.len()), (4, 4));
    assert_eq!(json[..3], gguf[..3]);
    assert_eq!(gguf[3], gguf[1], "the same word at the start of a text");
    assert_ne!(json[3], json[1]);
    let [json, gguf] = both.each_ref().map(|tokenizer| tokenizer.encode(" a").unwrap().ids);
    let [plain, two] = ["a", "  a"].map(|text| both[0].encode(text).unwrap().ids);
    assert_eq!((&json, &gguf), (&plain, &two), "a space before the text, or one more");
}

/// The mark before the first word stands for nothing in the text, so a piece of the text does not begin with it.
#[test]
fn the_mark_before_the_first_word_covers_nothing() {
    let folder = TempDir::new().unwrap();
    for family in pieces() {
        for tokenizer in family.both(&folder) {
            for text in ["ไทย", "  a"] {
                let encoding = tokenizer.encode(text).unwrap();
                let n_spaces = text.len() - text.trim_start().len();
                let covered: Vec<_> = encoding.offsets.iter().filter(|range| range.1 > range.0).collect();
                assert_eq!((covered[0].0, covered.last().unwrap().1), (0, text.len()), "{}", family.name);
                let at = encoding
                    .offsets
                    .iter()
                    .position(|range| range.0 < range.1 && range.1 > n_spaces)
                    .unwrap();
                assert!(
                    encoding.offsets[..at].iter().all(|range| range.1 <= n_spaces),
                    "{:?}",
                    encoding.offsets
                );
                if n_spaces == 0 {
                    assert_eq!(at, if family.spaced { 2 } else { 1 }, "{:?}", encoding);
                }
            }
        }
    }
}

/// Other names of rules that cut words, as they are in GGUF files.
const OTHER_RULES: [&str; 11] = [
    "llama3",
    "llama-v3",
    "smaug-bpe",
    "chatglm-bpe",
    "deepseek-r1-qwen",
    "stablelm2",
    "phi-2",
    "mpt",
    "starcoder",
    "command-r",
    "codeshell",
];

/// What llama.cpp gave for the texts, by `tests/gguf/words.py`.
#[derive(Deserialize)]
struct LlamaCpp {
    /// `tokenizer.ggml.pre`, or the family's name.
    rules: String,
    /// A hash of the ids of the texts that it cuts as streamtrace does.
    same: String,
    /// The others.
    differs: Vec<Differs>,
}

#[derive(Deserialize)]
struct Differs {
    text: String,
    llama_cpp: Vec<u32>,
}

/// Returns the families and, for the names of other rules, GPT-2's vocabulary under that name.
fn with_other_rules() -> Vec<Family> {
    let other = |pre| Family { name: pre, pre, ..byte_levels().swap_remove(0) };
    let mut all: Vec<Family> = byte_levels().into_iter().chain(pieces()).collect();
    all.extend(OTHER_RULES.map(other));
    all
}

/// Writes a file for each of the rules, and beside every GGUF file in the folder the ids that it gives.
#[test]
#[ignore = "is what tests/gguf/words.py runs, which asks llama.cpp for the same"]
fn files_for_llama_cpp() {
    let folder = PathBuf::from(env::var_os("STREAMTRACE_WORDS").expect("the folder in STREAMTRACE_WORDS"));
    for family in with_other_rules() {
        family.written(&folder.join(format!("{}.gguf", family.rules())));
    }
    for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|ending| ending == "gguf") {
            let tokenizer = Model::open(&path).unwrap().tokenizer;
            let ids: Vec<Json> =
                TEXTS.iter().map(|text| json!([text, tokenizer.encode(text).unwrap().ids])).collect();
            fs::write(path.with_extension("json"), json!(ids).to_string()).unwrap();
        }
    }
}

/// `tests/gguf/words.py` asked llama.cpp; `docs/models.md` says why some ids differ.
#[test]
fn hard_texts_give_the_ids_of_llama_cpp_but_for_those_that_are_told() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokenizer.gguf");
    let all: Vec<LlamaCpp> = serde_json::from_str(include_str!("words.json")).unwrap();
    for family in with_other_rules() {
        let [_, gguf] = family.written(&path);
        let told = all.iter().find(|row| row.rules == family.rules()).expect("a row of its rules");
        let mut same = Vec::new();
        for text in TEXTS {
            let ids = gguf.encode(text).unwrap().ids;
            match told.differs.iter().find(|differs| differs.text == text) {
                Some(differs) => {
                    assert_ne!(ids, differs.llama_cpp, "{}: {text:?} differs no more", family.name)
                }
                None => same.extend(ids),
            }
        }
        let same: Vec<String> = same.iter().map(u32::to_string).collect();
        let digest = sha256(same.join(" ").as_bytes());
        assert_eq!(digest, told.same, "{}: tests/gguf/words.py says which ids differ", family.name);
    }
}

/// The patterns that cut words give up on a million blanks in a row, and would cut what follows otherwise.
#[test]
fn more_blanks_than_patterns_can_cut_are_refused() {
    let folder = TempDir::new().unwrap();
    let qwen2 = byte_levels().into_iter().find(|family| family.pre == "qwen2").unwrap();
    for tokenizer in qwen2.both(&folder) {
        let ids = |n: usize| tokenizer.encode(&format!("a{} world 12345", " ".repeat(n)));
        let [few, many] = [4, 400_000].map(|n| ids(n).unwrap().ids);
        assert_eq!(few[few.len() - 6..], many[many.len() - 6..]);
        let error = ids(500_001).unwrap_err().to_string();
        assert!(error.contains("at most 500,000 blanks in a row, found 500,002; leave some out"), "{error}");
    }
}
