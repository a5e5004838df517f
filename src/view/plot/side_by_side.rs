//! Heat maps side by side, on one scale: the scores of dense attention beside those of a pruned run.

use std::path::Path;

use super::{
    canvas::{Canvas, Type},
    figure::Figure,
    heat_map::{HeatMap, Place, WIDTH},
    labels::{title_width, width},
};
use crate::error::Error;

/// The height of the lines above the maps.
const HEAD: i32 = 46;

/// Heat maps of one measure in one figure, from left to right; each has its own title and facts.
#[derive(Clone, Debug, PartialEq)]
pub struct SideBySide {
    pub title: String,
    /// The line below the title: what is the same for all maps.
    pub facts: String,
    /// The first map's measure is the caption of the one colour bar.
    pub maps: Vec<HeatMap>,
}

impl SideBySide {
    /// Draws the maps.
    pub fn figure(&self) -> Figure {
        let mut canvas = Canvas::default();
        let (places, mut right) = self.places();
        let top = self.maps.iter().map(HeatMap::top).fold(0.02, f64::max);
        canvas.draw(|pen| {
            pen.text(&self.title, (14, 20), Type::TITLE);
            pen.text(&self.facts, (14, 39), Type::NOTE);
        });
        self.maps.iter().zip(&places).for_each(|(map, place)| map.draw(&mut canvas, place, Type::TEXT, top));
        let mut bottom = HEAD;
        for (map, place) in self.maps.iter().zip(&places).take(1) {
            let legend = map.legend(&mut canvas, place, top);
            (right, bottom) = (right.max(legend.0), legend.1);
        }
        let texts = (width(&self.facts) + 28).max(28 + title_width(&self.title));
        canvas.figure((right.max(texts), bottom), &self.title, &self.description())
    }

    /// Saves the maps as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    /// The place of each map, and the right edge of the last.
    fn places(&self) -> (Vec<Place>, i32) {
        let mut left = 0;
        let places = self.maps.iter().map(|map| {
            let place = map.place((left, HEAD), WIDTH / self.maps.len());
            left = map.right(&place);
            place
        });
        (places.collect(), left)
    }

    /// Describes the maps in words.
    fn description(&self) -> String {
        let maps = self.maps.iter().map(|map| format!("{}: {}", map.title, map.description()));
        maps.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::plot::bitmap::tests::decode;

    fn map(title: &str, value: f64) -> HeatMap {
        HeatMap::by_layer_and_head(title.into(), "half".into(), "Score", &[vec![value, 1.0], vec![0.0, 1.0]])
    }

    fn drawn(maps: Vec<HeatMap>) -> Figure {
        SideBySide { title: "Both <1>".into(), facts: "3 prompts".into(), maps }.figure()
    }

    #[test]
    fn maps_share_a_row_a_scale_and_a_title() {
        let figure = drawn(vec![map("dense", 0.25), map("pruned", 0.5)]);
        let svg = figure.svg();
        for part in ["Both &lt;1&gt;", "3 prompts", "dense", "pruned", "0.25", "0.50"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(svg.contains("dense: By layer and head. Score: from 0.000"), "{svg}");
        assert_eq!((svg.matches("<image").count(), decode(svg).0), (1, 220), "one colour bar");
        let alone = map("dense", 0.25).figure().size();
        assert!(figure.size().0 > alone.0 && figure.size().1 == alone.1 + HEAD as u32, "{figure:?}");
    }

    #[test]
    fn wide_maps_and_none_are_drawn() {
        let wide = || HeatMap::by_layer_and_head("m".into(), "".into(), "Score", &[vec![0.5; 40]]);
        assert!(drawn(vec![wide(), wide()]).size().0 < 900);
        assert!(drawn(Vec::new()).svg().contains("3 prompts"));
    }
}
