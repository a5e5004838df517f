//! Heads over many prompts: a bar for the mean of each, a line for its spread.

use super::{
    canvas::{Canvas, Pen, Type},
    figure::Figure,
    labels::title_width,
    theme::{INK, LINE, MARKS},
};
use crate::{
    study::{OfHead, Spread, Study},
    words::{
        letters::shortened,
        numbers::{count, head_name},
    },
};

/// The number of heads that are drawn.
const SHOWN: usize = 20;
const LEFT: i32 = 74;
const TOP: i32 = 64;
const ROW: i32 = 20;
const WIDTH: i32 = 420;

impl Study {
    /// Draws the heads with the largest means, as [`Study::of_heads`] and [`Study::readers`] give them; `what` says of
    /// what, such as "attention on the fact".
    pub fn chart(&self, what: &str, heads: &[OfHead]) -> Figure {
        let shown = &heads[..heads.len().min(SHOWN)];
        let model = self.prompts.iter().find_map(|row| row.model.as_deref()).unwrap_or("no model");
        let title = shown.first().map_or("No head has any".into(), |((layer, head), spread)| {
            format!("{} has most {}: {}", head_name(*layer, *head), shortened(what, 48), told(spread))
        });
        let n = shown.iter().map(|(_, spread)| spread.n).max().unwrap_or(0);
        let note = format!(
            "{}, {} of {}; mean over {}, lines are one standard deviation",
            shortened(model, 24),
            shown.len(),
            count(heads.len(), "head"),
            count(n, "prompt")
        );
        let end = |(_, s): &OfHead| s.mean + s.deviation;
        let largest = shown.iter().map(end).fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| LEFT + (value.clamp(0.0, largest) / largest * f64::from(WIDTH)).round() as i32;
        let mut canvas = Canvas::default();
        canvas.draw(|pen| {
            pen.text(&title, (14, 20), Type::TITLE);
            pen.text(&note, (14, 40), Type::NOTE);
            shown.iter().enumerate().for_each(|(i, head)| bar(pen, head, TOP + ROW * i as i32, x));
        });
        for (i, ((layer, head), spread)) in shown.iter().enumerate() {
            let y = TOP + ROW * i as i32;
            let hint =
                format!("{} of {}: {}", head_name(*layer, *head), count(spread.n, "prompt"), told(spread));
            canvas.hint((0, y - ROW / 2), (LEFT + WIDTH + 110, y + ROW / 2), &hint);
        }
        let right = (LEFT + WIDTH + 120).max(28 + title_width(&title));
        canvas.figure((right, TOP + ROW * shown.len() as i32 + 8), &title, &note)
    }
}

fn told(spread: &Spread) -> String {
    format!("{:.3} ± {:.3}", spread.mean, spread.deviation)
}

fn bar(pen: &Pen, ((layer, head), spread): &OfHead, y: i32, x: impl Fn(f64) -> i32) {
    pen.text(&head_name(*layer, *head), (LEFT - 8, y), Type::TEXT.before());
    pen.fill((LEFT, y - 6), (x(spread.mean).max(LEFT + 1), y + 6), MARKS[0]);
    let ends = [x(spread.mean - spread.deviation), x(spread.mean + spread.deviation)];
    pen.line((ends[0], y), (ends[1], y), INK);
    ends.iter().for_each(|&end| pen.line((end, y - 3), (end, y + 3), INK));
    pen.line((LEFT, y - ROW / 2), (LEFT, y + ROW / 2), LINE);
    pen.text(&told(spread), (ends[1].max(x(spread.mean)) + 8, y), Type::NOTE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leading_head_is_named_and_no_bar_leaves_the_figure() {
        let study = Study { prompts: Vec::new(), heads: Vec::new(), spans: Vec::new(), anchors: Vec::new() };
        let spread = |mean, deviation| Spread { mean, deviation, n: 9 };
        let heads: Vec<OfHead> = (0..30).map(|i| ((i, 1), spread(1.0 / (i + 1) as f64, 0.4))).collect();
        let svg = study.chart("attention on the fact", &heads).svg().to_string();
        assert!(svg.contains("L0H1 has most attention on the fact: 1.000 ± 0.400"), "{svg}");
        assert!(svg.contains("20 of 30 heads; mean over 9 prompts"), "{svg}");
        assert!(svg.contains("L19H1") && !svg.contains("L20H1"), "{svg}");
        assert!(study.chart("x", &[]).svg().contains("No head has any"));
        assert!(study.chart("x", &[((0, 0), spread(0.0, 0.0))]).svg().contains("L0H0"));
    }
}
