//! The data of a view: the text, its tokens, and the kept blocks and keys of each head, packed and compressed.

use std::io::Write;

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::{Compression, write::ZlibEncoder};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    opening::heads,
    pack::{Cell, integer, merged, pack, strongest},
};
use crate::{
    error::Error,
    trace::{HeadTrace, Span, Trace},
};

/// Of a head, at most one single key (of a token in the focus) is held per `KEYS_SHARE` blocks.
const KEYS_SHARE: usize = 5;

/// Bytes after which a piece of packed heads ends: small enough that a browser holds few of them twice.
const PIECE: usize = 1 << 20;

/// How much a view may hold.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// The size of the packed data.
    pub bytes: usize,
    /// The number of rows of all heads together; with more, neighbouring blocks are merged.
    pub rows: usize,
    /// The number of tokens at the end of the focus whose single keys are held.
    pub focus: usize,
    /// The number of bits that the masses of blocks, which have 16, are rounded by.
    pub coarse: u32,
}

impl Limit {
    /// Of a block in a notebook: a cell's output.
    pub const BLOCK: Limit = Limit { bytes: 1_740_000, rows: 400_000, focus: 32, coarse: 4 };
    /// Of a page on disk: what a browser's tab can hold. Nearly every trace fits as it is.
    pub const PAGE: Limit = Limit { bytes: 256_000_000, rows: 60_000_000, focus: usize::MAX, coarse: 0 };
}

/// How much of the kept blocks a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The share of the kept blocks, in number.
    pub blocks_shown: f64,
    /// The share of their attention.
    pub mass_shown: f64,
}

/// Cells and their masses, added up.
#[derive(Clone, Copy, Default)]
struct Sum {
    n: usize,
    mass: f64,
}

impl Sum {
    fn of(cells: &[Cell]) -> Self {
        Sum { n: cells.len(), mass: cells.iter().map(|cell| f64::from(cell.mass)).sum() }
    }

    fn add(&mut self, other: Sum) {
        self.n += other.n;
        self.mass += other.mass;
    }

    /// Returns the share that these cells are of `all`.
    fn share(self, all: Sum) -> Shown {
        let share = |part: f64, whole: f64| if part == whole { 1.0 } else { part / whole };
        Shown { blocks_shown: share(self.n as f64, all.n as f64), mass_shown: share(self.mass, all.mass) }
    }
}

/// Packed data: pieces in base64, the text and then some heads each, and the facts of each trace and its heads.
#[derive(Clone)]
pub(super) struct Packed {
    pub pieces: Vec<String>,
    pub traces: Vec<Value>,
    pub shown: Shown,
    pub merge: usize,
    pub limit: Limit,
}

/// Packs traces of one prompt within a limit: of each head the strongest blocks, as many as fit.
pub(super) fn packed<'a>(
    traces: impl Iterator<Item = &'a Trace> + Clone,
    limit: Limit,
) -> Result<Packed, Error> {
    let n_heads: usize = traces.clone().map(|trace| heads(trace).count()).sum();
    let rows = traces.clone().map(|trace| heads(trace).count() * trace.summary().blocks(0).n_query_blocks());
    let merge = rows.sum::<usize>().div_ceil(limit.rows).next_power_of_two();
    let mut cells = (limit.bytes / n_heads.max(1)).max(1);
    loop {
        let packed = attempt(traces.clone(), limit, merge, cells)?;
        let size: usize = packed.pieces.iter().map(String::len).sum();
        if size <= limit.bytes || cells == 1 {
            return Ok(packed);
        }
        cells = (cells * (limit.bytes / 100 * 95) / size).clamp(1, cells - 1);
    }
}

/// Packs at most `cells` blocks of each head.
fn attempt<'a>(
    traces: impl Iterator<Item = &'a Trace>,
    limit: Limit,
    merge: usize,
    cells: usize,
) -> Result<Packed, Error> {
    let (mut pieces, mut facts) = (Vec::new(), Vec::new());
    let (mut held, mut all) = (Sum::default(), Sum::default());
    for trace in traces {
        if pieces.is_empty() {
            pieces.push(piece(&text_and_tokens(trace)?));
        }
        let focus = held_focus(trace, limit);
        let (mut of_heads, mut bytes) = (Vec::new(), Vec::new());
        for (layer, head) in heads(trace) {
            let read = trace.head(layer, head)?;
            let blocks = block_cells(&read, merge);
            let whole = Sum::of(&blocks);
            let blocks = strongest(blocks, cells, read.blocks.n_query_blocks().div_ceil(merge));
            pack(&mut bytes, &blocks, limit.coarse);
            let keys = key_cells(trace, layer, head, focus)?;
            let keys = strongest(keys, (cells / KEYS_SHARE).max(1), focus.len());
            pack(&mut bytes, &keys, 0);
            let part = Sum::of(&blocks.cells);
            let Shown { blocks_shown, mass_shown } = part.share(whole);
            let [n, mass] = [blocks_shown, mass_shown].map(|share| (1e4 * share).floor() / 1e4);
            let [floor, of_keys] =
                [blocks.floor, keys.floor].map(|mass| (1e7 * f64::from(mass)).ceil() / 1e7);
            of_heads.push(json!([layer, head, read.blocks.window, n, mass, floor, of_keys]));
            held.add(part);
            all.add(whole);
            if bytes.len() >= PIECE {
                pieces.push(piece(&std::mem::take(&mut bytes)));
            }
        }
        if !bytes.is_empty() {
            pieces.push(piece(&bytes));
        }
        let config = &trace.summary().config;
        facts.push(json!({
            "n_heads": trace.n_heads(), "focus": [focus.start, focus.end], "heads": of_heads,
            "row": config.block_size_q * merge, "column": config.block_size_k * merge,
        }));
    }
    Ok(Packed { pieces, traces: facts, shown: held.share(all), merge, limit })
}

/// The tokens whose single keys are held.
fn held_focus(trace: &Trace, limit: Limit) -> Span {
    let focus = trace.summary().focus;
    Span { start: focus.end.saturating_sub(limit.focus).max(focus.start), end: focus.end }
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

fn key_cells(trace: &Trace, layer: usize, head: usize, focus: Span) -> Result<Vec<Cell>, Error> {
    let mut cells = Vec::new();
    for (row, token) in focus.range().enumerate() {
        let keys = trace.attention_row(layer, head, token)?;
        cells.extend(keys.into_iter().map(|(key, mass)| Cell { row: row as u32, column: key as u32, mass }));
    }
    Ok(cells)
}

/// The text, then where each token stands in it, counted as JavaScript does, in units of UTF-16: the step from
/// the start of the token before, and the length.
fn text_and_tokens(trace: &Trace) -> Result<Vec<u8>, Error> {
    let text = trace.text();
    let mut units = Vec::with_capacity(text.len() + 1);
    let mut n = 0;
    for c in text.chars() {
        units.resize(units.len() + c.len_utf8(), n);
        n += c.len_utf16() as u32;
    }
    units.push(n);
    let unit = |byte: usize| units[byte.min(text.len())];
    let mut out = text.as_bytes().to_vec();
    let mut last = 0;
    for (start, end) in trace.offsets()? {
        let start = unit(start).max(last);
        integer(&mut out, start - last);
        integer(&mut out, unit(end).saturating_sub(start));
        last = start;
    }
    Ok(out)
}

fn piece(bytes: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let deflated = encoder.write_all(bytes).and_then(|()| encoder.finish());
    BASE64_STANDARD.encode(deflated.expect("writing into memory cannot fail"))
}
