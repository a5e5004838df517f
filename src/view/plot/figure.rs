//! A finished figure: saved as SVG or PNG, or embedded in a page.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::Path,
};

use crate::{
    atomic_file::{ending, save},
    error::Error,
    start::rasterize,
    view::plot::svg,
};

/// A figure as a complete SVG document: no styles, scripts or external files.
#[derive(Clone, PartialEq)]
pub struct Figure {
    svg: String,
    /// Hash of the drawing, which prefixes the ids in the SVG.
    id: String,
    title: String,
    size: (u32, u32),
    /// Width of a saved PNG, in pixels.
    png_width: u32,
}

impl Figure {
    /// Pixels of a saved PNG for each pixel of the figure, unless its width is chosen.
    const PNG_SCALE: u32 = 2;

    /// Wraps `body` into a root element with the title and description that a screen reader speaks.
    pub(super) fn new(size: (u32, u32), title: &str, description: &str, body: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (size, title, description, body).hash(&mut hasher);
        let id = format!("figure-{:016x}", hasher.finish());
        let svg = svg::document(size, &id, title, description, body);
        Figure { svg, id, title: title.into(), size, png_width: Self::PNG_SCALE * size.0 }
    }

    /// Sets the width of a saved PNG, in pixels; without it a PNG has twice the figure's size.
    pub fn png_width(self, pixels: u32) -> Self {
        Figure { png_width: pixels, ..self }
    }

    /// The SVG document.
    pub fn svg(&self) -> &str {
        &self.svg
    }

    /// The figure's title, on one line.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Width and height, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// The SVG with ids that end in `number`, so that they stay unique among several figures of a page.
    pub(crate) fn inline(&self, number: usize) -> String {
        self.svg.replace(&self.id, &format!("{}-{number}", self.id))
    }

    /// Writes the figure as `.svg`, or as `.png` of [`png_width`](Self::png_width) pixels. The file replaces
    /// `path` only when it is complete.
    ///
    /// # Errors
    /// [`Error::Setting`] for another ending or a PNG of zero or too many pixels, [`Error::File`] when the
    /// file cannot be written, and for a PNG [`Error::Engine`] when no engine is there to render it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        if ending(path, "a figure", &["svg", "png"])? == "svg" {
            return save(path, |file| file.write_all(self.svg.as_bytes()));
        }
        let png = rasterize(&self.svg, self.png_width as f32 / self.size.0 as f32)?;
        save(path, |file| file.write_all(&png))
    }
}

impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Figure({:?}, {} × {})", self.title, self.size.0, self.size.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(title: &str) -> Figure {
        Figure::new((10, 20), title, "nothing", "<rect width=\"10\" height=\"20\" fill=\"#fff\"/>\n")
    }

    fn ids(svg: &str) -> Vec<&str> {
        svg.match_indices(" id=\"").map(|(at, _)| svg[at + 5..].split('"').next().unwrap()).collect()
    }

    #[test]
    fn ids_differ_between_figures_and_are_stable() {
        let a = figure("a");
        let b = figure("b");
        let mut all: Vec<&str> = ids(a.svg()).into_iter().chain(ids(b.svg())).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
        assert_eq!(a, figure("a"));
    }

    #[test]
    fn titles_are_escaped() {
        let svg = figure("</title><script>\u{0}\u{ffff}&'\"").svg().to_string();
        assert!(
            svg.contains("&lt;/title&gt;&lt;script&gt;\u{fffd}\u{fffd}&amp;&#39;&quot;</title>"),
            "{svg}"
        );
    }

    #[test]
    fn saves_an_svg_and_refuses_other_endings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.SVG");
        figure("a").save(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), figure("a").svg());
        for name in ["a.jpg", "a", "a."] {
            let error = figure("a").save(folder.path().join(name)).unwrap_err().to_string();
            assert!(error.contains(".svg or .png") && error.contains(name), "{error}");
        }
        let error = figure("a").save(folder.path().join("no/such/a.svg")).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(feature = "engine")]
    #[test]
    fn saves_a_png_of_twice_the_size_or_the_width_that_was_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (figure, size) in [(figure("a"), (20, 40)), (figure("a").png_width(35), (35, 70))] {
            figure.save(&path).unwrap();
            let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
            let reader = decoder.read_info().unwrap();
            assert_eq!((reader.info().width, reader.info().height), size);
        }
        for pixels in [0, u32::MAX] {
            let error = figure("a").png_width(pixels).save(&path).unwrap_err();
            assert!(matches!(error, Error::Setting { .. }), "{error}");
        }
    }
}
