//! The attention map of one head.

use std::path::Path;

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    grid::{Cells, Grid},
    labels::{facts, recall_of, token, width},
    layout::{Axis, Frame, MAX_TEXTS, SIDE, key_axis, query_axis, received_bars},
    legend::legend,
    rulers::{Mark, rulers, space},
    theme::{BAR, LogScale, OUTSIDE, PRUNED},
};
use crate::{
    error::Error,
    trace::{HeadTrace, Span, Trace},
    words::numbers::{percent, shortened, thousands},
};

/// The picture's size limit, in bytes; axes and labels take a few more.
const MAX_PICTURE: usize = 160_000;
/// Width of the axis left of a map.
const LEFT: i32 = 84;
const HEADER: i32 = 56;

/// One head's attention: rows are queries from top to bottom, columns are keys.
///
/// The map shows the whole prompt unless [`queries`](Self::queries) and [`keys`](Self::keys) zoom in. A cell
/// shows the largest mass in it, so that strong attention stays visible. If all queries lie in the trace's
/// focus, attention is drawn key by key, otherwise block by block.
#[derive(Clone)]
pub struct AttentionMap {
    trace: Trace,
    layer: usize,
    head: usize,
    attention: HeadTrace,
    recall: Option<f64>,
    queries: Side,
    keys: Side,
    /// The attention of each query, key by key, if all queries lie in the focus.
    rows: Option<Vec<Vec<(usize, f32)>>>,
    marks: Vec<Mark>,
}

/// The tokens along one side, with their texts if they are few.
#[derive(Clone)]
struct Side {
    span: Span,
    texts: Vec<String>,
}

impl Trace {
    /// Returns the attention map of one head, which can be zoomed, marked, shown and saved.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer or head out of range, [`Error::Trace`] when the file is damaged.
    pub fn attention_map(&self, layer: usize, head: usize) -> Result<AttentionMap, Error> {
        let whole = Span { start: 0, end: self.n_tokens() };
        let map = AttentionMap {
            trace: self.clone(),
            layer,
            head,
            attention: self.head(layer, head)?,
            recall: recall_of(self, layer, head)?,
            queries: Side::new(self, "queries", whole)?,
            keys: Side::new(self, "keys", whole)?,
            rows: None,
            marks: Vec::new(),
        };
        map.queries(whole)
    }
}

impl AttentionMap {
    /// Zooms to the queries of `span`.
    ///
    /// # Errors
    /// [`Error::Missing`] for a span that is empty or ends past the prompt.
    pub fn queries(mut self, span: impl Into<Span>) -> Result<Self, Error> {
        self.queries = Side::new(&self.trace, "queries", span.into())?;
        let span = self.queries.span;
        let focus = self.trace.summary().focus;
        let recorded = focus.start <= span.start && span.end <= focus.end;
        let row = |query| self.trace.attention_row(self.layer, self.head, query);
        self.rows = recorded.then(|| span.range().map(row).collect()).transpose()?;
        Ok(self)
    }

