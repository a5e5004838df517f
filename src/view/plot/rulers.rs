//! Rulers beside a map that name spans of the prompt: sentences, needles.

use plotters::style::RGBColor;

use super::{
    canvas::{Pen, Type},
    labels::width,
    layout::Frame,
    theme::{LINE, MARKS},
};
use crate::{trace::Span, words::numbers::shortened};

/// Most characters of a label.
const MAX_LABEL: usize = 22;
/// Rows of labels above a map.
const MAX_LANES: usize = 3;
const LANE: i32 = 14;
/// Thickness of a ruler and its distance from the map.
const RULER: i32 = 6;
const GAP: i32 = 3;
/// Pixels that a label may move away from its mark.
const MAX_SHIFT: i32 = 14;
/// Lines across the map are drawn for a few marks only.
const MAX_GUIDED: usize = 6;

/// A named span, in its colour.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub label: String,
    pub span: Span,
}

/// Space that rulers and labels take: above the map, and right of it.
pub(super) fn space(frame: &Frame, marks: &[Mark]) -> (i32, i32) {
    let lanes = lanes(frame, marks).into_iter().flatten().max();
    let above = lanes.map_or(0, |lane| (lane as i32 + 1) * LANE + RULER + GAP - 2);
    let labels = visible(marks, frame.queries).map(|(m, _)| width(&shortened(&m.label, MAX_LABEL))).max();
    (above, labels.map_or(24, |label| (GAP + RULER + 16 + label).max(24)))
}

/// Draws the rulers: keys above and below the map, queries right of it.
pub(super) fn rulers(pen: &Pen, frame: &Frame, marks: &[Mark]) {
    let guided = marks.len() <= MAX_GUIDED;
    key_ruler(pen, frame, marks, guided);
    query_ruler(pen, frame, marks, guided);
}

fn key_ruler(pen: &Pen, frame: &Frame, marks: &[Mark], guided: bool) {
    let top = frame.top - GAP - RULER;
    for ((mark, color), lane) in visible(marks, frame.keys).zip(lanes(frame, marks)) {
        let (from, to) = key_stretch(frame, mark);
        pen.fill((from, top), (to, top + RULER), color);
        pen.fill((from, frame.bottom() + 2), (to, frame.bottom() + 5), color);
        if guided {
            // Only where no query sees the key: a guide leads to the cells and covers none.
            let x = (from + to) / 2;
            pen.faint_line((x, frame.top), (x, frame.y(mark.span.start as f64)), color);
        }
        if let Some(lane) = lane {
            let (middle, label) = key_label(frame, mark);
            pen.text(&label, (middle, top - 8 - LANE * lane as i32), Type::TEXT.colored(color).centered());
        }
    }
}

/// For each visible mark the lane of its label, the lowest with room for it; none when all are taken.
fn lanes(frame: &Frame, marks: &[Mark]) -> Vec<Option<usize>> {
    let mut taken = [i32::MIN; MAX_LANES];
    let lane = |(mark, _): (&Mark, RGBColor)| {
        let (middle, label) = key_label(frame, mark);
        let half = width(&label) / 2;
        let lane = taken.iter().position(|&end| middle - half > end)?;
        taken[lane] = middle + half + 4;
        Some(lane)
    };
    visible(marks, frame.keys).map(lane).collect()
}

/// Where a label above the map is centred, and what it says.
fn key_label(frame: &Frame, mark: &Mark) -> (i32, String) {
    let label = shortened(&mark.label, MAX_LABEL);
    let (from, to) = key_stretch(frame, mark);
    let half = width(&label) / 2;
    (((from + to) / 2).min(frame.right() + 24 - half).max(half), label)
}

fn key_stretch(frame: &Frame, mark: &Mark) -> (i32, i32) {
    stretch(frame.x(mark.span.start as f64), frame.x(mark.span.end as f64), frame.right())
}

/// The ruler right of the map; labels that would collide move down a little, tied to their mark by a line, or go.
fn query_ruler(pen: &Pen, frame: &Frame, marks: &[Mark], guided: bool) {
    let left = frame.right() + GAP;
    let mut free = frame.top;
    for (mark, color) in visible(marks, frame.queries) {
        let (from, to) =
            stretch(frame.y(mark.span.start as f64), frame.y(mark.span.end as f64), frame.bottom());
        pen.fill((left, from), (left + RULER, to), color);
        let middle = (from + to) / 2;
        if guided {
            pen.faint_line((frame.x(mark.span.end as f64), middle), (frame.right(), middle), color);
        }
        let y = middle.max(free);
        if y - middle <= MAX_SHIFT {
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
