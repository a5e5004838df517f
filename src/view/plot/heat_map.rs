//! A table of shares as coloured cells: recall by layer and head, scores by depth and length.

use std::path::Path;

use super::{
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    labels::{title_width, width},
    legend::{BAR, CAPTION, color_bar},
    theme::{PRUNED, ink_on, kept_color},
};
use crate::error::Error;

/// Width and height of all cells at most, and the smallest and largest width and height of one cell, in
/// pixels.
pub(super) const WIDTH: usize = 640;
const CELL_WIDTH: std::ops::RangeInclusive<usize> = 8..=64;
const CELL_HEIGHT: std::ops::RangeInclusive<usize> = 8..=26;
/// The smallest width and height of a cell that has room for its number.
const NUMBERED: (usize, usize) = (26, 14);
const TOP: i32 = 96;
/// The largest number of cells that tell their value.
const MOST_TOLD: usize = 1500;

/// A table of shares, each between 0 and 1; a cell without a value is grey.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    pub title: String,
    /// The line below the title, such as the prompt and the settings.
    pub facts: String,
    /// The quantity that the colours stand for.
    pub measure: String,
    /// The name of the vertical axis, such as "layer".
    pub row_name: String,
    /// The label of each row, from top to bottom.
    pub rows: Vec<String>,
    /// The name of the horizontal axis, such as "head".
    pub column_name: String,
    /// The label of each column, from left to right.
    pub columns: Vec<String>,
    /// `[rows][columns]`; `None` where the value is unknown.
    pub values: Vec<Vec<Option<f64>>>,
}

/// The position and size of the map in the figure.
pub(super) struct Place {
    /// The upper left corner of the map with its title.
    corner: Point,
    /// The left edge of the cells.
    pub left: i32,
    /// Width and height of a cell.
    cell: (usize, usize),
}

impl HeatMap {
    /// A map of layers and heads; `values` is `[n_layers][n_heads]`.
    /// Makes a map of values `[n_layers][n_heads]`, of which NaN is none.
    pub(crate) fn by_layer_and_head(
        title: String,
        facts: String,
        measure: &str,
        values: &[Vec<f64>],
    ) -> Self {
        let names = |n: usize| (0..n).map(|i| i.to_string()).collect();
        HeatMap {
            title,
            facts,
            measure: measure.into(),
            row_name: "layer".into(),
            rows: names(values.len()),
            column_name: "head".into(),
            columns: names(values.iter().map(Vec::len).max().unwrap_or(0)),
            values: values
                .iter()
                .map(|row| row.iter().map(|&v| (!v.is_nan()).then_some(v)).collect())
                .collect(),
        }
    }

    /// Draws the map.
    pub fn figure(&self) -> Figure {
        let place = self.place((0, 0), WIDTH);
        let mut canvas = Canvas::default();
        self.draw(&mut canvas, &place, Type::TITLE, self.top());
        let (right, bottom) = self.legend(&mut canvas, &place, self.top());
        canvas.figure((right.max(self.right(&place)), bottom), &self.title, &self.description())
    }

    /// Returns the place of a map with its corner there, with cells at most so wide in all.
    pub(super) fn place(&self, corner: Point, cells_width: usize) -> Place {
        let widest = self.rows.iter().map(|row| width(row)).max().unwrap_or(0);
        let share = |total: usize, n: usize, sizes: std::ops::RangeInclusive<usize>| {
            (total / n.max(1)).clamp(*sizes.start(), *sizes.end())
        };
        let cell =
            (share(cells_width, self.columns.len(), CELL_WIDTH), share(WIDTH, self.rows.len(), CELL_HEIGHT));
        Place { corner, left: corner.0 + 44 + widest, cell }
    }

    /// Returns the right edge of the map: of its cells or of its texts.
    pub(super) fn right(&self, place: &Place) -> i32 {
        let texts = (width(&self.facts) + 28).max(28 + title_width(&self.title));
        (self.cells_end(place).0 + 20).max(place.corner.0 + texts)
    }

    /// Returns the lower right corner of the cells.
    fn cells_end(&self, place: &Place) -> Point {
        place.cell_corner(self.rows.len(), self.columns.len())
    }

