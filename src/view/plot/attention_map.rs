//! The map of one head: what each query looked at.

use std::path::Path;

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    grid::{Cells, Grid},
    labels::{facts, token, width},
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

/// Most bytes of the picture in a figure; axes and labels take a few more.
const MAX_PICTURE: usize = 160_000;
/// Room for the axis left of a map.
const LEFT: i32 = 84;
const HEADER: i32 = 56;

/// One head's attention: rows are queries from top to bottom, columns are keys.
///
/// The whole prompt unless [`queries`](Self::queries) and [`keys`](Self::keys) zoom in. A cell shows the largest mass
/// in it, so that nothing strong vanishes. Queries inside the trace's focus are drawn key by key, others block by block.
#[derive(Clone)]
pub struct AttentionMap {
    trace: Trace,
    layer: usize,
    head: usize,
    attention: HeadTrace,
    queries: Side,
    keys: Side,
    /// Key by key, when all queries lie in the focus.
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
    /// A map of what one head attends to, ready to be zoomed, marked, shown or saved.
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
            queries: Side::new(self, "queries", whole)?,
            keys: Side::new(self, "keys", whole)?,
            rows: None,
            marks: Vec::new(),
        };
        map.queries(whole)
    }
}

impl AttentionMap {
    /// Zooms to some queries.
    ///
    /// # Errors
    /// [`Error::Missing`] for a span that is empty or ends past the prompt.
    pub fn queries(mut self, span: impl Into<Span>) -> Result<Self, Error> {
        self.queries = Side::new(&self.trace, "queries", span.into())?;
        let (span, focus) = (self.queries.span, self.trace.summary().focus);
        self.rows = match focus.start <= span.start && span.end <= focus.end {
            true => Some(
                span.range()
                    .map(|query| self.trace.attention_row(self.layer, self.head, query))
                    .collect::<Result<_, _>>()?,
            ),
            false => None,
        };
        Ok(self)
    }

