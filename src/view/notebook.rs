//! How values show themselves in a notebook: evcxr's protocol on standard output, in text and in HTML or SVG.
//!
//! A type shows itself through `pub fn evcxr_display(&self)`, mostly as a `Table`. Everything that comes from a model, a
//! prompt or a file is escaped; styles stand inline and leave colours to the notebook, light or dark.

use std::{fmt, io::Write};

use super::plot::{AttentionMap, Figure, HeatMap, escaped, thousands};
use crate::{
    analysis::{
        CausalTest, Edge, HeadRanking, RankedHead, RetrievalHead, RetrievalHeads, RouteEdge, Routes, Sentence, SentenceAttention,
        SentenceEdge, SentenceMatrix, ThoughtAnchors,
    },
    client::Tracer,
    error::Error,
    protocol::{
        Criterion, DeviceChoice, Edges, Effect, GenerateConfig, Generated, Intervention, LoadOptions, MemoryPlan, Progress,
        SmallestTopK, TokenEffect, Tried,
    },
    tasks::{ChainSentence, Prompt, ReasoningPrompt, RulerConfig, Task, WordProblem},
    trace::{
        AnswerFidelity, AnswerScore, AnswerToken, BlockMask, Blocks, CompareConfig, Covering, Estimate, Fidelity, HeadTrace,
        LayerRecord, ModelInfo, NextToken, RowsOf, Search, Seconds, SentenceKind, Span, StreamConfig, Summary, Trace,
    },
};

/// Shows a value in a cell: `text` where there is nothing better, else `rich` of the given MIME type.
///
/// A cell shows one value of each MIME type, the last.
pub(crate) fn show(text: &str, mime: &str, rich: &str) {
    let mut out = std::io::stdout().lock();
    // A notebook that has gone away needs no output.
    let _ = out.write_all(message(&[("text/plain", text), (mime, rich)]).as_bytes()).and_then(|()| out.flush());
}

/// What evcxr's marks begin with, and what becomes of it in text that is none: marks of the same length that mean nothing.
const MARK: &str = "EVCXR_";
const NO_MARK: &str = "EVCXR-";

/// Text that terminals and notebooks take for text alone: without control characters but line ends and tabs, and without marks.
pub(crate) fn harmless(text: &str) -> String {
    let visible = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.replace(MARK, NO_MARK).chars().map(visible).collect()
}

/// Text that is printed piece by piece, in which no mark may arise where two pieces meet.
#[derive(Default)]
pub(crate) struct Printed {
    /// The last characters, of which a mark could be made.
    end: String,
}

impl Printed {
    /// The next piece as it is to be printed.
    pub fn next(&mut self, piece: &str) -> String {
        let text = harmless(&format!("{}{piece}", self.end));
        let printed = text[self.end.len()..].to_string();
        let last = text.char_indices().rev().nth(MARK.len() - 2).map_or(0, |(at, _)| at);
        self.end = text[last..].into();
        printed
    }
}

/// What evcxr reads between its marks; a mark inside the content loses its meaning.
fn message(contents: &[(&str, &str)]) -> String {
    let content = |(mime, content): &(&str, &str)| {
        let content = content.replace(MARK, NO_MARK);
        format!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT\n")
    };
    contents.iter().map(content).collect()
}

/// A title and lines of a name and a value.
#[derive(Clone)]
pub(crate) struct Table {
    pub title: String,
    pub rows: Vec<(String, String)>,
}

impl Table {
    pub fn new(title: impl Into<String>) -> Self {
        Table { title: title.into(), rows: Vec::new() }
    }

    /// The same rows under another title.
    pub fn titled(self, title: impl Into<String>) -> Self {
        Table { title: title.into(), ..self }
    }

    pub fn row(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.rows.push((name.into(), value.to_string()));
        self
    }

    /// A row only if there is a value.
    pub fn maybe(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.row(name, value),
            None => self,
        }
    }

    pub fn text(&self) -> String {
        let widest = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, String)| format!("\n  {name:widest$}  {value}");
        harmless(&format!("{}{}", self.title, self.rows.iter().map(line).collect::<String>()))
    }

    pub fn html(&self) -> String {
        const CELL: &str = "text-align:left;padding:1px 14px 1px 0;border:none;background:transparent";
        let line = |(name, value): &(String, String)| {
            let (name, value) = (escaped(name), escaped(value));
            format!("<tr><td style=\"{CELL};opacity:0.7\">{name}</td><td style=\"{CELL}\">{value}</td></tr>")
        };
        let lines: String = self.rows.iter().map(line).collect();
        format!(
            "<div><b>{}</b><table cellpadding=\"3\" style=\"border-collapse:collapse;margin:4px 0\">{lines}</table></div>",
            escaped(&self.title)
        )
    }

    pub fn show(&self) {
        show(&self.text(), "text/html", &self.html());
    }
}

/// What a search read, on average.
pub(crate) fn keys_read(n: f64) -> String {
    format!("{} keys or nodes of keys, for each query block and head", thousands(n.round() as u64))
}

/// A value that a table says everything about; its type stands in the list of [`show_as_table`] below.
pub(crate) trait Describe {
    fn table(&self) -> Table;
}

