//! The scale of colours, and what else the colours of a figure stand for.

use plotters::style::RGBColor;

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Point, Type},
    labels::decade_percent,
    theme::{LINE, LogScale},
};

/// Width and height of the scale of colours.
const BAR: (i32, i32) = (220, 11);
const ROW: i32 = 17;

/// Draws a legend with its corner at `(left, top)`; `caption` says what the scale measures, `states` are other colours.
/// Returns where it ends.
pub(super) fn legend(
    canvas: &mut Canvas,
    (left, top): Point,
    scale: LogScale,
    caption: &str,
    states: &[(&str, RGBColor)],
) -> i32 {
    let bar = top + 19;
    canvas.picture((left, bar), BAR, &Bitmap::scale(), usize::MAX);
    canvas.draw(|pen| {
        pen.text(caption, (left, top + 6), Type::TEXT);
        for exponent in scale.exponents() {
            let x = left + (exponent + LogScale::DECADES - scale.top) * BAR.0 / LogScale::DECADES;
            let at_most = if exponent == scale.top - LogScale::DECADES { "≤ " } else { "" };
            pen.line((x, bar + BAR.1), (x, bar + BAR.1 + 4), LINE);
            pen.text(
                &format!("{at_most}{}", decade_percent(exponent)),
                (x, bar + BAR.1 + 12),
                Type::SMALL.centered(),
            );
        }
        for (row, &(name, color)) in states.iter().enumerate() {
            let (x, y) = (left + BAR.0 + 32, bar + ROW * row as i32);
            pen.fill((x, y), (x + 13, y + 11), color);
            pen.frame((x, y), (x + 13, y + 11), LINE);
            pen.text(name, (x + 20, y + 6), Type::TEXT);
        }
    });
    bar + BAR.1.max(ROW * (states.len() as i32 - 1)) + 24
}