    /// Saves the map as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    /// Draws titles, axes and cells; each cell tells its value under the mouse. `top` is the value of the
    /// darkest colour.
    pub(super) fn draw(&self, canvas: &mut Canvas, place: &Place, title: Type, top: f64) {
        canvas.draw(|pen| self.draw_cells(pen, place, title, top));
        let cells = self
            .values
            .iter()
            .enumerate()
            .flat_map(|(r, row)| row.iter().enumerate().map(move |(c, v)| (r, c, v)));
        for (row, column, value) in cells.take(MOST_TOLD) {
            let value = value.map_or("unknown".into(), |value| format!("{value:.3}"));
            let hint = format!("{}: {value}", self.name(row, column));
            canvas.hint(place.cell_corner(row, column), place.cell_corner(row + 1, column + 1), &hint);
        }
    }

    /// Names a cell by its row and column.
    fn name(&self, row: usize, column: usize) -> String {
        let label = |labels: &[String], at: usize| labels.get(at).cloned().unwrap_or_default();
        let (row, column) = (label(&self.rows, row), label(&self.columns, column));
        match (self.row_name.as_str(), self.column_name.as_str()) {
            ("layer", "head") => format!("L{row}H{column}"),
            (r, c) => format!("{r} {row}, {c} {column}"),
        }
    }

    /// The value of the darkest colour: 1, or a round number above the largest if that is less than a half.
    pub(super) fn top(&self) -> f64 {
        let most = self.values.iter().flatten().flatten().copied().fold(0.0, f64::max);
        [0.02, 0.05, 0.1, 0.2, 0.5].into_iter().find(|top| most <= *top).unwrap_or(1.0)
    }

    fn draw_cells(&self, pen: &Pen, place: &Place, title: Type, most: f64) {
        let (x, y) = place.corner;
        pen.text(&self.title, (x + 14, y + 20), title);
        pen.text(&self.facts, (x + 14, y + 39), Type::NOTE);
        let ((right, bottom), top) = (self.cells_end(place), y + TOP);
        pen.text(&self.column_name, ((place.left + right) / 2, top - 30), Type::NOTE.centered());
        pen.text(&self.row_name, (x + 16, (top + bottom) / 2), Type::NOTE.upwards().centered());
        for (row, name) in self.rows.iter().enumerate().step_by(place.stride(place.cell.1)) {
            let (_, y) = place.middle(row, 0);
            pen.text(name, (place.left - 7, y), Type::TEXT.before());
        }
        let widest = self.columns.iter().map(|name| width(name)).max().unwrap_or(0) as usize + 4;
        for (column, name) in self.columns.iter().enumerate().step_by(widest.div_ceil(place.cell.0).max(1)) {
            pen.text(name, (place.middle(0, column).0, top - 11), Type::TEXT.centered());
        }
        for (row, values) in self.values.iter().enumerate() {
            values
                .iter()
                .enumerate()
                .for_each(|(column, &value)| place.cell(pen, (row, column), value, most));
        }
    }

    /// Draws the colour bar below the cells, and the colour of unknown cells if there are any; returns the
    /// legend's lower right corner.
    pub(super) fn legend(&self, canvas: &mut Canvas, place: &Place, top: f64) -> Point {
        let left = place.left;
        let bar = self.cells_end(place).1 + 18 + CAPTION;
        let tick = |quarter: i32| f64::from(quarter) / 4.0 * top;
        let ticks =
            (0..=4).map(|quarter| (quarter * BAR.0 / 4, format!("{}", (tick(quarter) * 1e4).round() / 1e4)));
        color_bar(canvas, (left, bar), &self.measure, ticks);
        if self.values.iter().flatten().any(Option::is_none) {
            let x = left + BAR.0 + 24;
            canvas.draw(|pen| {
                pen.fill((x, bar), (x + 13, bar + 11), PRUNED);
                pen.text("unknown", (x + 20, bar + 6), Type::TEXT);
            });
        }
        (left + (BAR.0 + 90).max(width(&self.measure) + 14), bar + BAR.1 + 24)
    }

