//! An interactive view of a trace, with mouse or keyboard: all heads, one head's map, its blocks, its tokens
//! with their text. It is one block of HTML with its own script, for a notebook's cell, a report or a page,
//! and fetches nothing.

mod pack;

use std::{io::Write, path::Path};

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::{Compression, write::ZlibEncoder};
use serde_json::{Value, json};

use super::plot::overview_facts;
use crate::{
    atomic_file::{ending, save},
    error::Error,
    trace::{HeadTrace, Trace},
    words::{
        html::{document, nonce},
        numbers::{count, percent},
        safe::escaped,
        table::show,
    },
};
use pack::{Cell, integer, merged, pack, strongest};

/// The script of the block, in a scope of its own.
const SCRIPT: &str =
    concat!("(() => {\n\"use strict\";\n", include_str!("cells.js"), include_str!("view.js"), "})();\n");
const STYLE: &str = include_str!("explore.css");

/// The size limit of masks and text in the block, in bytes; weak blocks are left out to stay below it.
const MAX_BYTES: usize = 1_800_000;
/// The largest number of rows of all heads together; with more, neighbouring blocks are merged.
const MAX_ROWS: usize = 400_000;
/// Of a head, at most one single key (of a token in the focus) is held per `KEYS_SHARE` blocks.
const KEYS_SHARE: usize = 5;
/// The number of tokens at the end of the focus whose single keys are held.
const MAX_FOCUS: usize = 32;

/// An interactive view of a trace, as a block of HTML.
#[derive(Clone)]
pub struct Explore {
    title: String,
    facts: String,
    notes: String,
    summary: String,
    masks: String,
}

/// Limits on what the block holds of a trace.
#[derive(Clone, Copy)]
struct Budget {
    /// The number of neighbouring blocks merged into one, along each side.
    merge: usize,
    /// The number of cells held of a head.
    cells: usize,
}

impl Trace {
    /// Makes an interactive view of the trace: an overview of all heads, each head's map, and the text under
    /// the cursor.
    ///
    /// The view has at most 1.9 MB for prompts of up to 32k tokens. It holds the blocks with the most
    /// attention of each head, as many as fit, and says below the map how many. A notebook shows it;
    /// [`Explore::save`] writes it as a page, and [`Report::explore`](crate::Report::explore) adds it to a
    /// report.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn explore(&self) -> Result<Explore, Error> {
        let n_heads = self.layers().len() * self.n_heads();
        let rows = n_heads * self.summary().blocks(0).n_query_blocks();
        let merge = rows.div_ceil(MAX_ROWS).next_power_of_two();
        let mut budget = Budget { merge, cells: (MAX_BYTES / n_heads).max(1) };
        loop {
            let (masks, heads, shown) = self.packed(budget)?;
            let masks = BASE64_STANDARD.encode(deflated(&masks));
            if masks.len() <= MAX_BYTES || budget.cells == 1 {
                return Ok(Explore::new(self, budget, masks, heads, shown));
            }
            let cells = budget.cells * (MAX_BYTES * 95 / 100) / masks.len();
            budget.cells = cells.clamp(1, budget.cells - 1);
        }
    }

    /// Packs text, tokens and masks as the script reads them. Returns them with the facts of each head and
    /// the share of the kept blocks that they hold.
    fn packed(&self, budget: Budget) -> Result<(Vec<u8>, Vec<Value>, f64), Error> {
        let mut out = self.text().as_bytes().to_vec();
        pack_tokens(&mut out, self.offsets()?);
        let mut heads = Vec::new();
        let mut all = 0;
        let mut held = 0;
        for &layer in self.layers() {
            for head in 0..self.n_heads() {
                let read = self.head(layer, head)?;
                let blocks = block_cells(&read, budget.merge);
                all += blocks.len();
                let (blocks, block_floor) = strongest(blocks, budget.cells);
                held += blocks.len();
                pack(&mut out, &blocks, read.blocks.n_query_blocks().div_ceil(budget.merge));
                let (keys, key_floor) =
                    strongest(self.key_cells(layer, head)?, (budget.cells / KEYS_SHARE).max(1));
                pack(&mut out, &keys, self.held_focus().len());
                heads.push(json!({
                    "layer": layer, "head": head, "window": read.blocks.window,
                    "block_floor": block_floor, "key_floor": key_floor,
                }));
            }
        }
        Ok((out, heads, held as f64 / all.max(1) as f64))
    }

    /// The tokens whose single keys are held.
    fn held_focus(&self) -> std::ops::Range<usize> {
        let focus = self.summary().focus;
        focus.end.saturating_sub(MAX_FOCUS).max(focus.start)..focus.end
    }

    fn key_cells(&self, layer: usize, head: usize) -> Result<Vec<Cell>, Error> {
        let mut cells = Vec::new();
        for (row, token) in self.held_focus().enumerate() {
            let keys = self.attention_row(layer, head, token)?;
            cells.extend(keys.into_iter().map(|(key, mass)| Cell {
                row: row as u32,
                column: key as u32,
                mass,
            }));
        }
        Ok(cells)
    }
}

