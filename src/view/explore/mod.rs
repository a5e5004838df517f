//! An interactive view of a trace, with mouse or keyboard: the prompt as text, shaded by what a token looks at, all
//! heads, one head's map or two side by side. It is one block of HTML with its own script, for a notebook's cell,
//! a report or a page, and fetches nothing.

mod data;
mod opening;
mod pack;

use std::{collections::BTreeSet, io::Write, path::Path};

use serde_json::{Value, json};

use super::plot::overview_facts;
use crate::{
    atomic_file::{ending, save},
    error::Error,
    trace::Trace,
    words::{
        html::{document, nonce},
        numbers::{count, percent, thousands},
        safe::escaped,
        table::show,
    },
};
pub use data::Shown;
use data::{Limit, Packed, packed};
use opening::{Opening, opening};

/// The script of the block, in a scope of its own.
const SCRIPT: &str = concat!(
    "(() => {\n\"use strict\";\n",
    include_str!("data.js"),
    include_str!("cells.js"),
    include_str!("colors.js"),
    include_str!("words.js"),
    include_str!("map.js"),
    include_str!("gestures.js"),
    include_str!("heads.js"),
    include_str!("reading.js"),
    include_str!("search.js"),
    include_str!("share.js"),
    include_str!("shell.js"),
    include_str!("view.js"),
    "})();\n"
);
const STYLE: &str = include_str!("explore.css");
/// The number of the prompt's last tokens that stand before what the model wrote.
const N_LAST: usize = 6;

/// An interactive view of a trace, as a block of HTML.
#[derive(Clone)]
pub struct Explore {
    traces: Vec<Named>,
    sinks: Vec<usize>,
    opening: Opening,
    block: Packed,
}

/// A trace, and what commands call its file.
#[derive(Clone)]
struct Named {
    trace: Trace,
    name: String,
}

impl Trace {
    /// Makes an interactive view of the trace: the prompt, shaded by what a token looks at or is looked at by, an
    /// overview of all heads, and each head's map.
    ///
    /// It opens on the last query and on the head with its largest attention on one key, sinks and the always
    /// kept first and last blocks left out.
    ///
    /// A notebook shows the view as a block of at most 1.9 MB for prompts of up to 32k tokens: of each head the
    /// strongest blocks, as many as fit, and above the heads how many these are. [`Explore::save`] writes a page
    /// with all kept blocks, and [`Report::explore`](crate::Report::explore) adds the block to a report.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn explore(&self) -> Result<Explore, Error> {
        Explore::of(vec![Named { trace: self.clone(), name: "x.trace".into() }])
    }
}

impl Explore {
    fn of(traces: Vec<Named>) -> Result<Self, Error> {
        let trace = &traces[0].trace;
        let sinks: BTreeSet<usize> =
            trace.sinks(0..trace.n_tokens())?.iter().map(|sink| sink.token).collect();
        let sinks: Vec<usize> = sinks.into_iter().collect();
        let opening = opening(trace, &sinks)?;
        let block = packed(traces.iter().map(|named| &named.trace), Limit::BLOCK)?;
        Ok(Explore { traces, sinks, opening, block })
    }

    /// Shows a second trace of the same prompt beside the first, such as one with another search or model.
    ///
    /// # Errors
    /// [`Error::Setting`] for a trace of another prompt or of other tokens, [`Error::Trace`] when a file is
    /// damaged.
    pub fn against(&self, other: &Trace) -> Result<Self, Error> {
        let first = &self.traces[0];
        check_same_prompt(&first.trace, other)?;
        Explore::of(vec![first.clone(), Named { trace: other.clone(), name: "y.trace".into() }])
    }

