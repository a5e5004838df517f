//! The scores of heads as a map: layers from top to bottom, heads from left to right.

use super::{
    canvas::{Canvas, Pen, Type},
    figure::Figure,
    labels::{title_width, width},
    theme::{MARKS, ink_on, kept_color},
};
use crate::{
    analysis::{HeadRanking, RankedHead},
    words::{
        letters::shortened,
        numbers::{head_name, plain},
    },
};

const LEFT: i32 = 52;
const TOP: i32 = 84;
/// The largest number of layers, and of heads of a layer, that are drawn.
const MOST: usize = 1024;
/// The number of heads that are framed.
const FRAMED: usize = 10;

/// The layout of a map of head scores.
pub(super) struct HeadScores<'a> {
    ranking: &'a HeadRanking,
    n_layers: usize,
    n_heads: usize,
    /// Width and height of a cell.
    cell: (i32, i32),
    /// The lowest and the highest score.
    range: (f64, f64),
}

impl<'a> HeadScores<'a> {
    pub fn new(ranking: &'a HeadRanking, n_layers: usize, n_heads: usize) -> Self {
        let n_layers = n_layers.min(MOST);
        let n_heads = n_heads.min(MOST);
        let width = (640 / n_heads.max(1)).clamp(9, 44) as i32;
        let height = width.min((640 / n_layers.max(1)).max(9) as i32);
        let scores = ranking.heads.iter().map(|head| head.score);
        let range = scores.fold((f64::MAX, f64::MIN), |(low, high), s| (low.min(s), high.max(s)));
        HeadScores { ranking, n_layers, n_heads, cell: (width, height), range }
    }

    /// Draws the map of a model's heads.
    pub fn figure(&self, model: &str) -> Figure {
        let title = self.title();
        let facts = self.facts(model);
        let mut canvas = Canvas::default();
        canvas.draw(|pen| {
            pen.text(&title, (14, 20), Type::TITLE);
            pen.text(&facts, (14, 39), Type::NOTE);
            for (place, head) in self.ranking.heads.iter().enumerate() {
                if head.layer < self.n_layers && head.head < self.n_heads {
                    self.draw(pen, head, place < FRAMED);
                }
            }
            self.axes(pen);
        });
        let right = self.x(self.n_heads) + 16;
        let right = right.max(28 + title_width(&title)).max(28 + width(&facts)).max(420);
        canvas.figure((right, self.y(self.n_layers) + 14), &title, &self.description())
    }

    /// Says which head is first.
    fn title(&self) -> String {
        let how = shortened(&self.ranking.how, 60);
        match self.ranking.heads.first() {
            Some(head) => {
                format!("{} has the highest {how}: {:.1}", head_name(head.layer, head.head), head.score)
            }
            None => format!("No head has any {how}"),
        }
    }

    /// The model, and what colours and frames mean.
    fn facts(&self, model: &str) -> String {
        let (low, high) = self.range;
        let model = shortened(model, 24);
        let framed = self.ranking.heads.get(FRAMED - 1).map_or(String::new(), |last| {
            format!("; framed: the best {FRAMED}, from {} up", plain(last.score))
        });
        match low <= high {
            true => format!("{model} · from {}, pale, to {}, strong{framed}", plain(low), plain(high)),
            false => model,
        }
    }

    /// The left edge of a head's cells.
    fn x(&self, head: usize) -> i32 {
        LEFT + self.cell.0 * head as i32
    }

    /// The upper edge of a layer's cells.
    fn y(&self, layer: usize) -> i32 {
        TOP + self.cell.1 * layer as i32
    }

    /// Draws a head's cell, with its score if there is room.
    fn draw(&self, pen: &Pen, head: &RankedHead, framed: bool) {
        let (width, height) = self.cell;
        let (low, high) = self.range;
        let x = self.x(head.head);
        let y = self.y(head.layer);
        let level = (head.score - low) / (high - low).max(f64::MIN_POSITIVE);
        pen.fill((x, y), (x + width - 1, y + height - 1), kept_color(level));
        if framed {
            pen.frame((x, y), (x + width - 2, y + height - 2), MARKS[0]);
            pen.frame((x + 1, y + 1), (x + width - 3, y + height - 3), MARKS[0]);
        }
        if width >= 30 && height >= 18 {
            let kind = Type::SMALL.centered().colored(ink_on(level));
            // No score is written as -0.0.
            let score = (head.score * 10.0).round() / 10.0 + 0.0;
            pen.text(&format!("{score:.1}"), (x + width / 2, y + height / 2), kind);
        }
    }

    /// Writes the numbers of layers and heads along the sides, where there is room.
    fn axes(&self, pen: &Pen) {
        let (width, height) = self.cell;
        let stride = |size: i32| (18 / size.max(1) + 1) as usize;
        for layer in (0..self.n_layers).step_by(stride(height)) {
            pen.text(&layer.to_string(), (LEFT - 7, self.y(layer) + height / 2), Type::TEXT.before());
        }
        for head in (0..self.n_heads).step_by(stride(width)) {
            pen.text(&head.to_string(), (self.x(head) + width / 2, TOP - 9), Type::TEXT.centered());
        }
        let middle = (LEFT + width * self.n_heads as i32 / 2, TOP + height * self.n_layers as i32 / 2);
        pen.text("layer", (14, middle.1), Type::NOTE.upwards().centered());
        pen.text("head", (middle.0, TOP - 22), Type::NOTE.centered());
    }

    fn description(&self) -> String {
        let best = self.ranking.best(FRAMED);
        let best: Vec<String> = best.iter().map(|(layer, head)| head_name(*layer, *head)).collect();
        format!("Rows are layers, columns heads; best: {}.", best.join(", "))
    }
}