/// Appends each token's bytes in the text: the step from the start of the token before, and the length.
fn pack_tokens(out: &mut Vec<u8>, offsets: impl IntoIterator<Item = (usize, usize)>) {
    let mut last = 0;
    for (start, end) in offsets {
        let start = start.max(last);
        integer(out, (start - last) as u32);
        integer(out, end.saturating_sub(start) as u32);
        last = start;
    }
}

/// Returns a head's kept blocks, with `merge` × `merge` blocks merged into one.
fn block_cells(head: &HeadTrace, merge: usize) -> Vec<Cell> {
    let row = |query_block: usize| {
        head.row(query_block).map(move |(key_block, mass)| Cell {
            row: (query_block / merge) as u32,
            column: (key_block / merge) as u32,
            mass,
        })
    };
    merged((0..head.blocks.n_query_blocks()).flat_map(row).collect())
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing into memory cannot fail")
}

impl Explore {
    fn new(trace: &Trace, budget: Budget, masks: String, heads: Vec<Value>, shown: f64) -> Self {
        let summary = trace.summary();
        let title = summary.model.name.clone();
        let facts = overview_facts(trace);
        let notes = notes(trace, budget, shown);
        let focus = trace.held_focus();
        let summary = json!({
            "title": title, "facts": facts, "notes": notes,
            "n_tokens": trace.n_tokens(), "n_heads": trace.n_heads(), "n_text": trace.text().len(),
            "row": summary.config.block_size_q * budget.merge,
            "column": summary.config.block_size_k * budget.merge,
            "focus": [focus.start, focus.end], "heads": heads,
        });
        Explore { title, facts, notes, summary: summary.to_string(), masks }
    }

    /// The block: an element with its style, data and script.
    pub fn html(&self) -> String {
        self.html_with("")
    }

    /// The block, its script with the nonce that a page's policy asks for.
    pub(crate) fn html_with(&self, nonce: &str) -> String {
        let Explore { title, facts, notes, summary, masks } = self;
        let [title, facts, notes, summary] = [title, facts, notes, summary].map(|text| escaped(text));
        let nonce = if nonce.is_empty() { String::new() } else { format!(" nonce=\"{nonce}\"") };
        format!(
            "<style>\n{STYLE}</style>\n\
             <div class=\"streamtrace-explore\" data-summary=\"{summary}\" data-masks=\"{masks}\">\
             <p><b>{title}</b> · {facts}</p><p>To explore the trace, let this page run its script: in a \
             notebook, trust the notebook or run the cell again. {notes}</p></div>\n\
             <script{nonce}>\n{SCRIPT}</script>\n"
        )
    }

    /// Writes the block as a page, `x.html`.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be written, [`Error::Setting`] for another ending.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        ending(path, "an explored trace", &["html"])?;
        let nonce = nonce(self.html());
        let body = format!("<section>\n{}</section>\n", self.html_with(&nonce));
        let page = document(&self.title, &body, &nonce);
        save(path, |file| file.write_all(page.as_bytes()))
    }

    /// Shows the block; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        show(&format!("{} · {}", self.title, self.facts), "text/html", &self.html());
    }
}

/// Says which part of the trace the block holds.
fn notes(trace: &Trace, Budget { merge, .. }: Budget, shown: f64) -> String {
    let focus = count(trace.held_focus().len(), "token");
    let merged = if merge > 1 { format!(", {merge} × {merge} merged into one") } else { String::new() };
    if shown < 1.0 {
        format!(
            "This view holds {} of the kept blocks, of each head those with the most attention{merged}, and \
             single keys of the last {focus} of the focus. The trace has them all.",
            percent(shown)
        )
    } else {
        format!("This view holds all kept blocks{merged}, and single keys of the last {focus} of the focus.")
    }
}

#[cfg(test)]
mod tests {
    use crate::trace::synthetic::{Shape, trace, trace_of_words};

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
    fn what_is_left_out_is_said() {
        let whole = trace(&Shape::default()).explore().unwrap();
        assert!(
            whole.notes.contains("all kept blocks") && whole.summary.contains("\"block_floor\":0.0"),
            "{}",
            whole.notes
        );
        let shape = Shape {
            n_layers: 32,
            n_heads: 32,
            n_tokens: 4096,
            block_size_q: 8,
            top_k: 4,
            ..Default::default()
        };
        let part = trace(&shape).explore().unwrap();
        assert!(part.notes.contains("2 × 2 merged into one"), "{}", part.notes);
        assert!(part.summary.contains("\"row\":16") && part.summary.contains("\"column\":16"));
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