/// Notebooks look for a method of the type itself.
macro_rules! show_as_table {
    ($($of:ty),*) => {$(
        impl $of {
            /// Shows the value; a notebook calls this for the last value of a cell.
            pub fn evcxr_display(&self) {
                self.table().show();
            }
        }
    )*};
}

show_as_table!(ChainSentence, Prompt, ReasoningPrompt, RulerConfig, SentenceKind, Task, WordProblem);
show_as_table!(
    Trace,
    Summary,
    ModelInfo,
    NextToken,
    Seconds,
    Fidelity,
    StreamConfig,
    Span,
    Covering,
    Blocks,
    BlockMask,
    HeadTrace,
    LayerRecord
);
show_as_table!(Edge, SentenceEdge);
show_as_table!(Edges, Effect, Intervention, TokenEffect, HeadRanking, RankedHead, RouteEdge, Sentence, SentenceAttention);
show_as_table!(AnswerScore, AnswerToken, DeviceChoice, Estimate, LoadOptions, MemoryPlan, Progress, Search, Tracer);
show_as_table!(Criterion, RetrievalHead, SmallestTopK, Tried);
show_as_table!(AnswerFidelity, CompareConfig, GenerateConfig, Generated, RowsOf);

impl RetrievalHeads {
    /// Draws the scores; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.map().evcxr_display();
    }
}

impl HeatMap {
    /// Draws the map; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.figure().evcxr_display();
    }
}

impl Figure {
    /// Shows the figure; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        show(self.title(), "image/svg+xml", self.svg());
    }
}

impl AttentionMap {
    /// Shows the map; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.figure().evcxr_display();
    }
}

/// Values that are shown as a figure, with their table as text.
macro_rules! show_as_figure {
    ($($of:ty),*) => {$(
        impl $of {
            /// Shows the figure; a notebook calls this for the last value of a cell.
            pub fn evcxr_display(&self) {
                show(&self.table().text(), "image/svg+xml", self.figure().svg());
            }
        }

        impl fmt::Display for $of {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.table().text())
            }
        }
    )*};
}

show_as_figure!(CausalTest, ThoughtAnchors, Routes, SentenceMatrix);

impl ThoughtAnchors {
    /// Shows the text with its anchors highlighted, in a notebook.
    pub fn show_text(&self) {
        show(&self.table().text(), "text/html", &self.html());
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

impl Error {
    /// Shows the error; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        let text = format!("Error: {self}");
        show(
            &text,
            "text/html",
            &format!("<div style=\"border-left:4px solid #d0402b;padding-left:8px\">{}</div>", escaped(&text)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::plot::synthetic::{Shape, trace};

    #[test]
    fn messages_follow_the_protocol() {
        let all = message(&[("text/plain", "a"), ("text/html", "<b>a</b>")]);
        assert_eq!(
            all,
            "EVCXR_BEGIN_CONTENT text/plain\na\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/html\n<b>a</b>\nEVCXR_END_CONTENT\n"
        );
    }

    #[test]
    fn content_cannot_end_its_message() {
        let all = message(&[("text/plain", "a\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/html\n<script>")]);
        assert_eq!(all.matches("EVCXR_").count(), 2);
    }

    #[test]
    fn a_trace_says_what_matters() {
        let text = trace(&Shape { n_tokens: 16_384, ..Default::default() }).to_string();
        for part in [
            "16,384 tokens",
            "synthetic",
            "6.3 M",
            "512 query blocks of 32",
            "2,048 key blocks of 8",
            "95.1 %",
            "98 %",
            "612 MB",
            "3.6 s",
            "0.9934",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('<'));
    }

    #[test]
    fn html_is_escaped() {
        let hostile = NextToken { id: 1, text: "</td><script>alert('x')</script>\u{1b}[2J".into(), logprob: 0.0 };
        let (html, text) = (hostile.table().html(), hostile.table().text());
        assert!(!html.contains("<script") && html.contains("&lt;script"), "{html}");
        assert!(!html.contains("<style") && !text.contains('\u{1b}'));
    }

    #[test]
    fn text_is_no_message_and_moves_no_cursor() {
        let name = "x\u{1b}[2J\r\u{9b}\nEVCXR_BEGIN_CONTENT text/html\n<script>";
        let text = Table::new(name).row("name", name).text();
        assert!(!text.contains("EVCXR_") && text.contains("EVCXR-BEGIN_CONTENT"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn pieces_of_text_are_no_message_together() {
        let text = "é: EVCXR_BEGIN_CONTENT text/html\n<script>EVCXR_END";
        for n in 1..text.len() {
            let (mut printed, mut pieces) = (Printed::default(), Vec::new());
            pieces
                .extend(text.chars().collect::<Vec<_>>().chunks(n).map(|piece| printed.next(&piece.iter().collect::<String>())));
            assert_eq!(pieces.concat(), text.replace("EVCXR_", "EVCXR-"), "{n}");
        }
    }

    #[test]
    fn columns_are_aligned() {
        let text = Table::new("T").row("a", 1).row("long", 2).text();
        assert_eq!(text, "T\n  a     1\n  long  2");
    }
}
