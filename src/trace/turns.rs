//! The turns of a chat, as special tokens mark them in a prompt, and the chain of thought among them.

use std::ops::Range;

use super::{Span, Trace};
use crate::error::Error;

impl Trace {
    /// Returns the tokens of the chain of thought: the last turn of the model that says anything, or what it
    /// thinks there, from `<think>` to `</think>`; `None` in a prompt without a turn of the model and without a
    /// thought.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn chain(&self) -> Result<Option<Span>, Error> {
        let Some(bytes) = chain(self.text()) else { return Ok(None) };
        let offsets = self.offsets()?;
        let first_from = |byte: usize| offsets.partition_point(|offset| offset.0 < byte);
        let span = Span::from(first_from(bytes.start)..first_from(bytes.end));
        Ok((!span.is_empty()).then_some(span))
    }
}

/// Special tokens that are not written like `<|im_start|>`.
const SPECIAL: [&str; 16] = [
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
];

/// Words that name who speaks, or to whom, right after a special token.
const ROLES: [&str; 11] = [
    "system",
    "developer",
    "user",
    "assistant",
    "model",
    "tool",
    "function",
    "ipython",
    "analysis",
    "commentary",
    "final",
];

/// The largest number of bytes between the bars of a special token.
const LONGEST: usize = 40;

/// Returns the bytes of each divider, in order: special tokens that follow each other, with the names of roles
/// and the line ends after them, such as `<|im_end|>\n<|im_start|>assistant\n`.
pub(super) fn dividers(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find(['<', '[']).map(|next| at + next) {
        let Some(len) = special(&text[start..]) else {
            at = start + 1;
            continue;
        };
        at = with_role(text, start + len);
        match found.last_mut() {
            Some(last) if text[last.end..start].trim().is_empty() => last.end = at,
            _ => found.push(start..at),
        }
    }
    found
}

/// Returns the length of the special token that a text begins with.
fn special(text: &str) -> Option<usize> {
    let named = SPECIAL.iter().find(|token| text.starts_with(*token)).map(|token| token.len());
    named.or_else(|| [("<|", "|>"), ("<｜", "｜>")].into_iter().find_map(|bars| between(text, bars)))
}

/// Returns the length of a special token with a name between bars.
fn between(text: &str, (open, close): (&str, &str)) -> Option<usize> {
    let name = text.strip_prefix(open)?;
    let end = name.find(|c: char| c.is_whitespace() || c == '<' || c == '>')?;
    let name = name.get(..=end)?.strip_suffix(close)?;
    (1..=LONGEST).contains(&name.len()).then_some(open.len() + name.len() + close.len())
}

/// Returns the end of what belongs to a special token that ends at a byte: a role's name, and line ends.
fn with_role(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    let name = rest.find(|c: char| !c.is_ascii_alphabetic()).map_or(rest, |n| &rest[..n]);
    let stands_alone =
        rest[name.len()..].chars().next().is_none_or(|next| next == '\n' || next == '\r' || next == '<');
    let end = end + if ROLES.contains(&name) && stands_alone { name.len() } else { 0 };
    let space = text[end..].len() - text[end..].trim_start().len();
    end + text[end..end + space].rfind('\n').map_or(0, |last| last + 1)
}

/// Returns whether a text is a divider and nothing else.
pub(crate) fn is_divider(text: &str) -> bool {
    matches!(&dividers(text)[..], [one] if one.start == 0 && text[one.end..].trim().is_empty())
}

/// A stretch of text between two dividers.
struct Section {
    bytes: Range<usize>,
    /// The turn's number, and whether the model speaks in it.
    turn: usize,
    is_models: bool,
    is_thought: bool,
}

/// Returns the bytes of the chain of thought, see [`Trace::chain`].
pub(super) fn chain(text: &str) -> Option<Range<usize>> {
    let sections = sections(text);
    let last_turn = sections.iter().rfind(|section| section.is_models).map(|section| section.turn);
    let of_turn = |section: &&Section| last_turn.is_none_or(|turn| section.turn == turn);
    let thought = sections.iter().filter(of_turn).rfind(|section| section.is_thought);
    let chain = thought.or_else(|| sections.iter().rfind(|section| section.is_models))?;
    Some(chain.bytes.clone())
}