    /// Names the files of the traces, for the commands that a page offers to copy.
    pub fn files<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.traces.iter_mut().zip(names).for_each(|(named, name)| named.name = name.into());
        self
    }

    /// The block: an element with its style, data and script.
    pub fn html(&self) -> String {
        self.html_with("")
    }

    /// The block, its script with the nonce that a page's policy asks for.
    pub(crate) fn html_with(&self, nonce: &str) -> String {
        self.filled(&self.block, nonce)
    }

    /// Writes a page, `x.html`, with all kept blocks. Returns how many these are: all, as long as a browser can
    /// hold them (256 MB in the page).
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be written, [`Error::Setting`] for another ending, [`Error::Trace`]
    /// when a trace's file is damaged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Shown, Error> {
        let path = path.as_ref();
        ending(path, "an explored trace", &["html"])?;
        let data = packed(self.traces.iter().map(|named| &named.trace), Limit::PAGE)?;
        let nonce = nonce((self.summary(&data), &data.pieces));
        let body = format!("<section class=\"explore-page\">\n{}</section>\n", self.filled(&data, &nonce));
        let page = document(&title(&self.traces), &body, &nonce);
        save(path, |file| file.write_all(page.as_bytes()))?;
        Ok(data.shown)
    }

    /// The block around packed data.
    fn filled(&self, data: &Packed, nonce: &str) -> String {
        let [summary, notes] = [self.summary(data), notes(data)].map(|text| escaped(&text));
        let nonce = if nonce.is_empty() { String::new() } else { format!(" nonce=\"{nonce}\"") };
        let piece = |piece| format!("<data value=\"{piece}\"></data>");
        let pieces: String = data.pieces.iter().map(piece).collect();
        format!(
            "<style>\n{STYLE}</style>\n\
             <div class=\"streamtrace-explore\" data-summary=\"{summary}\">{pieces}\
             <p>To explore the trace, let this page run its script: in a \
             notebook, trust the notebook or run the cell again. {notes}</p></div>\n\
             <script{nonce}>\n{SCRIPT}</script>\n"
        )
    }

    /// What the script reads beside the packed pieces, in JSON.
    fn summary(&self, data: &Packed) -> String {
        let trace = &self.traces[0].trace;
        let Opening { head, query, key } = self.opening;
        let traces =
            data.traces.iter().zip(&self.traces).map(|(facts, named)| described(facts.clone(), named));
        json!({
            "title": title(&self.traces), "notes": notes(data),
            "n_tokens": trace.n_tokens(), "n_text": trace.text().len(), "sinks": self.sinks,
            "opening": [head, query, key], "traces": traces.collect::<Vec<Value>>(),
        })
        .to_string()
    }

    /// Shows the block; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        let facts = overview_facts(&self.traces[0].trace);
        show(&format!("{} · {facts}", title(&self.traces)), "text/html", &self.html());
    }
}

/// Adds to the facts of a trace its file's name, what was run and what the model wrote.
fn described(mut facts: Value, named: &Named) -> Value {
    let (trace, summary) = (&named.trace, named.trace.summary());
    let next = &summary.next_token;
    facts["name"] = named.name.as_str().into();
    facts["facts"] = format!("{} · {}", summary.model.name, overview_facts(trace)).into();
    facts["next"] = json!([next.text, percent(next.logprob.exp().min(0.999_99))]);
    facts["last"] = trace.n_tokens().saturating_sub(N_LAST).into();
    facts
}

fn title(traces: &[Named]) -> String {
    let trace = &traces[0].trace;
    let tokens = count(trace.n_tokens(), "token");
    match traces.get(1) {
        None => format!("What {} read in {tokens}", trace.summary().model.name),
        Some(other) => format!("{} against {}: what they read in {tokens}", traces[0].name, other.name),
    }
}

/// Says which part of the kept blocks the view holds.
fn notes(data: &Packed) -> String {
    let Packed { shown, merge, limit, .. } = data;
    let merged = match merge {
        1 => String::new(),
        n => format!(" {n} × {n} blocks are merged into one."),
    };
    if shown.blocks_shown >= 1.0 {
        return format!("Shows all kept blocks.{merged}");
    }
    let rest = match limit.focus {
        usize::MAX => "The trace has them all.",
        _ => "A saved page shows all.",
    };
    format!(
        "Shows the strongest {} of kept blocks ({} of the attention). {rest}{merged}",
        percent(shown.blocks_shown),
        percent(shown.mass_shown)
    )
}

