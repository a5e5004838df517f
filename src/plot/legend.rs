//! The scale of colours and the two other states of a cell.

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Point, Type},
    labels::decade_percent,
    theme::{LINE, LogScale, OUTSIDE, PRUNED},
};

const BAR: (i32, i32) = (220, 11);

/// Draws the legend with its corner at `(left, top)`; `caption` says what the colours measure, `outside` why cells are empty.
/// Returns where it ends.
pub(super) fn legend(canvas: &mut Canvas, (left, top): Point, scale: LogScale, caption: &str, outside: &str) -> i32 {
    let bar = top + 17;
    canvas.picture((left, bar), BAR, &Bitmap::scale().address(usize::MAX));
    canvas.draw(|pen| {
        pen.text(caption, (left, top + 6), Type::TEXT);
        for exponent in scale.exponents() {
            let x = left + (exponent + LogScale::DECADES - scale.top) * BAR.0 / LogScale::DECADES;
            let at_most = if exponent == scale.top - LogScale::DECADES { "≤ " } else { "" };
            pen.line((x, bar + BAR.1), (x, bar + BAR.1 + 4), LINE);
            pen.text(&format!("{at_most}{}", decade_percent(exponent)), (x, bar + BAR.1 + 12), Type::SMALL.centered());
        }
        for (row, (name, color)) in [("pruned", PRUNED), (outside, OUTSIDE)].into_iter().enumerate() {
            let (x, y) = (left + BAR.0 + 36, bar - 1 + 17 * row as i32);
            pen.fill((x, y), (x + 13, y + 11), color);
            pen.frame((x, y), (x + 13, y + 11), LINE);
            pen.text(name, (x + 20, y + 6), Type::TEXT);
        }
    });
    bar + BAR.1 + 28
}
