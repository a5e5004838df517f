//! The colour bar of a figure, and the legend of a map: its colour bar and the other colours.

use plotters::style::RGBColor;

use super::{
    bitmap::{Bitmap, Shade},
    canvas::{Canvas, Point, Type},
    labels::decade_percent,
    theme::{LINE, LogScale, PAPER},
};

/// Width and height of a colour bar.
pub(super) const BAR: Point = (220, 11);
/// Distance from the top of a bar's caption to the bar.
pub(super) const CAPTION: i32 = 19;
const ROW: i32 = 19;

/// How a state that is no shade of the colour bar looks.
#[derive(Clone, Copy)]
pub(super) enum Swatch {
    /// The hatch over what was pruned.
    Hatch,
    /// Nothing but paper.
    Paper,
    Frame(RGBColor),
}

impl Swatch {
    const SIDE: i32 = 13;

    /// Draws the swatch with its corner there, and its name right of it.
    pub fn draw(self, canvas: &mut Canvas, (x, y): Point, name: &str) {
        let opposite = (x + Self::SIDE, y + Self::SIDE);
        if let Swatch::Hatch = self {
            let mut hatch = Bitmap::new(Self::SIDE as usize, Self::SIDE as usize);
            hatch.fill(Shade::Pruned);
            canvas.picture((x, y), (Self::SIDE, Self::SIDE), &hatch, usize::MAX);
        }
        canvas.draw(|pen| {
            if let Swatch::Paper = self {
                pen.fill((x, y), opposite, PAPER);
            }
            pen.frame((x, y), opposite, if let Swatch::Frame(color) = self { color } else { LINE });
            pen.text(name, (x + Self::SIDE + 7, y + Self::SIDE / 2 + 1), Type::TEXT);
        });
    }
}

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
    states: &[(&str, Swatch)],
) -> i32 {
    let bar = top + CAPTION;
    let ticks = scale.exponents().zip(0..).map(|(exponent, decade)| {
        let at_most = if decade == 0 { "≤ " } else { "" };
        (decade * BAR.0 / LogScale::DECADES, format!("{at_most}{}", decade_percent(exponent)))
    });
    color_bar(canvas, (left, bar), caption, ticks);
    for (row, &(name, swatch)) in states.iter().enumerate() {
        swatch.draw(canvas, (left + BAR.0 + 32, bar + ROW * row as i32), name);
    }
    bar + BAR.1.max(ROW * (states.len() as i32 - 1)) + 24
}
