//! Thought anchors as a bar chart: how much later sentences attend to each sentence.

use super::{
    canvas::{Canvas, Pen, Type},
    figure::Figure,
    head_scores::HeadScores,
    labels::{lines, ticks, width},
    sentence_kinds::kinds_legend,
    theme::{INK, LINE, MUTED},
};
use crate::{
    analysis::{Sentence, ThoughtAnchors},
    trace::Span,
    words::{
        letters::shortened,
        numbers::{count, head_name, plain, thousands},
    },
};

const LEFT: i32 = 62;
const TOP: i32 = 78;
/// Width and height of the area of the bars, and the height of the highest bar.
const AREA: (i32, i32) = (680, 190);
const HIGHEST: i32 = AREA.1 - 18;
/// The smallest width of a bar with its kind's letter below it.
const LETTERED: f64 = 8.0;
/// The largest number of characters of an anchor's sentence.
const WRITTEN: usize = 104;

impl ThoughtAnchors {
    /// Draws the receiver score of each sentence as a bar: beside its words, or, in a long chain, with the anchors
    /// written out below.
    pub fn figure(&self) -> Figure {
        if self.has_rows() { self.rows() } else { self.columns() }
    }

    fn columns(&self) -> Figure {
        let mut canvas = Canvas::default();
        let mut end = 0;
        canvas.draw(|pen| {
            pen.text(&self.title(), (14, 20), Type::TITLE);
            pen.text(&self.facts(), (14, 39), Type::NOTE);
            pen.text("mean attention from later sentences", (14, 60), Type::NOTE);
            self.bars(pen);
            self.left_out(pen);
            self.numbers(pen);
            self.score_axis(pen);
            self.sentence_axis(pen);
            end = self.written(pen, TOP + AREA.1 + 70);
            end = kinds_legend(pen, (14, end + 6), AREA.0 + 48, |kind| {
                self.sentences.iter().any(|s| s.kind == kind)
            });
            end = self.noted(pen, end);
        });
        let right = (LEFT + AREA.0 + 20).max(14 + width(&self.facts()));
        canvas.figure((right, end + 6), &self.title(), &self.description())
    }

    /// Says which sentence is returned to most.
    pub(super) fn title(&self) -> String {
        let Some((_, j)) = self.places().next() else {
            return format!("No thought anchors in {}", count(self.sentences.len(), "sentence"));
        };
        let words = shortened(&self.sentences[j].text, 48);
        format!("Later sentences return most to sentence {}, “{words}”", thousands(j as u64))
    }

    pub(super) fn facts(&self) -> String {
        let heads: Vec<String> =
            self.receivers.heads.iter().take(6).map(|h| head_name(h.layer, h.head)).collect();
        let more = if self.receivers.heads.len() > 6 { ", …" } else { "" };
        format!(
            "{} · {} by {}: {}{more}",
            shortened(&self.model, 24),
            count(self.receivers.heads.len(), "head"),
            shortened(&self.receivers.how, 60),
            heads.join(", ")
        )
    }

