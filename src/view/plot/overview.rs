//! All heads of a trace as small maps in one figure, and which of them answer a question.

use plotters::style::RGBColor;

use super::{
    bitmap::Bitmap,
    canvas::{Canvas, Pen, Type},
    figure::Figure,
    grid::{Cells, Grid},
    labels::{LOW_RECALL, facts, recall_of, title_width, told_recall, width as text_width},
    legend::{Swatch, legend},
    theme::{ALARM, LogScale, MARKS, MUTED},
};
use crate::{
    analysis::HeadRanking,
    error::Error,
    trace::{Span, Trace},
    words::{
        letters::shortened,
        numbers::{count, head_name},
    },
};

/// The picture's size limit, in bytes.
const MAX_PICTURE: usize = 900_000;
/// Width and height of all panels at most, and the smallest and largest side of one panel, in pixels.
const WIDTH: usize = 720;
const HEIGHT: usize = 780;
const PANEL: std::ops::RangeInclusive<usize> = 12..=96;
/// The smallest side of a panel that has room for its label.
const LABELLED: usize = 44;
const LEFT: usize = 52;
const TOP: usize = 88;
/// The least score of a head that is framed.
const FRAMED: f64 = 0.1;

/// The layout of the panels: layers are rows from top to bottom, heads are columns.
struct Panels<'a> {
    /// The layer of each row.
    layers: &'a [usize],
    n_heads: usize,
    /// The side of a panel, in pixels; a cell is a pixel.
    side: usize,
    gap: usize,
}

impl Trace {
    /// Draws every head of every layer in the trace as a small map, all on the same colour scale.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn overview(&self) -> Result<Figure, Error> {
        self.drawn_overview(None)
    }

    /// Draws the same and frames the heads of a ranking with a score of 0.1 or more, such as those that read a
    /// span ([`Trace::readers`]); the number in a large panel's corner is the score.
    ///
    /// # Errors
    /// As [`overview`](Self::overview).
    pub fn overview_of(&self, heads: &HeadRanking) -> Result<Figure, Error> {
        self.drawn_overview(Some(heads))
    }

    fn drawn_overview(&self, heads: Option<&HeadRanking>) -> Result<Figure, Error> {
        let panels = Panels::new(self.layers(), self.n_heads());
        let cells = Cells::new(Span { start: 0, end: self.n_tokens() }, panels.side);
        let panel = |(row, head)| {
            let head_trace = self.head(panels.layers[row], head)?;
            Ok(((row, head), Grid::sums(&head_trace, cells, cells)))
        };
        let grids = panels.places().map(panel).collect::<Result<Vec<_>, Error>>()?;
        let scale = LogScale::covering_shares(grids.iter().map(|(_, grid)| grid.max()).fold(0.0, f32::max));
        Ok(figure(self, &panels, &grids, scale, heads))
    }
}

impl<'a> Panels<'a> {
    fn new(layers: &'a [usize], n_heads: usize) -> Self {
        let side = (WIDTH / n_heads).min(HEIGHT / layers.len().max(1)).clamp(*PANEL.start(), *PANEL.end());
        let gap = if side < LABELLED { 2 } else { 5 };
        Panels { layers, n_heads, side: side - gap, gap }
    }

    /// The row and column of each panel.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let n_heads = self.n_heads;
        (0..self.layers.len()).flat_map(move |row| (0..n_heads).map(move |head| (row, head)))
    }

    /// The left or upper edge of the nth panel.
    fn at(&self, n: usize) -> usize {
        n * (self.side + self.gap)
    }

    fn size(&self) -> (usize, usize) {
        (self.at(self.n_heads) - self.gap, self.at(self.layers.len()) - self.gap)
    }

    /// The smallest step at which the numbers of rows or columns do not overlap.
    fn stride(&self) -> usize {
        [1, 2, 4, 8].into_iter().find(|s| s * (self.side + self.gap) >= 17).unwrap_or(8)
    }
}

/// A panel's row and column, and its cells.
type Panel = ((usize, usize), Grid);

