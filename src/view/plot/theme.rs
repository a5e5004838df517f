//! Colours, fonts and sizes of every figure, and the logarithmic scale of colours.

use plotters::style::RGBColor;

pub(super) const FONT: &str = "Helvetica, Arial, sans-serif";
pub(super) const TITLE_SIZE: u32 = 16;
pub(super) const TEXT_SIZE: u32 = 12;
pub(super) const SMALL_SIZE: u32 = 11;

pub(super) const INK: RGBColor = RGBColor(0x1f, 0x24, 0x2b);
pub(super) const MUTED: RGBColor = RGBColor(0x55, 0x5f, 0x6a);
pub(super) const LINE: RGBColor = RGBColor(0x9a, 0xa3, 0xad);
/// The ground of a figure, and of cells that no query sees: keys after it, or before its window.
pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// Colour of the hatch over cells that a query sees but whose block was not kept.
pub(super) const HATCH: RGBColor = RGBColor(0xc9, 0xcf, 0xd6);
/// Distance of the lines of a hatch, in pixels.
pub(super) const HATCH_STEP: usize = 5;
/// A flat tint of the hatch, for marks too small to be hatched.
pub(super) const PRUNED: RGBColor = RGBColor(0xe6, 0xe9, 0xed);
pub(super) const BAR: RGBColor = RGBColor(0x6a, 0x1b, 0x8a);
/// Colour of frames around what must not be trusted.
pub(super) const ALARM: RGBColor = RGBColor(0xc2, 0x1d, 0x1d);

/// Colours of marked spans, dark enough for text on white paper.
pub(super) const MARKS: [RGBColor; 6] = [
    RGBColor(0x0b, 0x64, 0x9c),
    RGBColor(0xae, 0x42, 0x08),
    RGBColor(0x0a, 0x72, 0x51),
    RGBColor(0x9a, 0x34, 0x76),
    RGBColor(0x4b, 0x55, 0x63),
    RGBColor(0x7a, 0x5e, 0x00),
];

/// Colours of attention, evenly spaced from 0, nearly paper, to 1, nearly black; their lightness falls steadily,
/// and blue and red fall together, so that colour-blind readers see the same order.
const ATTENTION: [[u8; 3]; 6] = [
    [0xf8, 0xf5, 0xfb],
    [0xdc, 0xcd, 0xe9],
    [0xb5, 0x93, 0xcd],
    [0x87, 0x53, 0xa9],
    [0x56, 0x1c, 0x7c],
    [0x1a, 0x09, 0x30],
];

/// The colour of a kept cell: `level` 0 is the weakest, nearly paper; 1 the strongest, nearly black.
pub(super) fn kept_color(level: f64) -> RGBColor {
    let at = level.clamp(0.0, 1.0) * (ATTENTION.len() - 1) as f64;
    let low = (at as usize).min(ATTENTION.len() - 2);
    let share = at - low as f64;
    let mix = |channel: usize| {
        let [below, above] = [low, low + 1].map(|color| f64::from(ATTENTION[color][channel]));
        (below * (1.0 - share) + above * share).round() as u8
    };
    RGBColor(mix(0), mix(1), mix(2))
}

/// The colour of text on a cell.
pub(super) fn ink_on(level: f64) -> RGBColor {
    if level > 0.45 { PAPER } else { INK }
}

/// A logarithmic scale over four decades that end at a power of ten.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LogScale {
    /// The exponent of the upper end.
    pub top: i32,
}

impl LogScale {
    pub const DECADES: i32 = 4;

    /// The scale whose upper end is the power of ten at or above `max`.
    pub fn covering(max: f32) -> Self {
        let top = if max > 0.0 && max.is_finite() { (max.log10() - 1e-3).ceil() as i32 } else { 0 };
        LogScale { top }
    }

    /// The scale for shares: it ends at 1 at most, even if rounding made a share slightly larger.
    pub fn covering_shares(max: f32) -> Self {
        LogScale { top: LogScale::covering(max).top.min(0) }
    }

    /// Returns a value's place on the scale, from 0 at the lower end to 1 at the upper end. Values outside
    /// the scale are clamped; NaN becomes 0.
    pub fn level(&self, value: f32) -> f64 {
        let level =
            (f64::from(value).log10() - f64::from(self.top - Self::DECADES)) / f64::from(Self::DECADES);
        if level.is_nan() { 0.0 } else { level.clamp(0.0, 1.0) }
    }

    /// The exponents of the scale's ticks, lowest first.
    pub fn exponents(&self) -> std::ops::RangeInclusive<i32> {
        self.top - Self::DECADES..=self.top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L* of CIELAB, 0 to 100.
    fn lightness(RGBColor(r, g, b): RGBColor) -> f64 {
        let linear = |c: u8| match f64::from(c) / 255.0 {
            c if c <= 0.04045 => c / 12.92,
            c => ((c + 0.055) / 1.055).powf(2.4),
        };
        let y = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        116.0 * y.cbrt() - 16.0
    }

    #[test]
    fn lightness_falls_with_attention() {
        let levels: Vec<f64> = (0..=40).map(|i| lightness(kept_color(f64::from(i) / 40.0))).collect();
        assert!(levels.windows(2).all(|w| w[1] < w[0]), "{levels:?}");
        assert!(levels[0] - levels[40] > 85.0);
    }

    #[test]
    fn nothing_is_nearly_paper_and_half_of_the_scale_can_be_told_from_it() {
        let [paper, nothing, half] = [PAPER, kept_color(0.0), kept_color(0.5)].map(lightness);
        assert!(paper - nothing < 5.0 && nothing - half > 35.0, "{paper} {nothing} {half}");
        assert!(paper - lightness(HATCH) > 15.0, "a hatch is seen");
    }

    #[test]
    fn marks_can_be_read_on_paper() {
        assert!(MARKS.iter().all(|&c| lightness(c) < 50.0));
    }

    #[test]
    fn a_scale_ends_at_a_power_of_ten() {
        assert_eq!(LogScale::covering_shares(1.0004).top, 0);
        assert_eq!(LogScale::covering_shares(0.1).top, -1);
        assert_eq!(LogScale::covering_shares(0.11).top, 0);
        assert_eq!(LogScale::covering(9000.0).top, 4);
        assert_eq!(LogScale::covering(0.0).top, 0);
        let scale = LogScale { top: 0 };
        assert_eq!((scale.level(1.0), scale.level(1e-4f32 * 0.99), scale.level(1e-9)), (1.0, 0.0, 0.0));
        assert_eq!((scale.level(0.0), scale.level(f32::NAN), scale.level(f32::INFINITY)), (0.0, 0.0, 1.0));
    }
}
