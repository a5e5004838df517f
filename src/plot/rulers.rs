//! Rulers beside a map that name spans of the prompt: sentences, needles.

use plotters::style::RGBColor;

use super::{
    canvas::{Pen, Type},
    labels::{shortened, width},
    layout::Frame,
    theme::{LINE, MARKS},
};
use crate::trace::Span;

/// Most characters of a label.
const MAX_LABEL: usize = 22;
/// Rows of labels above a map.
const MAX_LANES: usize = 3;
const LANE: i32 = 14;
/// Thickness of a ruler and its distance from the map.
const RULER: i32 = 6;
const GAP: i32 = 3;
/// Lines across the map are drawn for a few marks only.
const MAX_GUIDED: usize = 6;

/// A named span, in its colour.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub label: String,
    pub span: Span,
}

/// Space that rulers and labels take: above the map, and right of it.
pub(super) fn space(marks: &[Mark], queries: Span, keys: Span) -> (i32, i32) {
    let labels = |axis| visible(marks, axis).map(|(m, _)| width(&shortened(&m.label, MAX_LABEL))).max();
    let lanes = visible(marks, keys).count().min(MAX_LANES) as i32;
    let above = if lanes > 0 { lanes * LANE + RULER + GAP + 2 } else { 0 };
    let right = labels(queries).map_or(24, |label| (GAP + RULER + 16 + label).max(24));
    (above, right)
}

/// Draws both rulers, with faint lines across the map.
pub(super) fn rulers(pen: &Pen, frame: &Frame, marks: &[Mark]) {
    let guided = marks.len() <= MAX_GUIDED;
    let mut lanes = [i32::MIN; MAX_LANES];
    let n_lanes = visible(marks, frame.keys).count().min(MAX_LANES);
    for (mark, color) in visible(marks, frame.keys) {
        let (from, to) = stretch(frame.x(mark.span.start as f64), frame.x(mark.span.end as f64), frame.right());
        let top = frame.top - GAP - RULER;
        pen.fill((from, top), (to, top + RULER), color);
        if guided {
            [from, to].map(|x| pen.faint_line((x, frame.top), (x, frame.bottom()), color));
        }
        key_label(pen, frame, mark, (from + to) / 2, color, &mut lanes[..n_lanes]);
    }
    query_ruler(pen, frame, marks, guided);
}

/// Writes a label above the ruler, in the lowest lane with room for it, or not at all.
fn key_label(pen: &Pen, frame: &Frame, mark: &Mark, middle: i32, color: RGBColor, lanes: &mut [i32]) {
    let label = shortened(&mark.label, MAX_LABEL);
    let half = width(&label) / 2;
    let middle = middle.clamp(frame.left.min(frame.right() - half), (frame.right() - half).max(frame.left));
    let Some(lane) = lanes.iter().position(|&taken| middle - half > taken) else { return };
    lanes[lane] = middle + half + 4;
    let y = frame.top - GAP - RULER - 8 - LANE * lane as i32;
    pen.text(&label, (middle, y), Type::TEXT.colored(color).centered());
}

/// The ruler right of the map; labels that would collide move down, tied to their mark by a line.
fn query_ruler(pen: &Pen, frame: &Frame, marks: &[Mark], guided: bool) {
    let left = frame.right() + GAP;
    let mut free = frame.top;
    for (mark, color) in visible(marks, frame.queries) {
        let (from, to) = stretch(frame.y(mark.span.start as f64), frame.y(mark.span.end as f64), frame.bottom());
        pen.fill((left, from), (left + RULER, to), color);
        if guided {
            [from, to].map(|y| pen.faint_line((frame.left, y), (frame.right(), y), color));
        }
        let middle = (from + to) / 2;
        let y = middle.max(free);
        if y <= frame.bottom() + 4 {
            pen.line((left + RULER, middle), (left + RULER + 9, y), LINE);
            pen.text(&shortened(&mark.label, MAX_LABEL), (left + RULER + 12, y), Type::TEXT.colored(color));
            free = y + 13;
        }
    }
}

/// Marks that share tokens with an axis, each with the colour of its place among all marks, in the order of the prompt.
fn visible(marks: &[Mark], axis: Span) -> impl Iterator<Item = (&Mark, RGBColor)> {
    let mut marks: Vec<_> = marks.iter().zip(MARKS.into_iter().cycle()).collect();
    marks.sort_by_key(|(mark, _)| (mark.span.start, mark.span.end));
    marks.into_iter().filter(move |(mark, _)| mark.span.start < axis.end && mark.span.end > axis.start)
}

/// A bar of at least three pixels that ends inside its axis.
fn stretch(from: i32, to: i32, end: i32) -> (i32, i32) {
    let from = from.min(end - 3);
    (from, to.max(from + 3))
}
