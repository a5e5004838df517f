//! The attention of the last token, as a strip below a map: one row of the map, high enough to be seen.

use super::{
    canvas::{Pen, Type},
    labels::{token, width},
    layout::Frame,
    theme::{BAR, LINE},
};
use crate::words::numbers::{percent, thousands};

/// Height of the strip's bars and of the names above them.
const BARS: i32 = 40;
const NAMES: i32 = 32;
/// The number of bars that are named, and the least share of attention of one that is.
const NAMED: usize = 3;
const LEAST: f32 = 0.03;

/// What a head's last row says: the keys and their shares of its attention.
#[derive(Clone)]
pub(super) struct LastRow {
    pub keys: Vec<(usize, f32)>,
    /// The texts of the strongest keys inside the map, and their shares.
    pub named: Vec<(usize, String, f32)>,
}

impl LastRow {
    /// Takes a row, and the text of each token where it is asked for.
    pub fn new(keys: Vec<(usize, f32)>, text: impl Fn(usize) -> String) -> Self {
        let mut strongest: Vec<(usize, f32)> =
            keys.iter().copied().filter(|(_, share)| *share >= LEAST).collect();
        strongest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let named = strongest.into_iter().take(NAMED).map(|(key, share)| (key, text(key), share)).collect();
        LastRow { keys, named }
    }

    /// Draws the strip below a map; returns its lower edge.
    pub fn draw(&self, pen: &Pen, frame: &Frame) -> i32 {
        let bottom = frame.bottom() + 10 + NAMES + BARS;
        let inside = |key: usize| frame.keys.range().contains(&key);
        let shown = || self.keys.iter().filter(|(key, _)| inside(*key));
        let most = shown().map(|(_, share)| *share).fold(f32::MIN_POSITIVE, f32::max);
        let height = |share: f32| (share / most * BARS as f32).round() as i32;
        for &(key, share) in shown().filter(|(_, share)| height(*share) > 0) {
            let (from, to) = (frame.x(key as f64), frame.x(key as f64 + 1.0));
            pen.fill((from, bottom - height(share)), (to.max(from + 2), bottom), BAR);
        }
        pen.line((frame.left, bottom), (frame.right(), bottom), LINE);
        pen.text("last row", (frame.left - 7, bottom - BARS / 2), Type::SMALL.before());
        let mut taken: Vec<(i32, i32, i32)> = Vec::new();
        for (key, text, share) in self.named.iter().filter(|(key, ..)| inside(*key)) {
            let name =
                format!("“{}” {}: {}", token(text), thousands(*key as u64), percent(f64::from(*share)));
            let half = width(&name) / 2;
            let x = frame
                .x(*key as f64 + 0.5)
                .clamp(frame.left + half, (frame.right() - half).max(frame.left + half));
            let free = |y: &i32| {
                taken.iter().all(|&(other, wide, line)| line != *y || (other - x).abs() > half + wide + 6)
            };
            let lines = [bottom - BARS - 8, bottom - BARS - 23];
            if let Some(y) = lines.into_iter().find(free) {
                pen.text(&name, (x, y), Type::TEXT.centered().colored(BAR));
                taken.push((x, half, y));
            }
        }
        bottom
    }
}