    /// Zooms to the keys of `span`.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn keys(mut self, span: impl Into<Span>) -> Result<Self, Error> {
        self.keys = Side::new(&self.trace, "keys", span.into())?;
        Ok(self)
    }

    /// Marks a span on both axes with a label, such as a needle or a sentence.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn mark(mut self, label: &str, span: impl Into<Span>) -> Result<Self, Error> {
        let span = self.trace.checked("span of mark", span.into())?;
        self.marks.push(Mark { label: label.into(), span });
        Ok(self)
    }

    /// Draws the map.
    pub fn figure(&self) -> Figure {
        let queries = Cells::new(self.queries.span, SIDE);
        let keys = Cells::new(self.keys.span, SIDE);
        let grid = match &self.rows {
            Some(rows) => Grid::from_rows(rows, self.attention.blocks, queries, keys),
            None => Grid::from_blocks(&self.attention, queries, keys),
        };
        let scale = LogScale::covering_shares(grid.max());
        let mut picture = Bitmap::new(keys.n_cells, queries.n_cells);
        grid.paint(scale, &mut picture, (0, 0));

        let mut frame = Frame::new((LEFT, HEADER), queries, keys);
        let (above, right) = space(&frame, &self.marks);
        frame.top += above;
        let mut canvas = Canvas::default();
        canvas.picture((frame.left, frame.top), (frame.width, frame.height), &picture, MAX_PICTURE);
        let mut end = 0;
        canvas.draw(|pen| end = self.surround(pen, &frame, keys));
        let caption = self.caption(queries, keys);
        let end = self.legend(&mut canvas, (LEFT, end + 16), scale, &caption);
        let texts = (LEFT + width(&caption)).max(14 + width(&self.facts()));
        canvas.figure(((frame.right() + right).max(texts), end), &self.title(), &self.description(&grid))
    }

    /// The map as an SVG document.
    pub fn svg(&self) -> String {
        self.figure().svg().into()
    }

    /// Saves the map as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    /// Draws titles, rulers and axes around the cells; returns their lower edge.
    fn surround(&self, pen: &Pen, frame: &Frame, keys: Cells) -> i32 {
        pen.text(&self.title(), (14, 20), Type::TITLE);
        pen.text(&self.facts(), (14, 39), Type::NOTE);
        rulers(pen, frame, &self.marks);
        query_axis(pen, frame, &self.queries.axis("query"));
        let bars = received_bars(pen, frame, keys, self.attention.received());
        key_axis(pen, frame, bars, &self.keys.axis("key"))
    }

    fn legend(&self, canvas: &mut Canvas, corner: Point, scale: LogScale, caption: &str) -> i32 {
        let states = [
            ("pruned", PRUNED),
            (self.outside(), OUTSIDE),
            ("received by a key, summed over all queries", BAR),
        ];
        legend(canvas, corner, scale, caption, &states)
    }

    fn title(&self) -> String {
        let model = shortened(&self.trace.summary().model.name, 24);
        format!("{model} · layer {} · head {}", self.layer, self.head)
    }

    fn facts(&self) -> String {
        let summary = self.trace.summary();
        facts(summary, self.attention.top_k(), self.attention.pruned(), self.recall)
    }

    /// Says what the colours measure, and how many tokens a cell covers.
    fn caption(&self, queries: Cells, keys: Cells) -> String {
        let measure = match self.rows {
            Some(_) => "Attention of a query token on a key token",
            None => "Attention mass on a key block, mean over a query block",
        };
        let rows = queries.tokens_per_cell();
        let columns = keys.tokens_per_cell();
        if rows == 1 && columns == 1 {
            return measure.into();
        }
        format!("{measure}; largest of {} × {} tokens", thousands(rows as u64), thousands(columns as u64))
    }

    /// Says which keys no query sees.
    fn outside(&self) -> &'static str {
        match self.attention.blocks.window {
            Some(_) => "after the query, or before its window",
            None => "after the query",
        }
    }

    /// Describes the map in words.
    fn description(&self, grid: &Grid) -> String {
        let tokens =
            |span: Span| format!("{} to {}", thousands(span.start as u64), thousands(span.end as u64 - 1));
        let strongest = grid.strongest().map_or("Nothing is kept.".into(), |(row, column, mass)| {
            let queries = tokens(grid.queries.tokens(row).into());
            let keys = tokens(grid.keys.tokens(column).into());
            format!("The strongest cell holds {}: queries {queries}, keys {keys}.", percent(mass.into()))
        });
        format!(
            "Rows are query tokens {}, columns key tokens {}. {}. {strongest}",
            tokens(self.queries.span),
            tokens(self.keys.span),
            self.facts()
        )
    }
}

impl Side {
    fn new(trace: &Trace, what: &str, span: Span) -> Result<Self, Error> {
        let span = trace.checked(&format!("span of {what}"), span)?;
        let text = |t: usize| Ok(token(trace.span_text(t..t + 1)?));
        let texts = if span.len() <= MAX_TEXTS {
            span.range().map(text).collect::<Result<_, Error>>()?
        } else {
            Vec::new()
        };
        Ok(Side { span, texts })
    }

    fn axis<'a>(&'a self, name: &'a str) -> Axis<'a> {
        Axis { name, span: self.span, texts: &self.texts }
    }
}

impl HeadTrace {
    /// The share of causal (query, key) pairs that was pruned.
    fn pruned(&self) -> f64 {
        let pairs = |query_block| {
            self.row(query_block)
                .map(move |(key_block, _)| self.blocks.pairs(query_block, key_block) as u64)
                .sum::<u64>()
        };
        let kept: u64 = (0..self.blocks.n_query_blocks()).map(pairs).sum();
        1.0 - kept as f64 / self.blocks.causal_pairs() as f64
    }
}

#[cfg(test)]
mod tests;
