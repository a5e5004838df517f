//! Thought anchors: how much later sentences attend to each sentence, over the text.

use super::{
    canvas::{Canvas, Pen, Type},
    figure::Figure,
    labels::{ticks, width},
    sentence_kinds::kinds_legend,
    theme::{INK, LINE, MARKS, MUTED, PAPER, kept_color},
};
use crate::{
    analysis::{HeadRanking, ThoughtAnchors},
    trace::Span,
    words::numbers::{count, shortened, thousands},
};

const LEFT: i32 = 62;
const TOP: i32 = 78;
/// Width and height of the bars' area.
const AREA: (i32, i32) = (680, 190);
/// Bars of at least this width have their kind's letter below them.
const LETTERED: f64 = 8.0;
/// Most layers, and heads of a layer, that are drawn.
const MOST: usize = 1024;
/// Characters of an anchor's sentence that are written out.
const WRITTEN: usize = 104;

impl ThoughtAnchors {
    /// Receiver scores over the sentences, the anchors written out.
    pub fn figure(&self) -> Figure {
        let mut canvas = Canvas::default();
        let mut end = 0;
        canvas.draw(|pen| {
            pen.text(&self.title(), (14, 20), Type::TITLE);
            pen.text(&self.facts(), (14, 39), Type::NOTE);
            pen.text("mean attention from later sentences", (14, 60), Type::NOTE);
            self.bars(pen);
            self.axis(pen);
            end = self.written(pen, TOP + AREA.1 + 70);
            end = kinds_legend(pen, (14, end + 6), AREA.0 + 48, |kind| {
                self.sentences.iter().any(|s| s.kind == kind)
            });
        });
        let right = (LEFT + AREA.0 + 20).max(14 + width(&self.facts()));
        canvas.figure((right, end + 6), &self.title(), &self.description())
    }

    pub(super) fn title(&self) -> String {
        format!(
            "{} · thought anchors of {}",
            shortened(&self.model, 24),
            count(self.sentences.len(), "sentence")
        )
    }

    pub(super) fn facts(&self) -> String {
        let heads: Vec<String> =
            self.receivers.heads.iter().take(6).map(|h| format!("{}·{}", h.layer, h.head)).collect();
        let more = if self.receivers.heads.len() > 6 { ", …" } else { "" };
        format!(
            "{} by {}: {}{more}",
            count(self.receivers.heads.len(), "head"),
            shortened(&self.receivers.how, 60),
            heads.join(", ")
        )
    }

    /// The highest score.
    pub(super) fn most(&self) -> f64 {
        self.scores.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max)
    }

    /// Left edge of a sentence's bar.
    fn x(&self, sentence: usize) -> i32 {
        LEFT + (sentence as f64 * self.bar_width()).round() as i32
    }

    fn bar_width(&self) -> f64 {
        (f64::from(AREA.0) / self.sentences.len().max(1) as f64).min(40.0)
    }

    fn bars(&self, pen: &Pen) {
        let (most, bottom) = (self.most(), TOP + AREA.1);
        let gap = if self.bar_width() >= 4.0 { 1 } else { 0 };
        let share = |score: f64| (score / most).clamp(0.0, 1.0);
        let height = |score: Option<f64>| (score.map_or(0.0, share) * f64::from(AREA.1 - 18)).round() as i32;
        for (j, sentence) in self.sentences.iter().enumerate() {
            let (left, right) = (self.x(j), (self.x(j + 1) - gap).max(self.x(j) + 1));
            let (kind, height) = (sentence.kind, height(self.score(j)));
            pen.fill((left, bottom - height), (right, bottom), kind.color());
            pen.fill((left, bottom + 2), (right, bottom + 5), kind.color());
            if self.bar_width() >= LETTERED {
                pen.text(
                    &kind.letter().to_string(),
                    ((left + right) / 2, bottom + 13),
                    Type::SMALL.centered(),
                );
            }
        }
        let mut taken: Vec<i32> = Vec::new();
        for (place, j) in self.places() {
            let height = height(self.score(j));
            let x = (self.x(j) + self.x(j + 1)) / 2;
            if taken.iter().all(|other| (other - x).abs() > 9) {
                pen.text(&(place + 1).to_string(), (x, bottom - height - 8), Type::TEXT.centered());
                taken.push(x);
            }
        }
        for (value, y) in
            [(most, bottom - (AREA.1 - 18)), (most / 2.0, bottom - (AREA.1 - 18) / 2), (0.0, bottom)]
        {
            pen.line((LEFT - 4, y), (LEFT, y), LINE);
            pen.text(&number(value), (LEFT - 7, y), Type::SMALL.before());
        }
        pen.line((LEFT, bottom), (LEFT + AREA.0, bottom), LINE);
    }

    fn axis(&self, pen: &Pen) {
        let y = TOP + AREA.1 + 20;
        for j in ticks(Span { start: 0, end: self.sentences.len().max(1) }, 12) {
            let x = (self.x(j) + self.x(j + 1)) / 2;
            pen.line((x, y), (x, y + 4), LINE);
            pen.text(&thousands(j as u64), (x, y + 12), Type::TEXT.centered());
        }
        pen.text("sentence", (LEFT + AREA.0 / 2, y + 26), Type::NOTE.centered());
    }

    /// Writes the anchors' sentences out below `top`; returns where they end.
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

    fn description(&self) -> String {
        let anchor =
            |(_, j): (usize, usize)| format!("sentence {j}, {:?}", shortened(&self.sentences[j].text, 60));
        let anchors: Vec<String> = self.places().map(anchor).collect();
        format!(
            "Bars are the mean attention that each sentence gets from those at least {} later. {}. The highest peaks: {}.",
            self.min_distance,
            self.facts(),
            anchors.join("; ")
        )
    }

    /// The excess kurtosis of every head: which heads look at few sentences.
    pub fn kurtosis_figure(&self) -> Figure {
        head_scores(&self.kurtosis, (self.n_layers, self.n_heads), &self.model)
    }
}