    /// Zooms to some keys.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn keys(mut self, span: impl Into<Span>) -> Result<Self, Error> {
        self.keys = Side::new(&self.trace, "keys", span.into())?;
        Ok(self)
    }

    /// Names a span on both axes: a needle, a sentence.
    ///
    /// # Errors
    /// As [`queries`](Self::queries).
    pub fn mark(mut self, label: &str, span: impl Into<Span>) -> Result<Self, Error> {
        let span = checked(&self.trace, "mark", span.into())?;
        self.marks.push(Mark { label: label.into(), span });
        Ok(self)
    }

    /// Draws the map.
    pub fn figure(&self) -> Figure {
        let (queries, keys) = (Cells::new(self.queries.span, SIDE), Cells::new(self.keys.span, SIDE));
        let grid = match &self.rows {
            Some(rows) => Grid::of_rows(rows, self.attention.blocks, queries, keys),
            None => Grid::of_blocks(&self.attention, queries, keys),
        };
        let scale = LogScale::of_shares(grid.max());
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

    /// Draws everything around the cells; returns where it ends.
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
        let recall =
            summary.fidelity.as_ref().and_then(|f| f.recall_by_head.get(self.layer)?.get(self.head).copied());
        facts(summary, self.attention.pruned(), recall)
    }

    /// What the colours measure, and over how much.
    fn caption(&self, queries: Cells, keys: Cells) -> String {
        let measure = match self.rows {
            Some(_) => "Attention of a query token on a key token",
            None => "Attention mass on a key block, mean over a query block",
        };
        let (rows, columns) = (queries.tokens_per_cell(), keys.tokens_per_cell());
        match (rows, columns) {
            (1, 1) => measure.into(),
            _ => format!(
                "{measure}; largest of {} × {} tokens",
                thousands(rows as u64),
                thousands(columns as u64)
            ),
        }
    }

    fn outside(&self) -> &'static str {
        match self.attention.blocks.window {
            Some(_) => "after the query, or before its window",
            None => "after the query",
        }
    }

    /// The picture in words.
    fn description(&self, grid: &Grid) -> String {
        let tokens =
            |span: Span| format!("{} to {}", thousands(span.start as u64), thousands(span.end as u64 - 1));
        let strongest = grid.strongest().map_or("Nothing is kept.".into(), |(row, column, mass)| {
            let (queries, keys) = (grid.queries.tokens(row).into(), grid.keys.tokens(column).into());
            format!(
                "The strongest cell holds {}: queries {}, keys {}.",
                percent(mass.into()),
                tokens(queries),
                tokens(keys)
            )
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
        let span = checked(trace, what, span)?;
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

/// A span that holds at least one token of the prompt.
fn checked(trace: &Trace, what: &str, span: Span) -> Result<Span, Error> {
    if span.start < span.end && span.end <= trace.n_tokens() {
        return Ok(span);
    }
    Err(Error::missing(
        format!("span of {what}"),
        format!("{}..{}", span.start, span.end),
        format!("the prompt has tokens 0..{}, and a span at least one of them", trace.n_tokens()),
    ))
}

impl HeadTrace {
    /// 1 − (query, key) pairs kept / causal pairs.
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
mod tests {
    use plotters::style::RGBColor;

    use super::*;
    use crate::{
        trace::synthetic::{Shape, trace, trace_of},
        view::plot::{bitmap::tests::decode, theme::kept_color},
    };

    fn long() -> Trace {
        trace(&Shape { n_tokens: 16_384, n_layers: 1, n_heads: 4, top_k: 100, ..Default::default() })
    }

    fn rgb(RGBColor(r, g, b): RGBColor) -> [u8; 3] {
        [r, g, b]
    }

    #[test]
    fn the_needle_is_darker_than_its_surroundings() {
        let (width, _, cells) = decode(long().attention_map(0, 3).unwrap().figure().svg());
        let darkness = |row: usize, column: usize| {
            765 - cells[row * width + column].iter().map(|&c| u32::from(c)).sum::<u32>()
        };
        let needle = 16_384 / 8 / 10 * 8 / 32;
        for row in 465..512 {
            assert!(
                darkness(row, needle) > 300 && darkness(row, needle) > darkness(row, needle + 5) + 100,
                "row {row}"
            );
        }
    }

    #[test]
    fn three_states_have_three_colours() {
        let (_, _, cells) = decode(long().attention_map(0, 0).unwrap().figure().svg());
        let has = |color| cells.contains(&color);
        assert!(has(rgb(PRUNED)) && has(rgb(OUTSIDE)));
        assert!(cells.iter().any(|&c| c != rgb(PRUNED) && c != rgb(OUTSIDE)));
        assert!(rgb(kept_color(0.0)) != rgb(PRUNED) && rgb(PRUNED) != rgb(OUTSIDE));
    }

    #[test]
    fn every_geometry_is_drawn_small_and_without_styles() {
        for (n_tokens, block_size_q, block_size_k, window) in [
            (1, 32, 8, None),
            (7, 1, 1, None),
            (8, 8, 8, None),
            (157, 16, 32, Some(20)),
            (4001, 32, 8, Some(512)),
            (1 << 17, 64, 64, None),
        ] {
            let top_k = if n_tokens > 5000 { 3 } else { 40 };
            let shape = Shape {
                n_tokens,
                block_size_q,
                block_size_k,
                window,
                top_k,
                n_layers: 1,
                n_heads: 2,
                ..Default::default()
            };
            let map = trace(&shape).attention_map(0, 1).unwrap();
            let svg = map.svg();
            assert!(svg.len() < 200_000 && !svg.contains("<style") && !svg.contains("style="), "{n_tokens}");
            assert!(
                svg.starts_with("<svg")
                    && svg.contains("role=\"img\"")
                    && svg.contains("</title>")
                    && svg.contains("</desc>")
            );
            assert_eq!(svg, map.svg(), "the same map, the same figure");
        }
    }

    #[test]
    fn noise_in_every_cell_stays_under_the_limit() {
        let shape = Shape { n_tokens: 8192, n_layers: 1, n_heads: 1, top_k: 1000, ..Default::default() };
        let map = trace(&shape).attention_map(0, 0).unwrap();
        assert!(map.svg().len() < 200_000);
        let marked =
            (0..200).try_fold(map, |map, i| map.mark(&format!("sentence {i}"), i * 40..i * 40 + 36)).unwrap();
        assert!(marked.svg().len() < 200_000, "{}", marked.svg().len());
    }

    #[test]
    fn zoomed_rows_are_single_tokens_with_their_text() {
        let map =
            long().attention_map(0, 3).unwrap().queries(16_370..16_384).unwrap().keys(1630..1650).unwrap();
        let svg = map.svg();
        assert!(
            svg.contains("·river")
                && svg.contains("key tokens 1,630 to 1,649")
                && svg.contains("query token on a key token")
        );
        let (width, height, cells) = decode(&svg);
        assert_eq!((width % 20, height % 14), (0, 0));
        // The needle's block is tokens 1632 to 1639; its first key holds the most.
        let cell = |key: usize| cells[key * (width / 20)];
        assert_eq!(cell(0), rgb(PRUNED));
        assert!(
            cell(2).iter().map(|&c| u32::from(c)).sum::<u32>() < cell(5).iter().map(|&c| u32::from(c)).sum()
        );
    }

    #[test]
    fn hostile_text_is_escaped() {
        let words = ["</svg><script>", "\u{0}\u{1b}", "\u{ffff}", "\"'&", "]]>"].map(String::from);
        let shape = Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() };
        let map = trace_of(&shape, &words).attention_map(0, 0).unwrap().mark("<b>\u{7}", 1..3).unwrap();
        let svg = map.svg();
        assert!(!svg.contains("<script") && !svg.contains("<b>") && svg.contains("&lt;/svg&gt;"));
        assert!(svg.chars().all(|c| c == '\n' || (c >= ' ' && c != '\u{ffff}')));
        assert_eq!((svg.matches("<svg").count(), svg.matches("</svg>").count()), (1, 1));
    }

    #[test]
    fn what_does_not_exist_is_refused_early() {
        let trace = trace(&Shape::default());
        for error in [trace.attention_map(2, 0).err(), trace.attention_map(0, 2).err()] {
            assert!(matches!(error, Some(Error::Missing { .. })));
        }
        let map = trace.attention_map(0, 0).unwrap();
        for span in [
            Span { start: 0, end: 2001 },
            Span { start: 5, end: 5 },
            Span { start: 9, end: 3 },
            Span { start: 3000, end: usize::MAX },
        ] {
            let errors = [
                map.clone().queries(span).err(),
                map.clone().keys(span).err(),
                map.clone().mark("m", span).err(),
            ];
            assert!(errors.iter().all(|e| matches!(e, Some(Error::Missing { .. }))), "{span:?}");
        }
    }
}
