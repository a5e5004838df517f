//! How values show themselves in a notebook: evcxr's protocol on standard output, in text and in HTML or SVG.
//!
//! A type shows itself through `pub fn evcxr_display(&self)`, mostly as a `Table`. Everything that comes from a model, a
//! prompt or a file is escaped; styles stand inline and leave colours to the notebook, light or dark.

use std::{fmt, io::Write};

use crate::{
    analysis::{
        Edge, HeadRanking, RankedHead, RetrievalHead, RetrievalHeads, RouteEdge, Routes, Sentence, SentenceAttention,
        SentenceEdge, SentenceMatrix, ThoughtAnchors,
    },
    config::{Estimate, Search, StreamConfig},
    engine::{DeviceChoice, LoadOptions, Progress},
    error::Error,
    generate::{GenerateConfig, Generated},
    intervention::{Edges, Effect, Intervention, TokenEffect},
    memory::{MemoryPlan, format_bytes},
    plot::{AttentionMap, Figure, HeatMap, count, escaped, percent, thousands},
    smallest::{Criterion, SmallestTopK, Tried},
    tasks::{ChainSentence, Prompt, ReasoningPrompt, RulerConfig, SentenceKind, Task, WordProblem},
    trace::{
        AnswerFidelity, AnswerScore, AnswerToken, BlockMask, Blocks, CompareConfig, Covering, Fidelity, HeadTrace, LayerRecord,
        ModelInfo, NextToken, RowsOf, Seconds, Span, Summary, Trace,
    },
    tracer::Tracer,
};

/// Shows a value in a cell: `text` where there is nothing better, else `rich` of the given MIME type.
///
/// A cell shows one value of each MIME type, the last.
pub(crate) fn show(text: &str, mime: &str, rich: &str) {
    let mut out = std::io::stdout().lock();
    // A notebook that has gone away needs no output.
    let _ = out.write_all(message(&[("text/plain", text), (mime, rich)]).as_bytes()).and_then(|()| out.flush());
}