    /// The highest score.
    pub(super) fn most(&self) -> f64 {
        self.scores.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max)
    }

    /// The left edge of a sentence's bar.
    fn x(&self, sentence: usize) -> i32 {
        LEFT + (sentence as f64 * self.bar_width()).round() as i32
    }

    fn bar_width(&self) -> f64 {
        (f64::from(AREA.0) / self.sentences.len().max(1) as f64).min(40.0)
    }

    /// The upper edge of a sentence's bar; `most` is the highest score.
    fn y(&self, sentence: usize, most: f64) -> i32 {
        let share = self.score(sentence).map_or(0.0, |score| (score / most).clamp(0.0, 1.0));
        TOP + AREA.1 - (share * f64::from(HIGHEST)).round() as i32
    }

    /// Draws a bar for each sentence, in its kind's colour.
    fn bars(&self, pen: &Pen) {
        let most = self.most();
        let bottom = TOP + AREA.1;
        let gap = if self.bar_width() >= 4.0 { 1 } else { 0 };
        for (j, Sentence { kind, .. }) in self.sentences.iter().enumerate() {
            let left = self.x(j);
            let right = (self.x(j + 1) - gap).max(left + 1);
            pen.fill((left, self.y(j, most)), (right, bottom), kind.color());
            pen.fill((left, bottom + 2), (right, bottom + 5), kind.color());
            if self.bar_width() >= LETTERED {
                let below = ((left + right) / 2, bottom + 13);
                pen.text(&kind.letter().to_string(), below, Type::SMALL.centered());
            }
        }
    }

    /// Marks the sentences that have no score though others come late enough after them, where there is room.
    fn left_out(&self, pen: &Pen) {
        let with_later = self.sentences.len().saturating_sub(self.min_distance);
        for j in (0..with_later).filter(|&j| self.score(j).is_none() && self.bar_width() >= LETTERED) {
            let middle = (self.x(j) + self.x(j + 1)) / 2;
            pen.text("×", (middle, TOP + AREA.1 - 8), Type::TEXT.colored(MUTED).centered());
        }
    }

    /// Writes each anchor's number above its bar, where there is room.
    fn numbers(&self, pen: &Pen) {
        let most = self.most();
        let mut taken: Vec<i32> = Vec::new();
        for (place, j) in self.places() {
            let x = (self.x(j) + self.x(j + 1)) / 2;
            if taken.iter().all(|other| (other - x).abs() > 9) {
                pen.text(&(place + 1).to_string(), (x, self.y(j, most) - 8), Type::TEXT.centered());
                taken.push(x);
            }
        }
    }

    /// Draws the vertical axis, and the line below the bars.
    fn score_axis(&self, pen: &Pen) {
        let most = self.most();
        let bottom = TOP + AREA.1;
        for (value, height) in [(most, HIGHEST), (most / 2.0, HIGHEST / 2), (0.0, 0)] {
            let y = bottom - height;
            pen.line((LEFT - 4, y), (LEFT, y), LINE);
            pen.text(&plain(value), (LEFT - 7, y), Type::SMALL.before());
        }
        pen.line((LEFT, bottom), (LEFT + AREA.0, bottom), LINE);
    }

    /// Draws the horizontal axis.
    fn sentence_axis(&self, pen: &Pen) {
        let y = TOP + AREA.1 + 20;
        for j in ticks(Span { start: 0, end: self.sentences.len().max(1) }, 12) {
            let x = (self.x(j) + self.x(j + 1)) / 2;
            pen.line((x, y), (x, y + 4), LINE);
            pen.text(&thousands(j as u64), (x, y + 12), Type::TEXT.centered());
        }
        pen.text("sentence", (LEFT + AREA.0 / 2, y + 26), Type::NOTE.centered());
    }

    /// Writes the anchors' sentences below `top`; returns their lower edge.
    fn written(&self, pen: &Pen, top: i32) -> i32 {
        let mut y = top;
        for (place, j) in self.places() {
            let sentence = &self.sentences[j];
            pen.text(&format!("{}", place + 1), (14, y), Type::TEXT);
            pen.fill((28, y - 6), (41, y + 6), sentence.kind.color());
            pen.text(&sentence.kind.letter().to_string(), (46, y), Type::TEXT);
            pen.text(&format!("{}:", thousands(j as u64)), (88, y), Type::TEXT.colored(MUTED).before());
            pen.text(&shortened(&sentence.text, WRITTEN), (94, y), Type::TEXT.colored(INK));
            y += 17;
        }
        y
    }

    /// Writes the notes below `top`; returns their lower edge.
    pub(super) fn noted(&self, pen: &Pen, top: i32) -> i32 {
        let mut y = top;
        for line in self.notes.iter().flat_map(|note| lines(note, AREA.0 + 48)) {
            y += 15;
            pen.text(&line, (14, y), Type::NOTE);
        }
        y + if y > top { 8 } else { 0 }
    }

    pub(super) fn description(&self) -> String {
        let anchor =
            |(_, j): (usize, usize)| format!("sentence {j}, {:?}", shortened(&self.sentences[j].text, 60));
        let anchors: Vec<String> = self.places().map(anchor).collect();
        format!(
            "Bars are the mean attention that each sentence gets from those at least {} later. {}. The \
             highest peaks: {}.{}",
            self.min_distance,
            self.facts(),
            anchors.join("; "),
            self.notes.iter().map(|note| format!(" Note: {note}.")).collect::<String>()
        )
    }

    /// Draws the excess kurtosis of every head, which is high for heads that attend to few sentences.
    pub fn kurtosis_figure(&self) -> Figure {
        HeadScores::new(&self.kurtosis, self.n_layers, self.n_heads).figure(&self.model)
    }
}

#[cfg(test)]
mod tests {
    use crate::analysis::synthetic::made_up_anchors;

    #[test]
    fn charts_of_any_length_are_small_and_name_their_anchors() {
        for n in [1, 5, 30, 400, 3000] {
            let anchors = made_up_anchors(n, "Some words");
            let chart = anchors.figure();
            let heads = anchors.kurtosis_figure();
            assert!(chart.svg().len() < 1_200_000 && chart.size().0 < 900 && heads.size().0 < 900, "{n}");
            assert!(!chart.svg().contains("style=") && !heads.svg().contains("style="));
            assert!(anchors.anchors.iter().all(|j| chart.svg().contains(&format!("Some words {j}."))), "{n}");
        }
    }

    #[test]
    fn notes_stand_below_and_sentences_left_out_are_marked() {
        let mut anchors = made_up_anchors(70, "Some words");
        let plain = anchors.figure();
        anchors.scores[2] = None;
        anchors.notes = vec!["a sentence holds a sink, ".repeat(9)];
        let noted = anchors.figure();
        assert_eq!(plain.svg().matches('×').count() + 1, noted.svg().matches('×').count());
        assert!(noted.size().1 > plain.size().1 + 25 && noted.size().0 == plain.size().0);
        assert!(
            noted.svg().contains("a sentence holds a sink, a sentence")
                && anchors.html().contains("holds a sink")
        );
    }

    /// A file may hold any values.
    #[test]
    fn scores_that_make_no_sense_stay_in_the_chart() {
        let mut anchors = made_up_anchors(30, "Some words");
        let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300, 1e300];
        anchors.scores.iter_mut().zip(wild).for_each(|(score, wild)| *score = Some(wild));
        anchors.anchors.extend([30, usize::MAX]);
        anchors.kurtosis.heads[0].layer = usize::MAX;
        anchors.kurtosis.heads[1].score = f64::NAN;
        for n_scores in [90, 3] {
            anchors.scores.resize(n_scores, Some(1.0));
            assert!(anchors.figure().svg().starts_with("<svg") && anchors.html().starts_with("<div"));
        }
        anchors.n_layers = usize::MAX;
        anchors.n_heads = 0;
        assert!(anchors.kurtosis_figure().svg().starts_with("<svg"));
    }

    #[test]
    fn hostile_text_is_escaped() {
        let chart = made_up_anchors(30, "</text><script>alert('x')</script>\u{0}").figure();
        assert!(
            !chart.svg().contains("<script")
                && chart.svg().contains("&lt;script&gt;")
                && !chart.svg().contains('\0')
        );
    }
}
