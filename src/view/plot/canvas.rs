//! The canvas of a figure: vectors through plotters, pictures as embedded PNG, styles as attributes only.

use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{PathElement, Polygon, Rectangle, Text},
    style::{
        Color, FontFamily, FontStyle, FontTransform, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    bitmap::Bitmap,
    figure::Figure,
    svg::{self, FONT_DIVISOR},
    theme::{FONT, INK, MUTED, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE},
};
use crate::words::{letters::directed, safe::allowed_in_xml};

pub(crate) use super::svg::Point;

/// Size that plotters is given; the figure gets its own when it is complete.
const UNBOUNDED: (u32, u32) = (100_000, 100_000);

/// A figure under construction; later parts lie above earlier ones.
#[derive(Default)]
pub(crate) struct Canvas {
    body: String,
}

impl Canvas {
    /// Draws lines, shapes and text.
    pub fn draw(&mut self, draw: impl FnOnce(&Pen)) {
        let mut svg = String::new();
        draw(&Pen(SVGBackend::with_string(&mut svg, UNBOUNDED).into_drawing_area()));
        self.body.push_str(svg::inside_root(&svg));
    }

    /// Draws a picture stretched over a rectangle, its pixels kept sharp, in at most `max_bytes` if fewer
    /// shades make that possible.
    pub fn picture(
        &mut self,
        corner: Point,
        (width, height): (i32, i32),
        picture: &Bitmap,
        max_bytes: usize,
    ) {
        if picture.is_pruned() {
            self.body.push_str(&svg::hatched(corner, (width, height)));
        }
        let address = picture.stretched(width as usize, height as usize).address(max_bytes);
        self.body.push_str(&svg::image(corner, (width, height), &address));
    }

    /// Draws a translucent curve, vertical at both ends, which says `hint` under the mouse.
    pub fn curve(&mut self, start: Point, end: Point, width: f64, color: RGBColor, hint: &str) {
        self.body.push_str(&svg::curve(start, end, width, color, hint));
    }

    /// Says `text` while the mouse is over a rectangle.
    pub fn hint(&mut self, corner: Point, opposite: Point, text: &str) {
        self.body.push_str(&svg::hint(corner, opposite, text));
    }

    /// Writes text in letters of one width.
    pub fn run(&mut self, run: &svg::Run) {
        self.body.push_str(&run.svg());
    }

    /// Writes a label that rises to its end at a point.
    pub fn slanted(&mut self, text: &str, at: Point, kind: Type) {
        self.body.push_str(&svg::slanted(text, at, kind.size, kind.color));
    }

    /// Draws a dashed line.
    pub fn dashes(&mut self, start: Point, end: Point, color: RGBColor) {
        self.body.push_str(&svg::dashes(start, end, color));
    }

    /// Returns the finished figure. A screen reader speaks `title` and `description`.
    pub fn figure(self, (width, height): (i32, i32), title: &str, description: &str) -> Figure {
        Figure::new((width.max(1) as u32, height.max(1) as u32), title, description, &self.body)
    }
}

/// Size, colour, weight and anchor of a text.
#[derive(Clone, Copy)]
pub(crate) struct Type {
    size: u32,
    color: RGBColor,
    bold: bool,
    anchor: Pos,
    upwards: bool,
}

impl Type {
    pub const TITLE: Type = Type::new(TITLE_SIZE, INK, true);
    pub const TEXT: Type = Type::new(TEXT_SIZE, INK, false);
    pub const NOTE: Type = Type::new(TEXT_SIZE, MUTED, false);
    pub const SMALL: Type = Type::new(SMALL_SIZE, INK, false);

    /// Text that starts at its point, vertically centred on it.
    const fn new(size: u32, color: RGBColor, bold: bool) -> Self {
        Type { size, color, bold, anchor: Pos { h_pos: HPos::Left, v_pos: VPos::Center }, upwards: false }
    }

    /// The same type, centred on its point.
    pub fn centered(mut self) -> Self {
        self.anchor.h_pos = HPos::Center;
        self
    }

    /// The same type, ending at its point.
    pub fn before(mut self) -> Self {
        self.anchor.h_pos = HPos::Right;
        self
    }

    /// The same type, bold.
    pub fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    /// The same type in another colour.
    pub fn colored(mut self, color: RGBColor) -> Self {
        self.color = color;
        self
    }

    /// The same type, read from bottom to top.
    pub fn upwards(mut self) -> Self {
        self.upwards = true;
        self
    }
}

/// Draws on a canvas through plotters.
pub(crate) struct Pen<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl Pen<'_> {
    pub fn text(&self, text: &str, at: Point, kind: Type) {
        // XML cannot hold the other characters, escaped or not.
        let text: String =
            directed(text).chars().map(|c| if allowed_in_xml(c) { c } else { '\u{fffd}' }).collect();
        let style = if kind.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = (FontFamily::from(FONT), f64::from(kind.size) * FONT_DIVISOR, style);
        let turn = if kind.upwards { FontTransform::Rotate270 } else { FontTransform::None };
        let style = TextStyle::from(font).transform(turn).color(&kind.color).pos(kind.anchor);
        drawn(self.0.draw(&Text::new(text, at, style)));
    }

    pub fn line(&self, from: Point, to: Point, color: RGBColor) {
        drawn(self.0.draw(&PathElement::new([from, to], color)));
    }

    /// Draws a translucent line.
    pub fn faint_line(&self, from: Point, to: Point, color: RGBColor) {
        drawn(self.0.draw(&PathElement::new([from, to], color.mix(0.45))));
    }

    pub fn fill(&self, corner: Point, opposite: Point, color: RGBColor) {
        drawn(self.0.draw(&Rectangle::new([corner, opposite], color.filled())));
    }

    pub fn frame(&self, corner: Point, opposite: Point, color: RGBColor) {
        drawn(self.0.draw(&Rectangle::new([corner, opposite], color)));
    }

    pub fn area(&self, outline: Vec<Point>, color: RGBColor) {
        drawn(self.0.draw(&Polygon::new(outline, color)));
    }
}

fn drawn<E: std::fmt::Debug>(result: Result<(), E>) {
    result.expect("drawing into memory cannot fail");
}
