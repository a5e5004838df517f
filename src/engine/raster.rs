//! Renders SVG as PNG, with the system's fonts.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use resvg::{
    tiny_skia,
    usvg::{self, FontResolver},
};

use crate::error::Error;

/// Most pixels of a PNG: they take 400 MB while it is drawn.
const MAX_PIXELS: u64 = 100_000_000;

/// A PNG, and the letters that no font here has.
pub struct Drawn {
    pub png: Vec<u8>,
    pub missing: BTreeSet<char>,
}

impl Drawn {
    /// Says which letters are missing, if any are.
    pub fn note(&self) -> Option<String> {
        let letters: String = self.missing.iter().take(12).collect();
        (!letters.is_empty()).then(|| {
            format!(
                "the picture has boxes for letters that no font here has: {letters}; install a font with them, such as \
                 Noto Sans CJK, or save the figure as .svg"
            )
        })
    }
}

/// Renders a figure's SVG as PNG, with `scale` pixels for each unit of the SVG.
///
/// Texts use the system's fonts, or DejaVu if the system lacks the font.
///
/// # Errors
/// [`Error::Setting`] when the SVG cannot be read, or the picture would have no pixels or too many.
pub fn png(svg: &str, scale: f32) -> Result<Drawn, Error> {
    let missing = Arc::new(Mutex::new(BTreeSet::new()));
    let mut options = usvg::Options { font_resolver: noting(missing.clone()), ..usvg::Options::default() };
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    for font in [
        dejavu::sans::regular(),
        dejavu::sans::bold(),
        dejavu::sans_mono::regular(),
        dejavu::sans_mono::bold(),
    ] {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family("DejaVu Sans");
    fonts.set_monospace_family("DejaVu Sans Mono");
    let fix = "save the figure as .svg instead";
    let tree = usvg::Tree::from_str(svg, &options)
        .map_err(|e| Error::setting("figure", "an SVG document", e, fix))?;
    let size = tree.size();
    let pixels = |length: f32| (length * scale).round() as u32;
    let width = pixels(size.width());
    let height = pixels(size.height());
    let fits = u64::from(width) * u64::from(height) <= MAX_PIXELS;
    let pixmap = if fits { tiny_skia::Pixmap::new(width, height) } else { None };
    let mut pixmap = pixmap.ok_or_else(|| {
        Error::setting("scale of a PNG", "a picture of 1 to 100 million pixels", scale, fix)
    })?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    let png = pixmap.encode_png().map_err(|e| Error::setting("figure", "a picture", e, fix))?;
    drop(options);
    let missing = std::mem::take(&mut *missing.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Drawn { png, missing })
}

/// The usual choice of fonts, which notes the letters for which there is none.
fn noting(missing: Arc<Mutex<BTreeSet<char>>>) -> FontResolver<'static> {
    let usual = FontResolver::default_fallback_selector();
    let select_fallback =
        Box::new(move |letter: char, used: &[usvg::fontdb::ID], fonts: &mut Arc<usvg::fontdb::Database>| {
            let found = usual(letter, used, fonts);
            if found.is_none() && !letter.is_control() {
                missing.lock().unwrap_or_else(PoisonError::into_inner).insert(letter);
            }
            found
        });
    FontResolver { select_fallback, ..FontResolver::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace, trace_of_words};

    fn pixels(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn cells_are_drawn_in_their_colours() {
        let figure = trace(&Shape::default()).attention_map(0, 0).unwrap().figure();
        let (width, height, pixels) = pixels(&png(figure.svg(), 2.0).unwrap().png);
        assert_eq!((width, height), (2 * figure.size().0, 2 * figure.size().1));
        let count =
            |is: fn(&[u8; 4]) -> bool| pixels.as_chunks::<4>().0.iter().filter(|pixel| is(pixel)).count();
        // The hatch is a light grey with a little blue, mixed with paper at its edges.
        let hatched = count(|p| (0xc9..0xf0).contains(&p[0]) && p[0] < p[1] && p[1] < p[2]);
        let paper = count(|p| p[..3] == [0xff; 3]);
        assert!(hatched > 20_000 && paper > 100_000, "{hatched} pixels of a hatch, {paper} of paper");
    }

    #[test]
    fn hostile_text_makes_a_document_all_the_same() {
        let words = ["</svg><script>", "\u{0}\u{1b}", "\u{ffff}", "\"'&", "]]>"].map(String::from);
        let shape = Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() };
        let svg = trace_of_words(&shape, &words).attention_map(0, 0).unwrap().svg();
        assert!(png(&svg, 1.0).is_ok());
    }

    #[test]
    fn letters_without_a_font_are_told() {
        let text = |text: &str| {
            let svg = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"20\"><text y=\"15\" font-family=\"sans-serif\">{text}</text></svg>"
            );
            png(&svg, 1.0).unwrap()
        };
        assert!(text("plain, größer, ␣").note().is_none());
        // A letter of a private area, which no font has.
        let drawn = text("a\u{f8fff}b");
        assert!(
            drawn.missing.contains(&'\u{f8fff}')
                && drawn.note().is_some_and(|note| note.contains("Noto Sans"))
        );
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"/>";
        for (svg, scale) in
            [("<svg", 1.0), ("", 1.0), (svg, 0.0), (svg, f32::NAN), (svg, 1e9), (svg, 1e4), (svg, -1.0)]
        {
            assert!(matches!(png(svg, scale), Err(Error::Setting { .. })), "{svg} {scale}");
        }
    }
}