/// What evcxr reads between its marks; a mark inside the content loses its meaning.
fn message(contents: &[(&str, &str)]) -> String {
    let content = |(mime, content): &(&str, &str)| {
        let content = content.replace("EVCXR_", "EVCXR-");
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
        format!("{}{}", self.title, self.rows.iter().map(line).collect::<String>())
    }

    pub fn html(&self) -> String {
        const CELL: &str = "text-align:left;padding:1px 14px 1px 0;border:none;background:transparent";
        let line = |(name, value): &(String, String)| {
            let (name, value) = (escaped(name), escaped(value));
            format!("<tr><td style=\"{CELL};opacity:0.7\">{name}</td><td style=\"{CELL}\">{value}</td></tr>")
        };
        let lines: String = self.rows.iter().map(line).collect();
        format!(
            "<div><b>{}</b><table style=\"border-collapse:collapse;margin:4px 0\">{lines}</table></div>",
            escaped(&self.title)
        )
    }

    pub fn show(&self) {
        show(&self.text(), "text/html", &self.html());
    }
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

impl Describe for Trace {
    fn table(&self) -> Table {
        self.summary().table()
    }
}

impl Describe for Summary {
    fn table(&self) -> Table {
        let config = &self.config;
        let (query_blocks, key_blocks) =
            (self.n_tokens.div_ceil(config.block_size_q), self.n_tokens.div_ceil(config.block_size_k));
        let blocks =
            |n: usize, kind: &str, size: usize| format!("{} of {}", count(n, &format!("{kind} block")), count(size, "token"));
        let memory = format!("{} of {} planned", format_bytes(self.peak_memory_bytes), format_bytes(self.planned_memory_bytes));
        Table::new(format!("Trace of {}", count(self.n_tokens, "token")))
            .row("model", self.model.line())
            .row(
                "blocks",
                format!(
                    "{}, {}",
                    blocks(query_blocks, "query", config.block_size_q),
                    blocks(key_blocks, "key", config.block_size_k)
                ),
            )
            .row("kept", format!("{} a query block and head", count(config.top_k.min(key_blocks), "key block")))
            .row("pruned", format!("{} of all causal pairs", percent(self.pruned)))
            .maybe("read by the search", self.keys_read_per_query_block.map(keys_read))
            .row("key by key", format!("tokens {}", self.focus))
            .row("next token", self.next_token.line())
            .row("time", self.seconds.line())
            .row("memory", memory)
            .row("device", &self.device)
            .maybe("recall", self.fidelity.as_ref().map(Fidelity::line))
    }
}

/// What a search read, on average.
pub(crate) fn keys_read(n: f64) -> String {
    format!("{} keys or nodes of keys, for each query block and head", thousands(n.round() as u64))
}

impl Describe for ModelInfo {
    fn table(&self) -> Table {
        let windows: Vec<usize> = self.windows.iter().flatten().copied().collect();
        let window = windows.iter().max().map(|w| format!("up to {}, in {}", count(*w, "token"), count(windows.len(), "layer")));
        Table::new(self.line())
            .row("key-value heads", self.n_kv_heads)
            .row("head size", self.head_dim)
            .row("hidden size", thousands(self.hidden_size as u64))
            .row("vocabulary", thousands(self.vocab_size as u64))
            .maybe("sliding window", window)
    }
}

impl ModelInfo {
    pub(crate) fn line(&self) -> String {
        let (layers, heads) = (count(self.n_layers, "layer"), count(self.n_heads, "head"));
        format!("{} ({}, {layers} × {heads}, {} parameters)", self.name, self.architecture, millions(self.n_parameters))
    }
}

impl Describe for NextToken {
    fn table(&self) -> Table {
        Table::new("Next token")
            .row("text", format!("{:?}", self.text))
            .row("id", self.id)
            .row("probability", percent(self.logprob.exp()))
    }
}

impl NextToken {
    /// Text and probability in a line.
    pub(crate) fn line(&self) -> String {
        format!("{:?}, probability {}", self.text, percent(self.logprob.exp()))
    }
}

impl Describe for Seconds {
    fn table(&self) -> Table {
        Table::new("Time")
            .row("load", seconds(self.load))
            .row("search", seconds(self.search))
            .row("attention", seconds(self.attention))
            .row("total", seconds(self.total))
    }
}

impl Seconds {
    fn line(&self) -> String {
        let [total, load, search, attention] = [self.total, self.load, self.search, self.attention].map(seconds);
        format!("{total}: load {load}, search {search}, attention {attention}")
    }
}

impl Describe for StreamConfig {
    fn table(&self) -> Table {
        let budget = match self.pruned {
            Some(share) => format!("as many as prune {}", percent(share)),
            None => count(self.top_k, "key block"),
        };
        let focus = self
            .focus
            .clone()
            .map_or(format!("the last {}", count(Self::DEFAULT_FOCUS, "token")), |f| format!("tokens {}", Span::from(f)));
        Table::new("Stream settings")
            .row("query block", count(self.block_size_q, "token"))
            .row("key block", count(self.block_size_k, "token"))
            .row("kept", budget)
            .row("always kept", format!("first {}, last {}", self.sink_blocks, self.effective_local_blocks()))
            .row("search", format!("{:?}", self.search))
            .row("beam", self.beam)
            .row("key by key", focus)
    }
}

impl Describe for Span {
    fn table(&self) -> Table {
        Table::new(format!("Tokens {self}"))
    }
}

impl Describe for Covering {
    fn table(&self) -> Table {
        let more = |n: usize| (n > 0).then(|| count(n, "more byte"));
        self.span.table().maybe("held before the text", more(self.before)).maybe("held after the text", more(self.after))
    }
}

impl Describe for Blocks {
    fn table(&self) -> Table {
        Table::new(format!("Blocks of {}", count(self.n_tokens, "token")))
            .row("query blocks", format!("{} of {}", thousands(self.n_query_blocks() as u64), count(self.block_size_q, "token")))
            .row("key blocks", format!("{} of {}", thousands(self.n_key_blocks() as u64), count(self.block_size_k, "token")))
            .maybe("sliding window", self.window.map(|w| count(w, "token")))
    }
}

impl Describe for BlockMask {
    fn table(&self) -> Table {
        let all = self.blocks.causal_pairs() as f64 * self.n_heads as f64;
        let Table { rows, .. } = self.blocks.table();
        let mut table = Table::new(format!("Kept blocks of {}", count(self.n_heads, "head")));
        table.rows = rows;
        table
            .row("kept", format!("up to {} a query block", count(self.top_k, "key block")))
            .row("pruned", percent(1.0 - self.kept_pairs() as f64 / all))
    }
}

impl Describe for HeadTrace {
    fn table(&self) -> Table {
        let received = self.received().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let kept: usize = (0..self.blocks.n_query_blocks()).map(|q| self.row(q).count()).sum();
        let Table { rows, .. } = self.blocks.table();
        let mut table = Table::new("One head");
        table.rows = rows;
        table
            .row("kept", format!("{} blocks", thousands(kept as u64)))
            .maybe("most received", received.map(|(key, mass)| format!("key {}: {mass:.1}", thousands(key as u64))))
    }
}

impl Describe for LayerRecord {
    fn table(&self) -> Table {
        self.mask.table()
    }
}

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

show_as_figure!(ThoughtAnchors, Routes, SentenceMatrix);

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

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

/// First and last token.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end.saturating_sub(self.start) {
            0 => write!(f, "none, at {}", thousands(self.start as u64)),
            1 => write!(f, "{}", thousands(self.start as u64)),
            _ => write!(f, "{} to {}", thousands(self.start as u64), thousands(self.end as u64 - 1)),
        }
    }
}

/// "3.6 s", and "12 ms" below a tenth of a second.
fn seconds(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.0} ms", 1000.0 * seconds) } else { format!("{seconds:.1} s") }
}

/// "0.0012 nats", and a power of ten below that.
pub(crate) fn nats(kl: f64) -> String {
    if kl.abs() < 1e-3 && kl != 0.0 { format!("{kl:.1e} nats") } else { format!("{kl:.4} nats") }
}

/// "6.3 M", "8.0 B".
fn millions(number: u64) -> String {
    match number {
        0..1_000_000 => thousands(number),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.1} B", number as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::synthetic::{Shape, trace};

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
    fn columns_are_aligned() {
        let text = Table::new("T").row("a", 1).row("long", 2).text();
        assert_eq!(text, "T\n  a     1\n  long  2");
    }
}