    /// Describes the map in words.
    pub(super) fn description(&self) -> String {
        let cells = self.values.iter().enumerate().flat_map(|(row, values)| {
            values.iter().enumerate().filter_map(move |(column, value)| Some((row, column, (*value)?)))
        });
        let name = |(row, column, value): (usize, usize, f64)| {
            let row = self.rows.get(row).map_or("", String::as_str);
            let column = self.columns.get(column).map_or("", String::as_str);
            format!("{value:.3} at {} {row}, {} {column}", self.row_name, self.column_name)
        };
        let lowest = cells.clone().min_by(|a, b| a.2.total_cmp(&b.2)).map(name);
        let highest = cells.max_by(|a, b| a.2.total_cmp(&b.2)).map(name);
        let range = lowest
            .zip(highest)
            .map_or("nothing".into(), |(lowest, highest)| format!("from {lowest} to {highest}"));
        format!("By {} and {}. {}: {range}. {}.", self.row_name, self.column_name, self.measure, self.facts)
    }
}

impl Place {
    /// The upper left corner of a cell.
    fn cell_corner(&self, row: usize, column: usize) -> Point {
        (self.left + (column * self.cell.0) as i32, self.corner.1 + TOP + (row * self.cell.1) as i32)
    }

    fn middle(&self, row: usize, column: usize) -> Point {
        let (left, top) = self.cell_corner(row, column);
        (left + self.cell.0 as i32 / 2, top + self.cell.1 as i32 / 2)
    }

    /// The smallest step at which row labels do not overlap; `size` is the height of a row.
    fn stride(&self, size: usize) -> usize {
        13usize.div_ceil(size).max(1)
    }

    /// Draws a cell, with its number if there is room and it is not 0.
    fn cell(&self, pen: &Pen, (row, column): (usize, usize), value: Option<f64>, top: f64) {
        let corner = self.cell_corner(row, column);
        let opposite = self.cell_corner(row + 1, column + 1);
        let inside = (opposite.0 - 1, opposite.1 - 1);
        pen.fill(corner, inside, value.map_or(PRUNED, |value| kept_color(value / top)));
        let has_room = self.cell.0 >= NUMBERED.0 && self.cell.1 >= NUMBERED.1;
        if let Some(value) = value.filter(|value| has_room && *value >= 0.005) {
            let kind = Type::SMALL.colored(ink_on(value / top)).centered();
            pen.text(&format!("{value:.2}"), self.middle(row, column), kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::plot::bitmap::tests::decode;

    fn map(n_rows: usize, n_columns: usize) -> HeatMap {
        let values = (0..n_rows).map(|r| {
            (0..n_columns).map(|c| (r * n_columns + c) as f64 / (n_rows * n_columns) as f64).collect()
        });
        HeatMap::by_layer_and_head(
            "Recall <1>".into(),
            "16,384 tokens".into(),
            "Recall",
            &values.collect::<Vec<Vec<f64>>>(),
        )
    }

    #[test]
    fn every_cell_has_its_number_if_there_is_room() {
        let svg = map(6, 8).figure().svg().to_string();
        for value in ["0.02", "0.50", "0.98", "<title>L5H7: 0.979</title>"] {
            assert!(svg.contains(value), "{value}");
        }
        assert!(
            svg.contains("0.979 at layer 5, head 7")
                && svg.contains("Recall &lt;1&gt;")
                && !svg.contains("unknown")
        );
        assert_eq!(decode(&svg).0, BAR.0 as usize);
        let large = map(80, 64).figure();
        assert!(
            large.size().0 < 900 && large.size().1 < 900 && !large.svg().contains(">0.50<"),
            "{:?}",
            large.size()
        );
    }

    #[test]
    fn unknown_cells_are_grey_and_none_is_no_crash() {
        let mut map = map(1, 2);
        map.values = vec![vec![None, Some(0.25)]];
        let svg = map.figure().svg().to_string();
        assert!(svg.contains("unknown") && svg.contains("from 0.250 at layer 0, head 1"), "{svg}");
        map.values.clear();
        assert!(map.figure().svg().contains("nothing"));
    }
}
