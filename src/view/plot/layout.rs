//! The position of a map in its figure, and its axes.

use super::{
    canvas::{Canvas, Pen, Point, Type},
    grid::Cells,
    labels::{ticks, width},
    theme::LINE,
};
use crate::{trace::Span, words::numbers::thousands};

/// The largest number of pixels, and of cells, along a side of a map.
pub(super) const SIDE: usize = 512;
/// The largest number of tokens along a side whose texts are written on the axis.
pub(super) const MAX_TEXTS: usize = 56;
/// The largest width of a map of few tokens, and of one of its cells.
const WIDE: usize = 672;
const LARGEST: usize = 34;

/// The rectangle of a map and the tokens along its sides.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub left: i32,
    pub top: i32,
    pub width: i32,
    pub height: i32,
    pub queries: Span,
    pub keys: Span,
}

impl Frame {
    pub fn new((left, top): Point, queries: Cells, keys: Cells) -> Self {
        // A map of few rows is low, but high enough for its axis and for square cells.
        let tallest = (96 / queries.n_cells).max(20).max(if keys.n_cells <= MAX_TEXTS {
            LARGEST.min(WIDE / keys.n_cells)
        } else {
            0
        });
        Frame {
            left,
            top,
            width: side(keys.n_cells, if keys.n_cells <= MAX_TEXTS { LARGEST } else { SIDE }),
            height: side(queries.n_cells, tallest),
            queries: queries.span,
            keys: keys.span,
        }
    }

    pub fn right(&self) -> i32 {
        self.left + self.width
    }

    pub fn bottom(&self) -> i32 {
        self.top + self.height
    }

    /// Returns the horizontal position of a key, of its middle if it ends in .5.
    pub fn x(&self, key: f64) -> i32 {
        self.left + along(key, self.keys, self.width)
    }

    /// Returns the vertical position of a query, of its middle if it ends in .5.
    pub fn y(&self, query: f64) -> i32 {
        self.top + along(query, self.queries, self.height)
    }
}

/// Returns the length of a side, in pixels: a whole number of pixels per cell if cells are large.
fn side(n_cells: usize, largest_cell: usize) -> i32 {
    match WIDE / n_cells {
        cell if cell >= 12 || SIDE / n_cells >= 8 => (n_cells * cell.min(largest_cell)) as i32,
        _ => SIDE as i32,
    }
}

fn along(token: f64, span: Span, pixels: i32) -> i32 {
    let share = (token - span.start as f64) / span.len() as f64;
    (share.clamp(0.0, 1.0) * f64::from(pixels)).round() as i32
}

/// The tokens of an axis, written as numbers, or as texts if there is room.
pub(super) struct Axis<'a> {
    pub name: &'a str,
    pub span: Span,
    /// The text of each token; empty if numbers are written.
    pub texts: &'a [String],
}

impl Axis<'_> {
    /// Returns each label with its token.
    fn labels(&self) -> Vec<(usize, String)> {
        match self.texts {
            [] => ticks(self.span, 6).into_iter().map(|t| (t, thousands(t as u64))).collect(),
            texts => self.span.range().zip(texts.iter().cloned()).collect(),
        }
    }

    fn title(&self) -> String {
        let number = |token: usize| thousands(token as u64);
        match self.texts {
            [] => format!("{} token", self.name),
            [_] => format!("{} token {}", self.name, number(self.span.start)),
            _ => format!("{} tokens {} to {}", self.name, number(self.span.start), number(self.span.end - 1)),
        }
    }

    fn kind(&self) -> Type {
        if self.texts.is_empty() { Type::TEXT } else { Type::SMALL }
    }
}

/// Draws ticks, labels and title left of the map.
pub(super) fn query_axis(pen: &Pen, frame: &Frame, axis: &Axis) {
    let labels = axis.labels();
    let longest = labels.iter().map(|(_, label)| width(label)).max().unwrap_or(0);
    for (token, label) in labels {
        let y = frame.y(token as f64 + 0.5);
        pen.line((frame.left - 4, y), (frame.left, y), LINE);
        pen.text(&label, (frame.left - 7, y), axis.kind().before());
    }
    pen.text(
        &axis.title(),
        ((frame.left - 18 - longest).max(11), (frame.top + frame.bottom()) / 2),
        Type::NOTE.upwards().centered(),
    );
}

/// Draws ticks, labels and title below `top`; returns their lower edge.
pub(super) fn key_axis(canvas: &mut Canvas, frame: &Frame, top: i32, axis: &Axis) -> i32 {
    let labels = axis.labels();
    let longest = labels.iter().map(|(_, label)| width(label)).max().unwrap_or(0);
    let bottom = if axis.texts.is_empty() { top + 20 } else { top + 16 + longest * 4 / 5 };
    canvas.draw(|pen| {
        for (token, label) in &labels {
            let x = frame.x(*token as f64 + 0.5);
            pen.line((x, top), (x, top + 4), LINE);
            if axis.texts.is_empty() {
                pen.text(label, (x, top + 13), axis.kind().centered());
            }
        }
        pen.text(&axis.title(), ((frame.left + frame.right()) / 2, bottom + 8), Type::NOTE.centered());
    });
    for (token, label) in labels.iter().filter(|_| !axis.texts.is_empty()) {
        canvas.slanted(label, (frame.x(*token as f64 + 0.5) + 4, top + 12), axis.kind());
    }
    bottom + 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n_queries: usize, n_keys: usize) -> Frame {
        let cells = |n| Cells::new(Span { start: 0, end: n }, SIDE);
        Frame::new((10, 20), cells(n_queries), cells(n_keys))
    }

    #[test]
    fn cells_have_whole_pixels_when_they_are_large() {
        let f = frame(32, 60);
        assert_eq!((f.width % 60, f.height % 32), (0, 0));
        assert_eq!((frame(1 << 20, 1 << 20).width, frame(1, 1).height), (512, 96));
        assert!(frame(1, 60).height >= 96 && frame(2, 1000).height < 200);
    }

    #[test]
    fn tokens_lie_inside_the_frame() {
        let f = frame(100, 1000);
        assert_eq!((f.x(0.0), f.x(1000.0), f.y(50.0)), (10, 522, 276));
        assert_eq!((f.x(-5.0), f.x(2000.0)), (10, 522));
    }
}