fn figure(
    trace: &Trace,
    panels: &Panels,
    grids: &[Panel],
    scale: LogScale,
    heads: Option<&HeadRanking>,
) -> Figure {
    let left = LEFT as i32;
    let top = TOP as i32;
    let (width, height) = panels.size();
    let size = (width as i32, height as i32);
    let mut canvas = Canvas::default();
    canvas.picture((left, top), size, &picture(panels, grids, scale), MAX_PICTURE);
    let title = heads.map_or_else(|| title(trace), question);
    let facts = format!("{} · {}", shortened(&trace.summary().model.name, 24), overview_facts(trace));
    let low: Vec<(usize, usize)> =
        panels.places().filter(|&place| has_low_recall(trace, panels, place)).collect();
    canvas.draw(|pen| {
        pen.text(&title, (14, 20), Type::TITLE);
        pen.text(&facts, (14, 39), Type::NOTE);
        label(pen, panels);
        low.iter().for_each(|&place| outline(pen, panels, place, ALARM));
        heads.into_iter().for_each(|heads| frame_best(pen, panels, heads));
    });
    for ((row, head), _) in grids {
        let (x, y) = ((LEFT + panels.at(*head)) as i32, (TOP + panels.at(*row)) as i32);
        let recall = recall_of(trace, panels.layers[*row], *head).ok().flatten();
        let recall = recall.map_or(String::new(), |recall| format!(", recall {recall:.2}"));
        let side = panels.side as i32;
        canvas.hint(
            (x, y),
            (x + side, y + side),
            &format!("{}{recall}", head_name(panels.layers[*row], *head)),
        );
    }
    let caption = "Attention that the queries of a cell give to its keys, of all their attention";
    let mut states = vec![("pruned: never computed", Swatch::Hatch), (outside(trace), Swatch::Paper)];
    states.extend((!low.is_empty()).then_some(("recall below 0.5", Swatch::Frame(ALARM))));
    states.extend(heads.map(|_| ("a score of 10 % or more", Swatch::Frame(MARKS[0]))));
    let end = legend(&mut canvas, (left, top + size.1 + 18), scale, caption, &states);
    let description =
        format!("Rows are layers, columns are heads; in each panel rows are queries, columns keys. {facts}.");
    let texts = [14 + text_width(&facts), left + text_width(caption), 14 + title_width(&title)];
    let right = texts.into_iter().fold(left + size.0 + 20, i32::max);
    canvas.figure((right, end), &title, &description)
}

/// Paints all panels in one picture; the gaps have the colour of keys that no query sees.
fn picture(panels: &Panels, grids: &[Panel], scale: LogScale) -> Bitmap {
    let (width, height) = panels.size();
    let mut picture = Bitmap::new(width, height);
    for ((row, head), grid) in grids {
        grid.paint(scale, &mut picture, (panels.at(*head), panels.at(*row)));
    }
    picture
}

/// Writes the numbers of layers and heads along the sides, and layer and head in the empty corner of large
/// panels.
fn label(pen: &Pen, panels: &Panels) {
    let (width, height) = panels.size();
    let middle = |n: usize| (panels.at(n) + panels.side / 2) as i32;
    for (row, layer) in panels.layers.iter().enumerate().step_by(panels.stride()) {
        pen.text(&layer.to_string(), (LEFT as i32 - 7, TOP as i32 + middle(row)), Type::TEXT.before());
    }
    for head in (0..panels.n_heads).step_by(panels.stride()) {
        pen.text(&head.to_string(), (LEFT as i32 + middle(head), TOP as i32 - 9), Type::TEXT.centered());
    }
    pen.text("layer", (14, (TOP + height / 2) as i32), Type::NOTE.upwards().centered());
    pen.text("head", ((LEFT + width / 2) as i32, TOP as i32 - 25), Type::NOTE.centered());
    if panels.side >= LABELLED {
        for (row, head) in panels.places() {
            let corner =
                ((LEFT + panels.at(head) + panels.side - 2) as i32, (TOP + panels.at(row) + 7) as i32);
            pen.text(&head_name(panels.layers[row], head), corner, Type::SMALL.colored(MUTED).before());
        }
    }
}

