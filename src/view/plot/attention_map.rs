//! The attention map of one head.

use std::path::Path;

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    grid::{Cell, Cells, Grid},
    labels::{facts, recall_of, title_width, token, width},
    last_row::LastRow,
    layout::{Axis, Frame, MAX_TEXTS, SIDE, key_axis, query_axis},
    legend::{Swatch, legend},
    rulers::{Mark, rulers, space},
    theme::{LogScale, MARKS, ink_on},
};
use crate::{
    error::Error,
    trace::{HeadTrace, Span, Trace},
    words::{
        letters::shortened,
        numbers::{head_name, percent, thousands},
    },
};

/// The picture's size limit, in bytes; axes and labels take a few more.
const MAX_PICTURE: usize = 160_000;
/// Width of the axis left of a map.
const LEFT: i32 = 98;
const HEADER: i32 = 60;
/// The smallest cell with room for its number, and the least share of attention that is written.
const NUMBERED: (i32, i32) = (18, 15);
const WRITTEN: f32 = 0.095;
/// The least share of attention that is told under the mouse.
const TOLD: f32 = 0.005;
/// Keys so near a query are its own surroundings.
const NEAR: usize = 64;

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
    /// The row of the last token, if it was recorded.
    last_row: Option<LastRow>,
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
            last_row: self.last_row(layer, head)?,
            marks: Vec::new(),
        };
        map.queries(whole)
    }

    fn last_row(&self, layer: usize, head: usize) -> Result<Option<LastRow>, Error> {
        let last = self.output();
        if !self.summary().focus.range().contains(&last.start) {
            return Ok(None);
        }
        let text = |key: usize| self.span_text(key..key + 1).unwrap_or_default().to_string();
        Ok(Some(LastRow::new(self.attention_row(layer, head, last.start)?, text)))
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
        let title = self.title(&grid);
        let mut end = frame.bottom();
        canvas.draw(|pen| {
            pen.text(&title, (14, 22), Type::TITLE);
            pen.text(&self.facts(), (14, 42), Type::NOTE);
            end = self.surround(pen, &frame);
        });
        self.numbers(&mut canvas, &frame, &grid, scale);
        let said = self.output_row(&mut canvas, &frame);
        let end = key_axis(&mut canvas, &frame, end, &self.keys.axis("key"));
        let caption = self.caption(queries, keys);
        let end = self.legend(&mut canvas, (LEFT, end + 16), scale, &caption);
        let texts = [
            LEFT + width(&caption),
            14 + width(&self.facts()),
            14 + title_width(&title),
            frame.right() + said,
        ];
        let right = texts.into_iter().fold(frame.right() + right, i32::max);
        canvas.figure((right + 8, end), &title, &self.description(&grid))
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

    /// Draws rulers, the axis of queries, and below a whole map its last row; returns the lower edge.
    fn surround(&self, pen: &Pen, frame: &Frame) -> i32 {
        rulers(pen, frame, &self.marks);
        query_axis(pen, frame, &self.queries.axis("query"));
        let is_whole = self.rows.is_none() && self.queries.span.end == self.trace.n_tokens();
        let row = self.last_row.as_ref().filter(|_| is_whole);
        row.map_or(frame.bottom(), |row| row.draw(pen, frame))
    }

    /// Writes strong attention into the cells of single tokens, and tells all of it under the mouse.
    fn numbers(&self, canvas: &mut Canvas, frame: &Frame, grid: &Grid, scale: LogScale) {
        if self.rows.is_none() || self.queries.texts.is_empty() || self.keys.texts.is_empty() {
            return;
        }
        let cells =
            (0..grid.queries.n_cells).flat_map(|row| (0..grid.keys.n_cells).map(move |column| (row, column)));
        for (row, column) in cells {
            let Cell::Kept(share) = grid.cell(row, column) else { continue };
            if share < TOLD {
                continue;
            }
            let (query, key) = (self.queries.span.start + row, self.keys.span.start + column);
            let corner = (frame.x(key as f64), frame.y(query as f64));
            let opposite = (frame.x(key as f64 + 1.0), frame.y(query as f64 + 1.0));
            let room = (opposite.0 - corner.0, opposite.1 - corner.1);
            if share >= WRITTEN && room.0 >= NUMBERED.0 && room.1 >= NUMBERED.1 {
                let at = ((corner.0 + opposite.0) / 2, (corner.1 + opposite.1) / 2);
                let kind = Type::SMALL.centered().colored(ink_on(scale.level(share)));
                canvas.draw(|pen| pen.text(&format!("{:.0}", 100.0 * share), at, kind));
            }
            let hint = format!(
                "{} reads {}: {}",
                self.queries.name(query),
                self.keys.name(key),
                percent(share.into())
            );
            canvas.hint(corner, opposite, &hint);
        }
    }

    /// Frames the last token's row in a map of single tokens, and says what the model wrote after it; returns
    /// the width of what is said.
    fn output_row(&self, canvas: &mut Canvas, frame: &Frame) -> i32 {
        let last = self.trace.output().start;
        if self.rows.is_none() || self.queries.texts.is_empty() || self.queries.span.end != last + 1 {
            return 0;
        }
        let next = &self.trace.summary().next_token;
        let said = format!("writes “{}”, {}", token(&next.text), percent(next.logprob.exp()));
        let (top, bottom) = (frame.y(last as f64), frame.bottom());
        canvas.draw(|pen| {
            pen.frame((frame.left - 1, top - 1), (frame.right() + 1, bottom), MARKS[0]);
            pen.frame((frame.left, top), (frame.right(), bottom - 1), MARKS[0]);
            pen.text(&said, (frame.right() + 14, (top + bottom) / 2), Type::TEXT.bold().colored(MARKS[0]));
        });
        14 + width(&said) * 11 / 10
    }

    fn legend(&self, canvas: &mut Canvas, corner: Point, scale: LogScale, caption: &str) -> i32 {
        let states = [("pruned: never computed", Swatch::Hatch), (self.outside(), Swatch::Paper)];
        legend(canvas, corner, scale, caption, &states)
    }

    /// Says what the head looks at most, far from the query and from the prompt's first keys.
    fn title(&self, grid: &Grid) -> String {
        let head = head_name(self.layer, self.head);
        let first = self.attention.blocks.block_size_k;
        let far = |row: usize, column: usize| {
            let (queries, keys) = (grid.queries.tokens(row), grid.keys.tokens(column));
            keys.start >= first && keys.end + NEAR <= queries.start
        };
        // What the last token read goes before all else.
        let last = |row: usize, column: usize| {
            grid.queries.tokens(row).contains(&self.trace.output().start) && far(row, column)
        };
        let of_last =
            grid.strongest_of(last).filter(|(_, _, share)| self.rows.is_some() && *share >= WRITTEN);
        let Some((row, column, share)) = of_last.or(grid.strongest_of(far)).or(grid.strongest()) else {
            return format!("{head} keeps nothing here");
        };
        let (queries, keys) = (grid.queries.tokens(row), grid.keys.tokens(column));
        let share = percent(share.into());
        if self.rows.is_some() && queries.len() == 1 && keys.len() == 1 {
            let text = |at: usize| token(self.trace.span_text(at..at + 1).unwrap_or_default());
            let number = |at: usize| thousands(at as u64);
            let (query, key) = (queries.start, keys.start);
            return format!(
                "{head}: “{}” at {} reads “{}” at {}, {share}",
                text(query),
                number(query),
                text(key),
                number(key)
            );
        }
        format!("{head}: tokens {} look back to tokens {}, {share}", Span::from(queries), Span::from(keys))
    }

    fn facts(&self) -> String {
        let summary = self.trace.summary();
        let facts = facts(summary, self.attention.top_k(), self.attention.pruned(), self.recall);
        format!("{}, layer {}, head {} · {facts}", shortened(&summary.model.name, 24), self.layer, self.head)
    }

    /// Says what the colours measure, and how many tokens a cell covers.
    fn caption(&self, queries: Cells, keys: Cells) -> String {
        let measure = match self.rows {
            Some(_) => "Attention of a query token on a key token, numbers in percent",
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

    /// Returns the text and the number of a token, whose texts are there.
    fn name(&self, at: usize) -> String {
        format!("“{}” at {}", self.texts[at - self.span.start], thousands(at as u64))
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
