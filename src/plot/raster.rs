//! SVG to PNG: with the engine in this program, through its fonts; otherwise by the engine's process.

use crate::error::Error;

/// A figure's SVG as PNG, `scale` pixels for each of its own.
///
/// Texts use the system's fonts, DejaVu Sans where those it asks for are missing.
///
/// # Errors
/// [`Error::Setting`] when the SVG cannot be read, or the scale makes a picture of no or too many pixels.
#[cfg(feature = "engine")]
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, Error> {
    use resvg::{tiny_skia, usvg};

    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    for font in [dejavu::sans::regular(), dejavu::sans::bold()] {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family("DejaVu Sans");
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| bad("figure", "an SVG document", e.to_string()))?;
    let size = tree.size();
    let pixels = |length: f32| (length * scale).ceil() as u32;
    let pixmap = tiny_skia::Pixmap::new(pixels(size.width()), pixels(size.height()));
    let mut pixmap = pixmap.ok_or_else(|| bad("scale of a PNG", "a picture that fits into memory", scale.to_string()))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|e| bad("figure", "a picture", e.to_string()))
}

#[cfg(feature = "engine")]
fn bad(setting: &str, expected: &str, found: String) -> Error {
    Error::Setting { setting: setting.into(), expected: expected.into(), found, fix: "save the figure as .svg instead".into() }
}

/// Without an engine in this program there are no fonts to draw with: the engine's own process draws.
#[cfg(not(feature = "engine"))]
pub(super) fn png(svg: &str, scale: f32) -> Result<Vec<u8>, Error> {
    crate::engine::rasterize(svg, scale)
}