/// Returns the sections of a text that are not blank.
fn sections(text: &str) -> Vec<Section> {
    let dividers = dividers(text);
    let name = |i: usize| dividers.get(i).map_or("", |bytes| &text[bytes.clone()]);
    let (mut turn, mut is_models) = (0, false);
    let first = Section {
        bytes: 0..dividers.first().map_or(text.len(), |d| d.start),
        turn,
        is_models,
        is_thought: closes(name(0)),
    };
    let section = |i: usize| {
        if let Some(models) = speaker(name(i)) {
            (turn, is_models) = (turn + 1, models);
        }
        let bytes = dividers[i].end..dividers.get(i + 1).map_or(text.len(), |next| next.start);
        Section { bytes, turn, is_models, is_thought: opens(name(i)) || closes(name(i + 1)) }
    };
    let rest: Vec<Section> = (0..dividers.len()).map(section).collect();
    let is_blank = |section: &Section| text[section.bytes.clone()].trim().is_empty();
    [first].into_iter().chain(rest).filter(|section| !is_blank(section)).collect()
}

/// Returns whether a divider leads to what the model says; `None` for one inside a turn.
fn speaker(divider: &str) -> Option<bool> {
    let plain = ["<think>", "</think>", "[THINK]", "[/THINK]"]
        .iter()
        .fold(divider.to_string(), |d, t| d.replace(t, ""));
    let lower = plain.trim().to_lowercase();
    let is_models = lower.contains("assistant") || lower.ends_with(">model") || lower.ends_with("[/inst]");
    (!lower.is_empty()).then_some(is_models)
}

/// Returns whether a thought begins after a divider.
fn opens(divider: &str) -> bool {
    [("<think>", "</think>"), ("[THINK]", "[/THINK]")]
        .iter()
        .any(|(open, close)| divider.rfind(open).is_some_and(|at| !divider[at..].contains(close)))
}

/// Returns whether a thought ends before a divider.
fn closes(divider: &str) -> bool {
    divider.starts_with("</think>") || divider.starts_with("[/THINK]")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN: &str = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n\
                        <|im_start|>assistant\nI count them. Six.<|im_end|>\n";

    fn chain_of(text: &str) -> Option<&str> {
        chain(text).map(|bytes| text[bytes].trim())
    }

    #[test]
    fn a_divider_is_the_special_tokens_with_the_role_after_them() {
        let found: Vec<&str> = dividers(QWEN).into_iter().map(|bytes| &QWEN[bytes]).collect();
        let between = |role: &str| format!("<|im_end|>\n<|im_start|>{role}\n");
        assert_eq!(found, ["<|im_start|>system\n", &between("user"), &between("assistant"), "<|im_end|>\n"]);
        for text in [
            "<bos><start_of_turn>model\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|start|>assistant<|channel|>analysis<|message|>",
            "<｜Assistant｜><think>\n",
            "</s> [INST] ",
        ] {
            assert!(is_divider(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_special_token_divides_nothing() {
        for text in [
            "a <b and c> d",
            "x[0] < |y|",
            "<|two words|>",
            "<||>",
            "<|never closed",
            "<thinking>",
            "",
            &format!("<|{}|>", "long".repeat(20)),
        ] {
            assert_eq!((dividers(text), chain(text)), (vec![], None), "{text}");
        }
        // A word that is no role, or goes on, belongs to the text.
        let text = "<s>Users say\n<s>user guide";
        assert_eq!(dividers(text), [0..3, 13..16]);
        assert!(!is_divider("<|im_start|>user\nHow many?") && !is_divider("How many?"));
    }

    #[test]
    fn the_chain_is_the_models_last_turn() {
        assert_eq!(chain_of(QWEN), Some("I count them. Six."));
        assert_eq!(
            chain_of(&format!("{QWEN}<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")),
            Some("I count them. Six.")
        );
        assert_eq!(
            chain_of("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello you"),
            Some("Hello you")
        );
        assert_eq!(chain_of("<s>[INST] Hi [/INST] Hello you</s>"), Some("Hello you"));
        assert_eq!(chain_of("<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"), None);
    }

    #[test]
    fn a_thought_is_the_chain_where_there_is_one() {
        assert_eq!(
            chain_of("<｜User｜>Hi<｜Assistant｜><think>\nWell, hello.\n</think>\n\nHello!"),
            Some("Well, hello.")
        );
        assert_eq!(chain_of("Well, hello.\n</think>\n\nHello!"), Some("Well, hello."));
        assert_eq!(chain_of("A question. <think>\nStill thinking"), Some("Still thinking"));
        // A thought that is empty, or of an earlier turn, is none.
        assert_eq!(
            chain_of("<|im_start|>assistant\n<think>\n\n</think>\n\nHello!<|im_end|>"),
            Some("Hello!")
        );
        let two = "<|im_start|>assistant\n<think>\nOld\n</think>\nYes<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n\
                   <|im_start|>assistant\nNo";
        assert_eq!(chain_of(two), Some("No"));
    }
}
