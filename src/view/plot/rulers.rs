//! Rulers beside a map, which name spans of the prompt such as sentences and needles.

use plotters::style::RGBColor;

use super::{
    canvas::{Pen, Type},
    labels::width,
    layout::Frame,
    theme::{LINE, MARKS},
};
use crate::{trace::Span, words::letters::shortened};

/// The largest number of characters of a label.
const MAX_LABEL: usize = 22;
/// The largest number of rows of labels above a map.
const MAX_LANES: usize = 3;
const LANE: i32 = 14;
/// Thickness of a ruler and its distance from the map.
const RULER: i32 = 6;
const GAP: i32 = 3;
/// The largest distance of a label from its mark, in pixels.
const MAX_SHIFT: i32 = 14;
/// The largest number of marks for which lines across the map are drawn.
const MAX_GUIDED: usize = 6;

/// A named span.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub label: String,
    pub span: Span,
}

/// Returns the space that rulers and labels take above the map and right of it.
pub(super) fn space(frame: &Frame, marks: &[Mark]) -> (i32, i32) {
    let lanes = lanes(frame, marks).into_iter().flatten().max();
    let above = lanes.map_or(0, |lane| (lane as i32 + 1) * LANE + RULER + GAP - 2);
    let labels = visible(marks, frame.queries).map(|(m, _)| width(&shortened(&m.label, MAX_LABEL))).max();
    (above, labels.map_or(24, |label| (GAP + RULER + 16 + label).max(24)))
}

/// Draws the rulers of keys above and below the map, and of queries right of it.
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
            // The guide ends where queries begin to see the key, so that it covers no cells.
            let x = (from + to) / 2;
            pen.faint_line((x, frame.top), (x, frame.y(mark.span.start as f64)), color);
        }
        if let Some(lane) = lane {
            let (middle, label) = key_label(frame, mark);
            pen.text(&label, (middle, top - 8 - LANE * lane as i32), Type::TEXT.colored(color).centered());
        }
    }
}

/// Returns the lane of each visible mark's label: the lowest with room, or `None` if all are full.
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

/// Returns the centre of a label above the map, and its text.
fn key_label(frame: &Frame, mark: &Mark) -> (i32, String) {
    let label = shortened(&mark.label, MAX_LABEL);
    let (from, to) = key_stretch(frame, mark);
    let half = width(&label) / 2;
    (((from + to) / 2).min(frame.right() + 24 - half).max(half), label)
}

fn key_stretch(frame: &Frame, mark: &Mark) -> (i32, i32) {
    stretch(frame.x(mark.span.start as f64), frame.x(mark.span.end as f64), frame.right())
}

/// Draws the ruler right of the map. A label that would collide moves down a little and a line ties it to its
/// mark; it is left out if it would move too far.
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

/// Returns the marks that share tokens with an axis, in the order of the prompt. Colours go by the order in
/// which all marks were added.
fn visible(marks: &[Mark], axis: Span) -> impl Iterator<Item = (&Mark, RGBColor)> {
    let mut marks: Vec<_> = marks.iter().zip(MARKS.into_iter().cycle()).collect();
    marks.sort_by_key(|(mark, _)| (mark.span.start, mark.span.end));
    marks.into_iter().filter(move |(mark, _)| mark.span.start < axis.end && mark.span.end > axis.start)
}

/// Returns a bar of at least three pixels that ends inside its axis.
fn stretch(from: i32, to: i32, end: i32) -> (i32, i32) {
    let from = from.min(end - 3);
    (from, to.max(from + 3))
}
