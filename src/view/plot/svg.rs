//! SVG that plotters cannot write: a root element that a screen reader speaks, a dark mode, hints under the
//! mouse, embedded pictures, curves and dashes. All else goes through plotters.

use plotters::style::RGBColor;

use super::theme::{FONT, HATCH, HATCH_STEP, INK, MUTED};
use crate::words::{letters::directed, safe::escaped};

/// A point of a figure, in pixels from the left and the top.
pub(crate) type Point = (i32, i32);

/// plotters divides font sizes by this on their way into the SVG.
pub(super) const FONT_DIVISOR: f64 = 1.24;

/// The style of every figure: white paper and dark ink, or all colours turned round where the reader prefers
/// dark pages. Where styles are stripped, the ground is transparent and the ink grey, legible on both.
const STYLE: &str = ".streamtrace-paper{fill:#fff}.streamtrace-ink{fill:#1f242b}.streamtrace-muted{fill:#555f6a}\
     @media (prefers-color-scheme:dark){.streamtrace-figure{filter:invert(.91) hue-rotate(180deg)}}";
/// The colours of ink and of muted ink without styles.
const GREYS: [&str; 2] = ["#6e7781", "#7d8690"];

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
         <title id=\"{id}-title\">{}</title>\n<desc id=\"{id}-desc\">{}</desc>\n<style>{STYLE}</style>\n{}\
         <g class=\"streamtrace-figure\">\n<rect class=\"streamtrace-paper\" width=\"{width}\" height=\"{height}\" \
         fill=\"none\"/>\n{}</g>\n</svg>\n",
        escaped(title),
        escaped(description),
        hatch(id, body),
        with_classes(body).replace("url(#hatch)", &format!("url(#{id}-hatch)"))
    )
}

/// Gives ink its class, by which the style finds it, and the grey that it has without styles.
fn with_classes(body: &str) -> String {
    [(INK, "ink", GREYS[0]), (MUTED, "muted", GREYS[1])].into_iter().fold(
        body.into(),
        |body, (color, class, grey)| {
            let fill = format!("fill=\"{}\"", hex(color).to_uppercase());
            body.replace(&fill, &format!("class=\"streamtrace-{class}\" fill=\"{grey}\""))
        },
    )
}

/// Hatches a rectangle, below a picture that is transparent where blocks were pruned.
pub(super) fn hatched((left, top): Point, (width, height): (i32, i32)) -> String {
    format!("<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"url(#hatch)\"/>\n")
}

/// The pattern of a figure's hatch, if it has one.
fn hatch(id: &str, body: &str) -> String {
    if !body.contains("url(#hatch)") {
        return String::new();
    }
    format!(
        "<defs><pattern id=\"{id}-hatch\" width=\"{HATCH_STEP}\" height=\"{HATCH_STEP}\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><path d=\"M0,0V{HATCH_STEP}\" stroke=\"{}\" stroke-width=\"2\"/></pattern></defs>\n",
        hex(HATCH)
    )
}

/// Says `text` while the mouse is over a rectangle.
pub(super) fn hint((left, top): Point, (right, bottom): Point, text: &str) -> String {
    let (width, height) = ((right - left).max(1), (bottom - top).max(1));
    format!(
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" \
         pointer-events=\"all\"><title>{}</title></rect>\n",
        escaped(text)
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

/// Draws a translucent curve from `start` to `end`, vertical at both ends, which says `hint` under the mouse.
pub(super) fn curve(start: Point, end: Point, width: f64, color: RGBColor, hint: &str) -> String {
    let (left, top) = start;
    let (right, bottom) = end;
    let middle = (top + bottom) / 2;
    let color = hex(color);
    format!(
        "<path d=\"M{left},{top} C{left},{middle} {right},{middle} {right},{bottom}\" fill=\"none\" \
         stroke=\"{color}\" stroke-width=\"{width:.1}\" stroke-opacity=\"0.6\"><title>{}</title></path>\n",
        escaped(hint)
    )
}

/// Writes a label that rises to its end at a point.
pub(super) fn slanted(text: &str, (x, y): Point, size: u32, color: RGBColor) -> String {
    format!(
        "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-52 {x} {y})\" text-anchor=\"end\" font-family=\"{FONT}\" \
         font-size=\"{size}\" fill=\"{}\">{}</text>\n",
        hex(color).to_uppercase(),
        escaped(&directed(text))
    )
}

/// A piece of text in letters of one width, stretched to its place.
pub(super) struct Run<'a> {
    pub text: &'a str,
    /// Where its first letter stands on the line.
    pub at: Point,
    pub width: i32,
    pub color: RGBColor,
    pub bold: bool,
}

impl Run<'_> {
    pub fn svg(&self) -> String {
        let Run { text, at: (x, y), width, color, bold } = self;
        if text.trim().is_empty() || *width <= 0 {
            return String::new();
        }
        let weight = if *bold { " font-weight=\"bold\"" } else { "" };
        format!(
            "<text x=\"{x}\" y=\"{y}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"13\"{weight} \
             textLength=\"{width}\" lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\" fill=\"{}\">{}</text>\n",
            hex(*color).to_uppercase(),
            escaped(&directed(text))
        )
    }
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