/// Cells of heads: layers from top to bottom, heads from left to right.
fn head_scores(ranking: &HeadRanking, (n_layers, n_heads): (usize, usize), model: &str) -> Figure {
    let (n_layers, n_heads) = (n_layers.min(MOST), n_heads.min(MOST));
    let side = (640 / n_heads.max(1)).clamp(9, 44) as i32;
    let height = side.min((640 / n_layers.max(1)).max(9) as i32);
    let scores: Vec<f64> = ranking.heads.iter().map(|head| head.score).collect();
    let (low, high) = scores.iter().fold((f64::MAX, f64::MIN), |(low, high), &s| (low.min(s), high.max(s)));
    let title = format!("{} · {} of each head", shortened(model, 24), shortened(&ranking.how, 60));
    let (left, top) = (52, 84);
    let mut canvas = Canvas::default();
    canvas.draw(|pen| {
        pen.text(&title, (14, 20), Type::TITLE);
        let range = format!("from {low:.1}, light, to {high:.1}, dark; the best ten are framed");
        pen.text(&range, (14, 39), Type::NOTE);
        let heads =
            ranking.heads.iter().enumerate().filter(|(_, head)| head.layer < n_layers && head.head < n_heads);
        for (place, head) in heads {
            let (x, y) = (left + side * head.head as i32, top + height * head.layer as i32);
            let level = (head.score - low) / (high - low).max(f64::MIN_POSITIVE);
            pen.fill((x, y), (x + side - 1, y + height - 1), kept_color(level));
            if place < 10 {
                pen.frame((x, y), (x + side - 2, y + height - 2), MARKS[0]);
                pen.frame((x + 1, y + 1), (x + side - 3, y + height - 3), MARKS[0]);
            }
            if side >= 30 && height >= 18 {
                let color = if level > 0.45 { PAPER } else { INK };
                pen.text(
                    &format!("{:.1}", head.score),
                    (x + side / 2, y + height / 2),
                    Type::SMALL.centered().colored(color),
                );
            }
        }
        let every = |size: i32| (18 / size.max(1) + 1) as usize;
        for layer in (0..n_layers).step_by(every(height)) {
            pen.text(
                &layer.to_string(),
                (left - 7, top + height * layer as i32 + height / 2),
                Type::TEXT.before(),
            );
        }
        for head in (0..n_heads).step_by(every(side)) {
            pen.text(
                &head.to_string(),
                (left + side * head as i32 + side / 2, top - 9),
                Type::TEXT.centered(),
            );
        }
        pen.text("layer", (14, top + height * n_layers as i32 / 2), Type::NOTE.upwards().centered());
        pen.text("head", (left + side * n_heads as i32 / 2, top - 22), Type::NOTE.centered());
    });
    let size = (left + side * n_heads as i32 + 16, top + height * n_layers as i32 + 14);
    let best: Vec<String> = ranking.best(10).iter().map(|(layer, head)| format!("{layer}·{head}")).collect();
    let description = format!("Rows are layers, columns heads; best: {}.", best.join(", "));
    canvas.figure((size.0.max(14 + width(&title) * 5 / 4).max(420), size.1), &title, &description)
}

/// A small number in three digits.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        v if v >= 0.01 => format!("{v:.3}"),
        v => format!("{v:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::analysis::synthetic::made_up_anchors;

    #[test]
    fn charts_of_any_length_are_small_and_name_their_anchors() {
        for n in [1, 5, 30, 400, 3000] {
            let anchors = made_up_anchors(n, "Some words");
            let (chart, heads) = (anchors.figure(), anchors.kurtosis_figure());
            assert!(chart.svg().len() < 1_200_000 && chart.size().0 < 900 && heads.size().0 < 900, "{n}");
            assert!(!chart.svg().contains("style=") && !heads.svg().contains("style="));
            assert!(anchors.anchors.iter().all(|j| chart.svg().contains(&format!("Some words {j}."))), "{n}");
        }
    }

    /// A file may hold any numbers.
    #[test]
    fn scores_that_make_no_sense_stay_in_the_chart() {
        let mut anchors = made_up_anchors(30, "Some words");
        let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300, 1e300];
        anchors.scores.iter_mut().zip(wild).for_each(|(score, wild)| *score = Some(wild));
        anchors.anchors.extend([30, usize::MAX]);
        (anchors.kurtosis.heads[0].layer, anchors.kurtosis.heads[1].score) = (usize::MAX, f64::NAN);
        for n_scores in [90, 3] {
            anchors.scores.resize(n_scores, Some(1.0));
            assert!(anchors.figure().svg().starts_with("<svg") && anchors.html().starts_with("<div"));
        }
        (anchors.n_layers, anchors.n_heads) = (usize::MAX, 0);
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
