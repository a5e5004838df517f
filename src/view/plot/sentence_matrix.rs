//! A sentence matrix as a triangle of cells, with the sentences' kinds along both sides.

use plotters::style::RGBColor;

use super::{
    bitmap::{Bitmap, Shade},
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    labels::{powers_of_ten, ticks, title_width, width},
    legend::{BAR, color_bar},
    sentence_kinds::kinds_legend,
    theme::{LINE, MARKS, PAPER},
};
use crate::{
    analysis::{SentenceMatrix, Unit},
    error::Error,
    trace::Span,
    words::{
        letters::shortened,
        numbers::{count, plain, thousands},
    },
};

const LEFT: i32 = 66;
/// Room for the beginning of each sentence, where rows are high enough for it.
const WORDS: i32 = 214;
const WORDED: i32 = 14;
const TOP: i32 = 76;
/// What a row stands for.
const ROW: &str = "row: the later sentence";
/// The largest number of pixels, and of cells, along a side.
const SIDE: usize = 512;
const MAX_PICTURE: usize = 160_000;
/// The smallest size of a cell with letters beside it.
const LETTERED: i32 = 11;

impl SentenceMatrix {
    /// Draws the matrix; the earlier sentences are columns. With more than 512 sentences a cell covers
    /// several, and shows their largest value.
    pub fn figure(&self) -> Figure {
        let n_cells = self.sentences.len().clamp(1, SIDE);
        let cell = (SIDE / n_cells).clamp(1, 24) as i32;
        let side = if cell > 3 { cell * n_cells as i32 } else { SIDE as i32 };
        let left = if cell >= WORDED { LEFT + WORDS } else { LEFT };
        let (low, high) = self.range();
        let mut canvas = Canvas::default();
        canvas.picture((left, TOP), (side, side), &self.picture(n_cells, (low, high)), MAX_PICTURE);
        canvas.draw(|pen| {
            pen.text(&self.title(), (14, 20), Type::TITLE);
            pen.text(&self.facts(), (14, 39), Type::NOTE);
            pen.text(&self.caption(), (14, 55), Type::NOTE);
            self.sides(pen, left, side);
            self.frames(pen, left, (cell, side));
        });
        if cell >= WORDED {
            self.hints(&mut canvas, left, cell);
        }
        self.scale(&mut canvas, (left, TOP + side + 46), (low, high));
        let mut end = 0;
        canvas.draw(|pen| {
            let occurs = |kind| self.sentences.iter().any(|s| s.kind == kind);
            end = kinds_legend(pen, (14, TOP + side + 86), side.max(500) + 40, occurs);
        });
        let widest = [
            left + side + 20,
            left + BAR.0 + 44 + width(&self.beside_scale()),
            24 + title_width(&self.title()),
            28 + width(&self.facts()),
            28 + width(&self.caption()),
            480,
        ]
        .into_iter()
        .max()
        .unwrap_or(480);
        canvas.figure((widest, end + 6), &self.title(), &self.description())
    }

    /// Saves the matrix as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    /// Says whether the numbers tell what a sentence needs, if that is known, or else which is the largest.
    fn title(&self) -> String {
        if let Some(auc) = self.known_auc {
            let verdict = match auc {
                auc if auc >= 0.9 => "What a sentence needs stands out",
                auc if auc >= 0.7 => "What a sentence needs tends to stand out",
                _ => "What a sentence needs does not stand out",
            };
            return format!("{verdict}: area under the ROC curve {auc:.3}");
        }
        match self.strongest() {
            Some((i, j, _)) => {
                let words = shortened(&self.sentences[j].text, 40);
                format!("Strongest: sentence {i} and, before it, sentence {j}, “{words}”")
            }
            None => format!("No pairs in {}", count(self.sentences.len(), "sentence")),
        }
    }

    /// The largest number that is one, with its pair: the later sentence and the earlier one.
    fn strongest(&self) -> Option<(usize, usize, f64)> {
        let n = self.sentences.len();
        let rows = self.rows.iter().take(n).enumerate();
        let pairs =
            rows.flat_map(|(i, row)| row.iter().take(n).enumerate().map(move |(j, &value)| (i, j, value)));
        pairs.filter(|(.., value)| value.is_finite()).max_by(|a, b| a.2.total_cmp(&b.2))
    }

    /// The model and the measure.
    fn facts(&self) -> String {
        format!("{} · {}", shortened(&self.model, 24), shortened(&self.measure, 110))
    }

    /// Says what the frames mark, if there are some, and that the prompt is too long, if it is.
    fn caption(&self) -> String {
        let framed = (!self.known.is_empty()).then(|| "framed: what a sentence is known to need".to_string());
        framed.into_iter().chain(self.note.clone()).collect::<Vec<_>>().join(" · ")
    }

