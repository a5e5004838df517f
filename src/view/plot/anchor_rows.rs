//! Thought anchors of a short chain: a row for each sentence, with its words, and what later ones give it.

use super::{
    canvas::{Canvas, Pen, Type},
    figure::Figure,
    labels::width,
    sentence_kinds::kinds_legend,
    theme::{INK, LINE, MUTED},
};
use crate::{
    analysis::ThoughtAnchors,
    words::{
        letters::shortened,
        numbers::{percent, thousands},
    },
};

/// The largest number of sentences that get a row each.
const MOST_ROWS: usize = 60;
const TOP: i32 = 62;
const ROW: i32 = 19;
/// The left edges of a sentence's number, kind, words and bar, and the width of the longest bar.
const COLUMNS: [i32; 4] = [44, 52, 88, 500];
const LONGEST: i32 = 240;
const WIDTH: i32 = 820;

impl ThoughtAnchors {
    /// Whether each sentence gets a row of its own.
    pub(super) fn has_rows(&self) -> bool {
        self.sentences.len() <= MOST_ROWS
    }

    pub(super) fn rows(&self) -> Figure {
        let mut canvas = Canvas::default();
        let bottom = TOP + ROW * self.sentences.len() as i32;
        let mut end = 0;
        canvas.draw(|pen| {
            pen.text(&self.title(), (14, 20), Type::TITLE);
            pen.text(&self.facts(), (14, 39), Type::NOTE);
            for j in 0..self.sentences.len() {
                self.row(pen, j);
            }
            let [.., words, bar] = COLUMNS;
            pen.text("bold: the highest peaks, each above its neighbours", (words, bottom + 12), Type::NOTE);
            pen.line((bar, TOP), (bar, bottom), LINE);
            pen.text("share of a later sentence's attention, mean", (bar, bottom + 12), Type::NOTE);
            end = kinds_legend(pen, (14, bottom + 26), WIDTH - 28, |kind| {
                self.sentences.iter().any(|s| s.kind == kind)
            });
            end = self.noted(pen, end);
        });
        for (j, sentence) in self.sentences.iter().enumerate() {
            let y = TOP + ROW * j as i32;
            let kind = sentence.kind.name().replace('_', " ");
            let hint = format!("sentence {j}, {kind}, {}: {}", self.told(j), shortened(&sentence.text, 400));
            canvas.hint((14, y), (WIDTH - 14, y + ROW), &hint);
        }
        canvas.figure((WIDTH.max(14 + width(&self.facts())), end + 6), &self.title(), &self.description())
    }

    /// Draws a sentence's number, kind, words and bar; those of an anchor are bold.
    fn row(&self, pen: &Pen, j: usize) {
        let sentence = &self.sentences[j];
        let y = TOP + ROW * j as i32 + ROW / 2;
        let is_anchor = self.places().any(|(_, anchor)| anchor == j);
        let weight = |kind: Type| if is_anchor { kind.bold() } else { kind };
        let [number, kind, words, bar] = COLUMNS;
        pen.text(&thousands(j as u64), (number, y), weight(Type::TEXT.colored(MUTED)).before());
        pen.fill((kind, y - 6), (kind + 12, y + 6), sentence.kind.color());
        pen.text(&sentence.kind.letter().to_string(), (kind + 17, y), Type::TEXT);
        let fitting = fitted(&sentence.text, bar - words - 14, is_anchor);
        pen.text(&fitting, (words, y), weight(Type::TEXT.colored(INK)));
        match self.score(j) {
            Some(score) => {
                let share = (score / self.most()).clamp(0.0, 1.0);
                let end = bar + (share * f64::from(LONGEST)).round() as i32;
                pen.fill((bar, y - 6), (end.max(bar + 1), y + 6), sentence.kind.color());
                if is_anchor {
                    pen.text(&self.told(j), (end + 6, y), Type::TEXT.bold());
                }
            }
            None => pen.text(&self.told(j), (bar + 6, y), Type::SMALL.colored(MUTED)),
        }
    }

    /// A sentence's score in words, or why it has none.
    fn told(&self, j: usize) -> String {
        match self.score(j) {
            Some(score) => percent(score),
            None if j + self.min_distance >= self.sentences.len() => "too few sentences follow".into(),
            None => "left out".into(),
        }
    }
}

/// Shortens a text to some pixels.
fn fitted(text: &str, room: i32, bold: bool) -> String {
    let room = if bold { room * 100 / 108 } else { room };
    let n = text.chars().count();
    (0..=n).rev().map(|n| shortened(text, n)).find(|text| width(text) <= room).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::analysis::synthetic::made_up_anchors;

    #[test]
    fn every_sentence_of_a_short_chain_has_its_words_and_its_bar_or_why_not() {
        let mut anchors = made_up_anchors(30, "Some words");
        anchors.scores[2] = None;
        let chart = anchors.figure();
        assert!((0..30).all(|j| chart.svg().contains(&format!("Some words {j}."))));
        // Each is written, and said under the mouse.
        let after = anchors.scores[3..].iter().filter(|score| score.is_none()).count();
        assert_eq!(chart.svg().matches("too few sentences follow").count(), 2 * after);
        assert_eq!(chart.svg().matches("left out").count(), 2);
        assert!(
            after == anchors.min_distance
                && !made_up_anchors(100, "Some words").figure().svg().contains("too few")
        );
    }

    #[test]
    fn long_words_end_before_the_bars() {
        for text in ["W".repeat(300), "青".repeat(300), "i".repeat(300)] {
            let room = super::COLUMNS[3] - super::COLUMNS[2];
            assert!(super::width(&super::fitted(&text, room, false)) <= room);
        }
    }
}
