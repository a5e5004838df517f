//! What figures are drawn on: vectors through plotters, pictures as embedded PNG, styles as attributes only.

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
    theme::{FONT, INK, MUTED, PAPER, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE},
};
use crate::words::safe::allowed_in_xml;

/// plotters wants a size; the page gets its own when it is complete.
const UNBOUNDED: (u32, u32) = (100_000, 100_000);

/// A point of the page, in pixels from the left and the top.
pub(crate) type Point = (i32, i32);

/// A page under construction; later parts lie above earlier ones.
#[derive(Default)]
pub(crate) struct Canvas {
    body: String,
}

impl Canvas {
    /// Draws lines, shapes and text.
    pub fn draw(&mut self, draw: impl FnOnce(&Pen)) {
        let mut svg = String::new();
        draw(&Pen(SVGBackend::with_string(&mut svg, UNBOUNDED).into_drawing_area()));
        // Only what lies inside plotters' root element: the figure has its own.
        let inside = svg.split_once('>').map_or("", |(_, rest)| rest);
        let inside = inside.strip_suffix("</svg>\n").unwrap_or(inside);
        self.body.push_str(inside.trim_start());
    }

    /// A picture stretched over a rectangle, its pixels kept sharp; at most `max_bytes` if fewer shades can do it.
    pub fn picture(
        &mut self,
        (left, top): Point,
        (width, height): (i32, i32),
        picture: &Bitmap,
        max_bytes: usize,
    ) {
        let address = picture.stretched(width as usize, height as usize).address(max_bytes);
        self.body.push_str(&format!(
            "<image x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
             image-rendering=\"pixelated\" href=\"{address}\"/>\n"
        ));
    }

    /// A curve from one point up to another, upright at both ends, that lets what is below it shine through.
    pub fn curve(&mut self, ((x0, y0), (x1, y1)): (Point, Point), width: f64, color: RGBColor) {
        let (middle, color) = ((y0 + y1) / 2, hex(color));
        self.body.push_str(&format!(
            "<path d=\"M{x0},{y0} C{x0},{middle} {x1},{middle} {x1},{y1}\" fill=\"none\" stroke=\"{color}\" \
             stroke-width=\"{width:.1}\" stroke-opacity=\"0.6\"/>\n"
        ));
    }

    /// A dashed line.
    pub fn dashes(&mut self, (x0, y0): Point, (x1, y1): Point, color: RGBColor) {
        let color = hex(color);
        self.body.push_str(&format!(
            "<line x1=\"{x0}\" y1=\"{y0}\" x2=\"{x1}\" y2=\"{y1}\" stroke=\"{color}\" stroke-dasharray=\"4 3\"/>\n"
        ));
    }

    /// The figure of this size, on paper so that it is legible in a dark notebook, with the words that a screen reader speaks.
    pub fn figure(self, (width, height): (i32, i32), title: &str, description: &str) -> Figure {
        let mut paper = Canvas::default();
        paper.draw(|pen| pen.fill((0, 0), (width, height), PAPER));
        Figure::new(
            (width.max(1) as u32, height.max(1) as u32),
            title,
            description,
            &(paper.body + &self.body),
        )
    }
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// How a text looks and where it lies about its point.
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

    /// Starts at its point, centred on its height.
    const fn new(size: u32, color: RGBColor, bold: bool) -> Self {
        Type { size, color, bold, anchor: Pos { h_pos: HPos::Left, v_pos: VPos::Center }, upwards: false }
    }

    pub fn centered(mut self) -> Self {
        self.anchor.h_pos = HPos::Center;
        self
    }

    /// Ends at its point.
    pub fn before(mut self) -> Self {
        self.anchor.h_pos = HPos::Right;
        self
    }

    pub fn colored(mut self, color: RGBColor) -> Self {
        self.color = color;
        self
    }

    /// Read from bottom to top.
    pub fn upwards(mut self) -> Self {
        self.upwards = true;
        self
    }
}

/// Draws on a canvas; drawing into memory cannot fail.
pub(crate) struct Pen<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl Pen<'_> {
    pub fn text(&self, text: &str, at: Point, kind: Type) {
        // XML has no way to write these, escaped or not.
        let text: String = text.chars().map(|c| if allowed_in_xml(c) { c } else { '\u{fffd}' }).collect();
        let style = if kind.bold { FontStyle::Bold } else { FontStyle::Normal };
        // plotters divides sizes by 1.24 on their way into the SVG.
        let font = (FontFamily::from(FONT), f64::from(kind.size) * 1.24, style);
        let turn = if kind.upwards { FontTransform::Rotate270 } else { FontTransform::None };
        let style = TextStyle::from(font).transform(turn).color(&kind.color).pos(kind.anchor);
        drawn(self.0.draw(&Text::new(text, at, style)));
    }

    pub fn line(&self, from: Point, to: Point, color: RGBColor) {
        drawn(self.0.draw(&PathElement::new([from, to], color)));
    }

    /// A line that lets what is below it shine through.
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