    /// Frames the known pairs: in blue and, where there is room, in white too, to show on dark and on light
    /// cells.
    fn frames(&self, pen: &Pen, edge: i32, (cell, side): (i32, i32)) {
        let at = |sentence: usize| {
            (sentence as f64 * f64::from(side) / self.sentences.len().max(1) as f64).round() as i32
        };
        let n = self.sentences.len();
        for &(i, j) in self.known.iter().filter(|&&(i, j)| i < n && j < n) {
            let left = edge + at(j);
            let top = TOP + at(i);
            pen.frame((left, top), (left + cell - 1, top + cell - 1), MARKS[0]);
            if cell >= 9 {
                pen.frame((left + 1, top + 1), (left + cell - 2, top + cell - 2), MARKS[0]);
                pen.frame((left + 2, top + 2), (left + cell - 3, top + cell - 3), PAPER);
            }
        }
    }

    fn range(&self) -> (f64, f64) {
        let all = self.rows.iter().flatten().copied().filter(|value| value.is_finite());
        let (low, high) =
            all.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        if low <= high { (low, high) } else { (0.0, 0.0) }
    }

    fn picture(&self, n_cells: usize, (low, high): (f64, f64)) -> Bitmap {
        let cell = |sentence: usize| sentence * n_cells / self.sentences.len().max(1);
        let mut largest = vec![None::<f64>; n_cells * n_cells];
        // A file may hold any number of rows.
        let n = self.sentences.len();
        for (i, row) in self.rows.iter().take(n).enumerate() {
            for (j, &value) in row.iter().take(n).enumerate() {
                let at = &mut largest[cell(i) * n_cells + cell(j)];
                *at = Some(at.map_or(value, |most| most.max(value)));
            }
        }
        let mut picture = Bitmap::new(n_cells, n_cells);
        for (at, value) in largest.iter().enumerate() {
            let level = |value: f64| (value - low) / (high - low).max(f64::MIN_POSITIVE);
            let shade = value.map_or(Shade::Outside, |value| Shade::Kept(level(value)));
            picture.set(at % n_cells, at / n_cells, shade);
        }
        picture
    }

    /// Draws the kinds and numbers of the sentences along both sides.
    fn sides(&self, pen: &Pen, left: i32, side: i32) {
        let n = self.sentences.len().max(1);
        let at = |sentence: usize| (sentence as f64 * f64::from(side) / n as f64).round() as i32;
        for (i, sentence) in self.sentences.iter().enumerate() {
            let start = at(i);
            let end = at(i + 1).max(start + 1);
            let color: RGBColor = sentence.kind.color();
            pen.fill((left - 9, TOP + start), (left - 3, TOP + end), color);
            pen.fill((left + start, TOP + side + 3), (left + end, TOP + side + 9), color);
            if end - start >= LETTERED {
                let middle = (start + end) / 2;
                let letter = sentence.kind.letter().to_string();
                pen.text(&letter, (left - 16, TOP + middle), Type::SMALL.centered());
                pen.text(&letter, (left + middle, TOP + side + 16), Type::SMALL.centered());
            }
        }
        let worded = left > LEFT;
        for (i, sentence) in self.sentences.iter().enumerate().filter(|_| worded) {
            let text = format!("{i}  {}", sentence.text);
            let fits = (1..64).rev().find(|&n| width(&shortened(&text, n)) <= WORDS + 20).unwrap_or(1);
            let middle = (at(i) + at(i + 1)) / 2;
            pen.text(&shortened(&text, fits), (left - 24, TOP + middle), Type::TEXT.before());
        }
        for tick in ticks(Span { start: 0, end: n }, 8) {
            let middle = (at(tick) + at(tick + 1)) / 2;
            let label = thousands(tick as u64);
            if !worded {
                pen.text(&label, (left - 24, TOP + middle), Type::TEXT.before());
            }
            pen.text(&label, (left + middle, TOP + side + 28), Type::TEXT.centered());
        }
        pen.frame((left, TOP), (left + side, TOP + side), LINE);
    }

    /// Tells both sentences and the value of each pair under the mouse.
    fn hints(&self, canvas: &mut Canvas, left: i32, cell: i32) {
        let n = self.sentences.len();
        for (i, row) in self.rows.iter().take(n).enumerate() {
            for (j, value) in row.iter().take(n).enumerate() {
                let text = |at: usize| format!("{at}: {}", shortened(&self.sentences[at].text, 90));
                let corner = (left + cell * j as i32, TOP + cell * i as i32);
                let value = if self.unit == Unit::LogKl {
                    format!("KL {} nats", plain(value.exp()))
                } else {
                    format!("{value:.3}")
                };
                let hint = format!("{}\n← {}\n{value}", text(i), text(j));
                canvas.hint(corner, (corner.0 + cell, corner.1 + cell), &hint);
            }
        }
    }

