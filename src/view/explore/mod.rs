//! A trace to look into with mouse or keyboard: all heads, one head's map, its blocks, its tokens with their text. One block of
//! HTML with its own script, for a notebook's cell, a report or a page; nothing is fetched.

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

const SCRIPT: &str = include_str!("explore.js");
const STYLE: &str = include_str!("explore.css");

/// Bytes that masks and text may take in the block, if leaving out weak blocks can do it.
const MAX_BYTES: usize = 1_800_000;
/// Rows of all heads together; with more of them neighbouring blocks are merged.
const MAX_ROWS: usize = 400_000;
/// Of the cells that are kept of a head, one to so many is a single key of a token in the focus.
const KEYS_SHARE: usize = 5;
/// Tokens at the end of the focus whose keys are held one by one.
const MAX_FOCUS: usize = 32;

/// A trace as a block of HTML that answers mouse and keyboard.
#[derive(Clone)]
pub struct Explore {
    title: String,
    facts: String,
    notes: String,
    summary: String,
    masks: String,
}

/// How a trace is made small.
#[derive(Clone, Copy)]
struct Budget {
    /// Neighbouring blocks merged into one, along each side.
    merge: usize,
    /// Cells held of a head.
    cells: usize,
}

impl Trace {
    /// The trace to look into: an overview of all heads, each head's map, and the text under the cursor.
    ///
    /// A block of at most 1.9 MB for prompts of up to 32k tokens: of each head the blocks with the most attention, as many as
    /// fit; what is left out is said below the map. In a notebook it is shown as it is; [`Explore::save`] makes a page of it,
    /// [`Report::explore`] a part of a report.
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

    /// Text, tokens and masks as the page reads them; what it is told of each head; the share of the kept blocks that it gets.
    fn packed(&self, budget: Budget) -> Result<(Vec<u8>, Vec<Value>, f64), Error> {
        let mut out = self.text().as_bytes().to_vec();
        let mut last = 0;
        for (start, end) in self.offsets()? {
            let start = start.max(last);
            integer(&mut out, (start - last) as u32);
            integer(&mut out, end.saturating_sub(start) as u32);
            last = start;
        }
        let (mut heads, mut all, mut held) = (Vec::new(), 0, 0);
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
                let window = read.blocks.window;
                heads.push(json!({
                    "layer": layer, "head": head, "window": window, "block_floor": block_floor, "key_floor": key_floor,
                }));
            }
        }
        Ok((out, heads, held as f64 / all.max(1) as f64))
    }

    /// The tokens whose keys are held one by one.
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

/// A head's kept blocks, `merge` along each side taken for one.
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
        let (title, facts) = (summary.model.name.clone(), overview_facts(trace));
        let notes = notes(trace, budget, shown);
        let focus = trace.held_focus();
        let summary = json!({
            "title": title, "facts": facts, "notes": notes, "n_tokens": trace.n_tokens(), "n_heads": trace.n_heads(),
            "n_text": trace.text().len(), "row": summary.config.block_size_q * budget.merge,
            "column": summary.config.block_size_k * budget.merge, "focus": [focus.start, focus.end], "heads": heads,
        });
        Explore { title, facts, notes, summary: summary.to_string(), masks }
    }

    /// The block: an element with its style, data and script.
    pub fn html(&self) -> String {
        self.html_with("")
    }

    /// The block, its script with the word that a page's policy asks of scripts.
    pub(crate) fn html_with(&self, nonce: &str) -> String {
        let Explore { title, facts, notes, summary, masks } = self;
        let (title, facts, notes, summary) =
            (escaped(title), escaped(facts), escaped(notes), escaped(summary));
        let nonce = if nonce.is_empty() { String::new() } else { format!(" nonce=\"{nonce}\"") };
        format!(
            "<style>\n{STYLE}</style>\n\
             <div class=\"streamtrace-explore\" data-summary=\"{summary}\" data-masks=\"{masks}\">\
             <p><b>{title}</b> · {facts}</p><p>To look into the trace, let this page run its script: in a notebook, trust it or \
             run the cell again. {notes}</p></div>\n<script{nonce}>\n{SCRIPT}</script>\n"
        )
    }

    /// Writes a page, `x.html`, with the block alone.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be written, [`Error::Setting`] for another ending.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        ending(path, "an explored trace", &["html"])?;
        let nonce = nonce(self.html());
        let page = document(&self.title, &self.html_with(&nonce), &nonce);
        save(path, |file| file.write_all(page.as_bytes()))
    }

    /// Shows the block; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        show(&format!("{} · {}", self.title, self.facts), "text/html", &self.html());
    }
}

/// What the block holds, and what not.
fn notes(trace: &Trace, Budget { merge, .. }: Budget, shown: f64) -> String {
    let focus = count(trace.held_focus().len(), "token");
    let merged = if merge > 1 { format!(", {merge} × {merge} taken for one") } else { String::new() };
    match shown < 1.0 {
        true => format!(
            "This view holds {} of the kept blocks, of each head those with the most attention{merged}, and single keys of the \
             last {focus} of the focus. The trace has them all.",
            percent(shown)
        ),
        false => format!(
            "This view holds all kept blocks{merged}, and single keys of the last {focus} of the focus."
        ),
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
        assert!(part.notes.contains("2 × 2 taken for one"), "{}", part.notes);
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
