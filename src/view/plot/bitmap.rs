//! The pixels of a map, encoded as an indexed PNG in a `data:` address.

use base64::prelude::{BASE64_STANDARD, Engine};
use plotters::style::RGBColor;
use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use super::theme::{HATCH, PAPER, kept_color};

/// The shade of a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shade {
    Outside,
    Pruned,
    /// 0 for the weakest attention of the scale, 1 for the strongest; other levels are clamped.
    Kept(f64),
}

/// Number of shades of kept cells; fewer when the picture would be too large otherwise.
const N_SHADES: [u8; 3] = [60, 24, 8];

/// A picture of `width` × `height` pixels, all of them [`Shade::Outside`] until they are set.
pub(super) struct Bitmap {
    width: usize,
    height: usize,
    pixels: Vec<Shade>,
}

impl Bitmap {
    pub fn new(width: usize, height: usize) -> Self {
        Bitmap { width, height, pixels: vec![Shade::Outside; width * height] }
    }

    /// All shades in a row, weakest left.
    pub fn scale() -> Self {
        let n = usize::from(N_SHADES[0]);
        let pixels = (0..n).map(|i| Shade::Kept(i as f64 / (n - 1) as f64)).collect();
        Bitmap { width: n, height: 1, pixels }
    }

    /// Whether any pixel was pruned.
    pub fn is_pruned(&self) -> bool {
        self.pixels.contains(&Shade::Pruned)
    }

    pub fn set(&mut self, x: usize, y: usize, shade: Shade) {
        self.pixels[y * self.width + x] = shade;
    }

    pub fn fill(&mut self, shade: Shade) {
        self.pixels.fill(shade);
    }

    /// Repeats pixels to fill a size, so that every viewer shows the picture sharp.
    pub fn stretched(&self, width: usize, height: usize) -> Self {
        let pixel = |at: usize| {
            self.pixels[at / width * self.height / height * self.width + at % width * self.width / width]
        };
        Bitmap { width, height, pixels: (0..width * height).map(pixel).collect() }
    }

    /// Encodes the picture as a `data:` address of at most `max_bytes`, if fewer shades make that possible.
    pub fn address(&self, max_bytes: usize) -> String {
        let encode =
            |n_shades| format!("data:image/png;base64,{}", BASE64_STANDARD.encode(self.png(n_shades)));
        let [most, .., fewest] = N_SHADES;
        let address = encode(most);
        if address.len() <= max_bytes {
            return address;
        }
        let smaller = N_SHADES[1..].iter().map(|&n| encode(n)).find(|a| a.len() <= max_bytes);
        smaller.unwrap_or_else(|| encode(fewest))
    }

    fn png(&self, n_shades: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::High);
        encoder.set_filter(Filter::NoFilter);
        encoder.set_palette(palette(n_shades));
        // What was pruned is transparent: a hatch lies below the picture.
        encoder.set_trns(vec![255, 0]);
        let indices: Vec<u8> = self.pixels.iter().map(|&shade| index(shade, n_shades)).collect();
        let mut writer = encoder.write_header().expect("a picture has pixels, and memory takes them");
        writer.write_image_data(&indices).expect("one index for each pixel");
        writer.finish().expect("the picture is complete");
        bytes
    }
}

/// The palette: the ground, what was pruned, then the shades from the weakest.
fn palette(n_shades: u8) -> Vec<u8> {
    let kept = (0..n_shades).map(|i| kept_color(f64::from(i) / f64::from(n_shades - 1)));
    [PAPER, HATCH].into_iter().chain(kept).flat_map(|RGBColor(r, g, b)| [r, g, b]).collect()
}

/// Returns the place of a pixel's colour in the palette.
fn index(shade: Shade, n_shades: u8) -> u8 {
    match shade {
        Shade::Outside => 0,
        Shade::Pruned => 1,
        Shade::Kept(level) => 2 + (level.clamp(0.0, 1.0) * f64::from(n_shades - 1)).round() as u8,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Decodes the first picture in a text: width, height and colours.
    pub fn decode(svg: &str) -> (usize, usize, Vec<[u8; 3]>) {
        let start = svg.find("base64,").unwrap() + 7;
        let end = start + svg[start..].find('"').unwrap_or(svg.len() - start);
        let bytes = BASE64_STANDARD.decode(&svg[start..end]).unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let colors = pixels.as_chunks::<4>().0.iter().map(|&[r, g, b, _]| [r, g, b]).collect();
        (info.width as usize, info.height as usize, colors)
    }

    #[test]
    fn states_have_their_colours() {
        let mut picture = Bitmap::new(2, 2);
        picture.set(1, 0, Shade::Pruned);
        picture.set(0, 1, Shade::Kept(0.0));
        picture.set(1, 1, Shade::Kept(1.0));
        let (width, height, colors) = decode(&picture.address(usize::MAX));
        let expected = [PAPER, HATCH, kept_color(0.0), kept_color(1.0)].map(|RGBColor(r, g, b)| [r, g, b]);
        assert_eq!((width, height, colors), (2, 2, expected.to_vec()));
    }

    #[test]
    fn noise_fits_with_fewer_shades() {
        let mut picture = Bitmap::new(512, 512);
        let mut state = 1u32;
        for i in 0..512 * 512 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            picture.set(i % 512, i / 512, Shade::Kept(f64::from(state >> 8) / f64::from(1 << 24)));
        }
        assert!(picture.address(160_000).len() <= 160_000);
    }
}