    fn description(&self) -> String {
        let strongest = self.strongest().map_or("There are no pairs.".into(), |(i, j, value)| {
            format!("The largest, {value:.3}, is of sentence {i} and the earlier sentence {j}.")
        });
        format!("Rows are sentences, columns the sentences before them; {}. {strongest}", self.measure)
    }

    /// Draws the colour bar, from the smallest to the largest value, and says which sentence a row stands for.
    fn scale(&self, canvas: &mut Canvas, (left, top): Point, (low, high): (f64, f64)) {
        let place = |value: f64| ((value - low) / (high - low) * f64::from(BAR.0)).round() as i32;
        let tick = |(value, kl): (f64, f64)| (place(value), plain(kl));
        let mut ticks: Vec<(i32, String)> = match self.unit {
            Unit::LogKl => powers_of_ten((low, high)).into_iter().map(tick).collect(),
            _ => Vec::new(),
        };
        if ticks.len() < 2 {
            ticks = [(0, plain(low)), (BAR.0, plain(high))].into();
        }
        // Neighbours would touch.
        let mut end = i32::MIN;
        ticks.retain(|(at, label)| {
            let is_free = at - width(label) / 2 > end;
            end = if is_free { at + width(label) / 2 + 6 } else { end };
            is_free
        });
        color_bar(canvas, (left, top), "", ticks.into_iter());
        canvas.draw(|pen| pen.text(&self.beside_scale(), (left + BAR.0 + 30, top + 6), Type::NOTE));
    }

    fn beside_scale(&self) -> String {
        if self.unit == Unit::LogKl { format!("KL in nats · {ROW}") } else { ROW.into() }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        analysis::{Unit, synthetic::made_up_matrix},
        view::plot::bitmap::tests::decode,
    };

    #[test]
    fn a_dependency_is_darker_than_its_surroundings() {
        let (width, _, cells) = decode(made_up_matrix(30).figure().svg());
        let cell = width / 30;
        let sum = |color: [u8; 3]| color.iter().map(|&channel| u32::from(channel)).sum::<u32>();
        let at = |i: usize, j: usize| sum(cells[(i * cell + cell / 2) * width + j * cell + cell / 2]);
        for i in 3..30 {
            assert!((0..i).filter(|&j| j + 3 != i).all(|j| at(i, j) > at(i, i - 3)), "row {i}");
            assert_eq!(at(i, i), 3 * 255, "a sentence and itself are no pair");
        }
    }

    /// A file may hold any values.
    #[test]
    fn what_makes_no_sense_stays_in_the_matrix() {
        let mut matrix = made_up_matrix(30);
        matrix.model = "<script>alert('x')</script>\u{0}".into();
        matrix.measure = "</text><script>alert('x')</script>".into();
        matrix.rows[7] = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300, 1e300];
        matrix.rows[8] = vec![1.0; 90];
        matrix.rows.extend(vec![vec![1.0; 90]; 90]);
        matrix.known = vec![(3, 1), (30, 0), (0, usize::MAX), (usize::MAX, 0)];
        let figure = matrix.figure();
        assert!(
            !figure.svg().contains("<script")
                && figure.svg().contains("&lt;script&gt;")
                && !figure.svg().contains('\0')
        );
        matrix.sentences.clear();
        assert!(matrix.figure().svg().starts_with("<svg"));
    }

    #[test]
    fn the_title_says_whether_what_is_known_stands_out_or_what_is_strongest() {
        let mut matrix = made_up_matrix(30);
        matrix.known_auc = None;
        matrix.rows[20][7] = 99.0;
        assert!(matrix.title().starts_with("Strongest: sentence 20 and, before it, sentence 7, “"));
        for (auc, verdict) in [(0.994, "needs stands out"), (0.825, "tends to"), (0.5, "does not")] {
            matrix.known_auc = Some(auc);
            assert!(matrix.title().contains(verdict) && matrix.title().ends_with(&format!("{auc:.3}")));
        }
        matrix.known_auc = None;
        matrix.sentences.clear();
        assert_eq!(matrix.title(), "No pairs in 0 sentences");
    }

    #[test]
    fn logarithms_of_divergences_are_told_as_divergences() {
        let mut matrix = made_up_matrix(30);
        matrix.unit = Unit::LogKl;
        matrix.rows[1][0] = 1e-3f64.ln();
        matrix.rows[20][7] = 2.5f64.ln();
        let figure = matrix.figure();
        for told in ["KL in nats", "\n0.01\n", "\n1\n", "KL 2.5 nats", "KL 0.001 nats"] {
            assert!(figure.svg().contains(told), "{told}");
        }
    }

    #[test]
    fn matrices_of_any_size_are_drawn_small() {
        for n in [0, 1, 2, 400, 1500] {
            let figure = made_up_matrix(n).figure();
            assert!(figure.svg().len() < 700_000 && figure.size().0 < 900, "{n}: {}", figure.svg().len());
        }
    }
}
