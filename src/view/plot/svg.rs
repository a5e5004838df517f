//! SVG that plotters cannot write: a root element that a screen reader speaks, embedded pictures, curves and
//! dashes. All else goes through plotters.

use plotters::style::RGBColor;

use crate::words::safe::escaped;

/// A point of a figure, in pixels from the left and the top.
pub(crate) type Point = (i32, i32);

/// plotters divides font sizes by this on their way into the SVG.
pub(super) const FONT_DIVISOR: f64 = 1.24;

/// Wraps `body` into a root element with the title and description that a screen reader speaks.
pub(super) fn document(
    (width, height): (u32, u32),
    id: &str,
    title: &str,
    description: &str,
    body: &str,
) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <title id=\"{id}-title\">{}</title>\n<desc id=\"{id}-desc\">{}</desc>\n{body}</svg>\n",
        escaped(title),
        escaped(description)
    )
}

/// Returns the elements inside plotters' root element: a figure has its own root.
pub(super) fn inside_root(svg: &str) -> &str {
    let inside = svg.split_once('>').map_or("", |(_, rest)| rest);
    inside.strip_suffix("</svg>\n").unwrap_or(inside).trim_start()
}

/// Embeds the picture at `address` in a rectangle, its pixels kept sharp.
pub(super) fn image((left, top): Point, (width, height): (i32, i32), address: &str) -> String {
    format!(
        "<image x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" \
         preserveAspectRatio=\"none\" image-rendering=\"pixelated\" href=\"{address}\"/>\n"
    )
}

/// Draws a translucent curve from `start` to `end`, vertical at both ends.
pub(super) fn curve(start: Point, end: Point, width: f64, color: RGBColor) -> String {
    let (left, top) = start;
    let (right, bottom) = end;
    let middle = (top + bottom) / 2;
    let color = hex(color);
    format!(
        "<path d=\"M{left},{top} C{left},{middle} {right},{middle} {right},{bottom}\" fill=\"none\" \
         stroke=\"{color}\" stroke-width=\"{width:.1}\" stroke-opacity=\"0.6\"/>\n"
    )
}

/// Draws a dashed line from `start` to `end`.
pub(super) fn dashes(start: Point, end: Point, color: RGBColor) -> String {
    let (left, top) = start;
    let (right, bottom) = end;
    let color = hex(color);
    format!(
        "<line x1=\"{left}\" y1=\"{top}\" x2=\"{right}\" y2=\"{bottom}\" stroke=\"{color}\" \
         stroke-dasharray=\"4 3\"/>\n"
    )
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}
