//! The colour bar of a figure, and the legend of a map: its colour bar and the other colours.

use plotters::style::RGBColor;

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Point, Type},
    labels::decade_percent,
    theme::{LINE, LogScale},
};

/// Width and height of a colour bar.
pub(super) const BAR: Point = (220, 11);
/// Distance from the top of a bar's caption to the bar.
pub(super) const CAPTION: i32 = 19;
const ROW: i32 = 17;

/// Draws a colour bar, weakest left, with its corner at `(left, top)`: `caption` above it, and below it the
/// label of each tick. A tick is a distance from the left, in pixels, and a label.
pub(super) fn color_bar(
    canvas: &mut Canvas,
    (left, top): Point,
    caption: &str,
    ticks: impl Iterator<Item = (i32, String)>,
) {
    let bottom = top + BAR.1;
    canvas.picture((left, top), BAR, &Bitmap::scale(), usize::MAX);
    canvas.draw(|pen| {
        if !caption.is_empty() {
            pen.text(caption, (left, top - 13), Type::TEXT);
        }
        for (distance, label) in ticks {
            let x = left + distance;
            pen.line((x, bottom), (x, bottom + 4), LINE);
            pen.text(&label, (x, bottom + 12), Type::SMALL.centered());
        }
    });
}

/// Draws the legend of a map with its corner at `(left, top)`. `caption` says what the colour bar measures,
/// `states` are the other colours. Returns the legend's lower edge.
pub(super) fn legend(
    canvas: &mut Canvas,
    (left, top): Point,
    scale: LogScale,
    caption: &str,
    states: &[(&str, RGBColor)],
) -> i32 {
    let bar = top + CAPTION;
    let ticks = scale.exponents().zip(0..).map(|(exponent, decade)| {
        let at_most = if decade == 0 { "≤ " } else { "" };
        (decade * BAR.0 / LogScale::DECADES, format!("{at_most}{}", decade_percent(exponent)))
    });
    color_bar(canvas, (left, bar), caption, ticks);
    canvas.draw(|pen| {
        for (row, &(name, color)) in states.iter().enumerate() {
            let x = left + BAR.0 + 32;
            let y = bar + ROW * row as i32;
            pen.fill((x, y), (x + 13, y + 11), color);
            pen.frame((x, y), (x + 13, y + 11), LINE);
            pen.text(name, (x + 20, y + 6), Type::TEXT);
        }
    });
    bar + BAR.1.max(ROW * (states.len() as i32 - 1)) + 24
}