/// Fails unless both traces are of the same text in the same tokens.
fn check_same_prompt(trace: &Trace, other: &Trace) -> Result<(), Error> {
    let (own, others) = (trace.tokens()?, other.tokens()?);
    if own == others && trace.text() == other.text() {
        return Ok(());
    }
    let first = own.iter().zip(&others).take_while(|(a, b)| a == b).count();
    let n = |trace: &Trace| thousands(trace.n_tokens() as u64);
    Err(Error::setting(
        "trace to explore against another",
        format!("the same prompt of {} tokens", n(trace)),
        format!("{} tokens, of which the first {} are the same", n(other), thousands(first as u64)),
        "trace one prompt twice, with one tokenizer",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace, trace_of_words};

    fn page(explore: &Explore) -> (Shown, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.html");
        (explore.save(&path).unwrap(), std::fs::metadata(&path).unwrap().len() as usize)
    }

    #[test]
    fn a_block_of_any_trace_is_small() {
        for (n_layers, n_heads, n_tokens, top_k) in [(1, 1, 1, 1), (6, 8, 32_768, 96), (32, 32, 4096, 16)] {
            let shape = Shape { n_layers, n_heads, n_tokens, top_k, ..Default::default() };
            let html = trace(&shape).explore().unwrap().html();
            assert!(
                html.len() < 2_000_000,
                "{} bytes for {n_layers} × {n_heads}, {n_tokens} tokens",
                html.len()
            );
        }
    }

    #[test]
    fn a_page_holds_all_that_was_kept() {
        let shape = Shape { n_layers: 3, n_heads: 16, n_tokens: 32_768, top_k: 96, ..Default::default() };
        let explore = trace(&shape).explore().unwrap();
        assert!(notes(&explore.block).starts_with("Shows the strongest"), "{}", notes(&explore.block));
        let (shown, size) = page(&explore);
        assert_eq!(shown, Shown { blocks_shown: 1.0, mass_shown: 1.0 });
        assert!((5_000_000..40_000_000).contains(&size), "{size}");
    }

    #[test]
    fn what_is_left_out_is_said() {
        let whole = trace(&Shape::default()).explore().unwrap();
        assert_eq!(notes(&whole.block), "Shows all kept blocks.");
        assert!(whole.summary(&whole.block).contains("[0,0,null,1.0,1.0,0.0,0.0]"));
        let shape = Shape {
            n_layers: 32,
            n_heads: 32,
            n_tokens: 4096,
            block_size_q: 8,
            top_k: 4,
            ..Default::default()
        };
        let part = trace(&shape).explore().unwrap();
        assert!(notes(&part.block).contains("2 × 2 blocks are merged into one"), "{}", notes(&part.block));
        let summary = part.summary(&part.block);
        assert!(summary.contains("\"row\":16") && summary.contains("\"column\":16"));
    }

    #[test]
    fn two_traces_are_of_one_prompt() {
        let shape = Shape::default();
        let explore = trace(&shape).explore().unwrap();
        let both = explore.against(&trace(&Shape { top_k: 8, ..shape })).unwrap().files(["a", "b"]);
        assert!(both.summary(&both.block).contains("\"name\":\"b\""));
        let error = explore.against(&trace(&Shape { n_tokens: 1999, ..Shape::default() })).err().unwrap();
        assert!(error.to_string().contains("1,999 tokens, of which the first 1,999 are the same"), "{error}");
    }

    #[test]
    fn hostile_text_is_data() {
        let words =
            ["</div><script>alert(1)</script>", "\u{0}", "\"'&", "\"><img src=x>", "EVCXR_END_CONTENT"]
                .map(String::from);
        let shape = Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() };
        let html = trace_of_words(&shape, &words).explore().unwrap().html();
        assert_eq!(
            (html.matches("<script").count(), html.matches("<img").count(), html.matches("</div>").count()),
            (1, 0, 1)
        );
    }
}
