//! A strip with a cell for each layer: how many experts of a token another one took, too.

use super::{
    canvas::{Canvas, Point, Type},
    theme::{LINE, kept_color},
};
use crate::{analysis::SharedExperts, words::numbers::thousands};

/// The widest cell.
const WIDEST: i32 = 24;

/// Draws the caption at `at` and the strip below it, at most `width` wide; `query` is the number of the token that
/// reads. The darker a cell, the more is shared.
pub(super) fn draw(
    canvas: &mut Canvas,
    experts: &SharedExperts,
    query: &str,
    (left, top): Point,
    width: i32,
) {
    let key = thousands(experts.key as u64);
    let caption = format!(
        "Experts of token {query} that token {key}, which it read, took too; a cell a layer, more colour is more:"
    );
    let step = (width / experts.layers.len().max(1) as i32).clamp(1, WIDEST);
    let cell = |at: usize| {
        let left = left + at as i32 * step;
        ((left, top + 10), (left + step - i32::from(step > 4), top + 22))
    };
    canvas.draw(|pen| {
        pen.text(&caption, (left, top), Type::NOTE);
        for (at, layer) in experts.layers.iter().enumerate() {
            let share = layer.n_shared() as f64 / layer.of_query.len().max(1) as f64;
            let (corner, opposite) = cell(at);
            pen.fill(corner, opposite, kept_color(share));
            pen.frame(corner, opposite, LINE);
        }
    });
    for (at, layer) in experts.layers.iter().enumerate() {
        let (corner, opposite) = cell(at);
        let [of_query, of_key] = [&layer.of_query, &layer.of_key].map(|experts| listed(experts));
        let shared = layer.n_shared();
        let hint = format!("layer {}: experts {of_query} and {of_key}, {shared} in common", layer.layer);
        canvas.hint(corner, opposite, &hint);
    }
}

/// Lists numbers: "5, 9, 1".
fn listed(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
