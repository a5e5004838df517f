//! A horizontal axis of a few stretches of a prompt, with breaks between them.

use super::{
    canvas::{Pen, Type},
    labels::{lines, width},
    theme::{LINE, MUTED},
};
use crate::{
    trace::Span,
    words::{letters::shortened, numbers::thousands},
};

/// The largest number of stretches; near ones are joined until there are no more.
const MAX_PIECES: usize = 7;
/// Lines of text below a stretch.
const LINES: i32 = 3;
/// Width of a break, in pixels.
const BREAK: i32 = 26;

/// Stretches of tokens from left to right, each with its position.
pub(super) struct BrokenAxis {
    /// Each stretch, its left edge and its width.
    pieces: Vec<(Span, i32, i32)>,
}

impl BrokenAxis {
    /// Makes an axis that starts at `left`, is `width` pixels wide and holds all of `spans`. The width of a
    /// stretch grows with the square root of its length.
    pub fn new(spans: &[Span], left: i32, width: i32) -> Self {
        let pieces = joined(spans);
        let weight = |span: &Span| (span.len() as f64).sqrt().max(4.0);
        let total: f64 = pieces.iter().map(weight).sum();
        let room = f64::from(width - BREAK * (pieces.len() as i32 - 1).max(0));
        let mut x = left;
        let place = |span: Span| {
            let piece = (span, x, (room * weight(&span) / total.max(1.0)) as i32);
            x += piece.2 + BREAK;
            piece
        };
        BrokenAxis { pieces: pieces.into_iter().map(place).collect() }
    }

    /// Returns the position of a token, of its middle if it ends in .5; between stretches, the end of the
    /// stretch before.
    pub fn x(&self, token: f64) -> i32 {
        let at = self.pieces.iter().rposition(|piece| piece.0.start as f64 <= token).unwrap_or(0);
        self.pieces.get(at).map_or(0, |(span, left, width)| {
            let share = (token - span.start as f64) / span.len().max(1) as f64;
            left + (share.clamp(0.0, 1.0) * f64::from(*width)).round() as i32
        })
    }

    /// Returns the position of a span's middle.
    pub fn middle(&self, span: Span) -> i32 {
        self.x((span.start as f64 + span.end as f64) / 2.0)
    }

    /// Draws the stretches at `y`, each with its first token and as much of its text as has room, and the breaks
    /// between them. `texts` are those of some tokens.
    pub fn draw(&self, pen: &Pen, y: i32, texts: &[(usize, String)]) {
        let mut free = i32::MIN;
        for (span, left, piece) in &self.pieces {
            pen.line((*left, y), (left + piece, y), LINE);
            pen.line((*left, y), (*left, y + 4), LINE);
            let label = thousands(span.start as u64);
            if *left > free {
                pen.text(&label, (*left, y + 13), Type::NOTE);
                free = left + width(&label);
            }
            let inside = texts.iter().filter(|(token, _)| span.range().contains(token));
            let text: String = inside.map(|(_, text)| text.as_str()).collect();
            for (text, row) in lines(&text, *piece).iter().zip(0..LINES) {
                let fits =
                    (1..=text.len()).rev().find(|&n| width(&shortened(text, n)) <= *piece).unwrap_or(1);
                pen.text(&shortened(text, fits), (*left, y + 30 + 15 * row), Type::TEXT);
            }
        }
        for pair in self.pieces.windows(2) {
            let x = pair[0].1 + pair[0].2 + BREAK / 2;
            for shift in [-3, 2] {
                pen.line((x + shift - 2, y + 5), (x + shift + 3, y - 5), MUTED);
            }
        }
        if let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) {
            let middle = (first.1 + last.1 + last.2) / 2;
            pen.text(
                "token (the axis leaves out what no shown edge touches)",
                (middle, y + 32 + 15 * LINES),
                Type::NOTE.centered(),
            );
        }
    }
}

/// Sorts spans and joins those that touch or lie near each other, into at most [`MAX_PIECES`].
fn joined(spans: &[Span]) -> Vec<Span> {
    let mut sorted: Vec<Span> = spans.iter().copied().filter(|span| !span.is_empty()).collect();
    sorted.sort_by_key(|span| (span.start, span.end));
    let mut gap = 0;
    loop {
        let mut pieces: Vec<Span> = Vec::new();
        for span in &sorted {
            match pieces.last_mut() {
                Some(last) if span.start <= last.end.saturating_add(gap) => last.end = last.end.max(span.end),
                _ => pieces.push(*span),
            }
        }
        if pieces.len() <= MAX_PIECES {
            return pieces;
        }
        gap = 2 * gap + 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_few_and_hold_every_span() {
        let spans: Vec<Span> = (0..40).map(|i| Span { start: i * i * 10, end: i * i * 10 + 8 }).collect();
        let pieces = joined(&spans);
        assert!(pieces.len() <= MAX_PIECES && pieces.windows(2).all(|pair| pair[0].end < pair[1].start));
        assert!(spans.iter().all(|s| pieces.iter().any(|p| p.start <= s.start && s.end <= p.end)));
        assert!(joined(&[]).is_empty());
    }

    #[test]
    fn tokens_lie_in_their_stretch_and_in_order() {
        let axis =
            BrokenAxis::new(&[Span { start: 500, end: 520 }, Span { start: 16_000, end: 16_032 }], 50, 600);
        let xs: Vec<i32> = [500.0, 510.0, 519.5, 16_000.0, 16_031.5].map(|t| axis.x(t)).into();
        assert!(xs.is_sorted() && xs[0] == 50 && xs[4] <= 650 && xs[3] - xs[2] >= BREAK, "{xs:?}");
        assert_eq!(BrokenAxis::new(&[], 0, 100).x(7.0), 0);
    }
}