/// Returns whether a panel shows less than half of what its head looks at, as far as is known.
fn has_low_recall(trace: &Trace, panels: &Panels, (row, head): (usize, usize)) -> bool {
    recall_of(trace, panels.layers[row], head).ok().flatten().is_some_and(|recall| recall < LOW_RECALL)
}

/// Frames the panels of the best heads, and writes their scores into large ones.
fn frame_best(pen: &Pen, panels: &Panels, heads: &HeadRanking) {
    for best in heads.heads.iter().filter(|head| head.score >= FRAMED) {
        let Some(row) = panels.layers.iter().position(|&layer| layer == best.layer) else { continue };
        outline(pen, panels, (row, best.head), MARKS[0]);
        if panels.side >= LABELLED {
            let at =
                ((LEFT + panels.at(best.head) + panels.side - 3) as i32, (TOP + panels.at(row) + 22) as i32);
            pen.text(
                &format!("{:.0} %", 100.0 * best.score),
                at,
                Type::TEXT.bold().colored(MARKS[0]).before(),
            );
        }
    }
}

/// Says which heads a ranking puts first.
fn question(heads: &HeadRanking) -> String {
    let best = heads.heads.iter().take(3).filter(|head| head.score >= FRAMED);
    let best: Vec<String> =
        best.map(|h| format!("{} {:.0} %", head_name(h.layer, h.head), 100.0 * h.score)).collect();
    let best = if best.is_empty() { "no head with 10 %".into() } else { best.join(", ") };
    format!("{best}: {}", shortened(&heads.how, 70))
}

/// Draws a frame around a panel.
fn outline(pen: &Pen, panels: &Panels, (row, head): (usize, usize), color: RGBColor) {
    let (x, y) = ((LEFT + panels.at(head)) as i32, (TOP + panels.at(row)) as i32);
    let side = panels.side as i32;
    pen.frame((x - 1, y - 1), (x + side, y + side), color);
    pen.frame((x - 2, y - 2), (x + side + 1, y + side + 1), color);
}

fn title(trace: &Trace) -> String {
    let layers = count(trace.n_layers(), "layer");
    let layers = match trace.layers().len() {
        n if n < trace.n_layers() => format!("{n} of {layers}"),
        _ => layers,
    };
    format!("All heads: {layers} × {}", count(trace.n_heads(), "head"))
}

/// The facts of a whole trace, on one line.
pub(crate) fn overview_facts(trace: &Trace) -> String {
    let summary = trace.summary();
    facts(summary, summary.config.top_k, summary.pruned, told_recall(summary))
}

/// Says which keys no query sees.
fn outside(trace: &Trace) -> &'static str {
    if trace.summary().model.windows.iter().any(Option::is_some) {
        "after the query, or before its window"
    } else {
        "after the query"
    }
}

#[cfg(test)]
mod tests {
    use crate::trace::synthetic::{Shape, trace};

    #[test]
    fn models_of_any_size_fit_a_page() {
        for (n_layers, n_heads, n_tokens) in [(1, 1, 1), (6, 8, 3000), (32, 32, 700), (80, 64, 40)] {
            let shape = Shape { n_layers, n_heads, n_tokens, ..Default::default() };
            let figure = trace(&shape).overview().unwrap();
            assert!(figure.svg().len() < 1_000_000);
            assert!(figure.size().0 < 1000, "{:?}", figure.size());
        }
    }

    #[test]
    fn large_panels_carry_their_names() {
        let shape = Shape { n_layers: 6, n_heads: 8, ..Default::default() };
        assert!(trace(&shape).overview().unwrap().svg().contains("L5H7"));
    }

    #[test]
    fn layers_that_are_not_there_take_no_place() {
        let whole = trace(&Shape { n_layers: 6, n_heads: 8, ..Default::default() });
        let some = whole.of_layers(&[1, 4]).unwrap().overview().unwrap();
        let all = whole.overview().unwrap();
        assert!(
            some.svg().contains("2 of 6 layers × 8 heads")
                && some.svg().contains("L4H7")
                && !some.svg().contains("L2H7")
        );
        assert!(some.size().1 < all.size().1 / 2 + 60, "{:?} of {:?}", some.size(), all.size());
    }
}
