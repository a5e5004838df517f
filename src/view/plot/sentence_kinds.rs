//! Colours and letters of the kinds of sentences; letters help readers who cannot tell the colours apart.

use plotters::style::RGBColor;

use super::{
    canvas::{Pen, Point, Type},
    labels::width,
    theme::LINE,
};
use crate::trace::SentenceKind;

const ROW: i32 = 17;

impl SentenceKind {
    /// The letter that stands for the kind in figures.
    pub fn letter(self) -> char {
        match self {
            SentenceKind::ProblemSetup => 'S',
            SentenceKind::PlanGeneration => 'P',
            SentenceKind::FactRetrieval => 'F',
            SentenceKind::ActiveComputation => 'C',
            SentenceKind::ResultConsolidation => 'R',
            SentenceKind::UncertaintyManagement => 'U',
            SentenceKind::SelfChecking => 'K',
            SentenceKind::FinalAnswerEmission => 'A',
            SentenceKind::Filler => '·',
        }
    }

    /// The colour of the kind in Bogdan et al. 2025; filler, which is not among their kinds, is grey.
    pub(crate) fn color(self) -> RGBColor {
        match self {
            SentenceKind::ProblemSetup => RGBColor(0x42, 0x85, 0xf4),
            SentenceKind::PlanGeneration => RGBColor(0xea, 0x43, 0x35),
            SentenceKind::FactRetrieval => RGBColor(0xfb, 0xbc, 0x05),
            SentenceKind::ActiveComputation => RGBColor(0x34, 0xa8, 0x53),
            SentenceKind::ResultConsolidation => RGBColor(0x00, 0xbc, 0xd4),
            SentenceKind::UncertaintyManagement => RGBColor(0x9c, 0x27, 0xb0),
            SentenceKind::SelfChecking => RGBColor(0xff, 0x98, 0x00),
            SentenceKind::FinalAnswerEmission => RGBColor(0x79, 0x55, 0x48),
            SentenceKind::Filler => LINE,
        }
    }
}

/// Draws a legend of the kinds that occur, in rows no wider than `room`; returns its lower edge.
pub(super) fn kinds_legend(
    pen: &Pen,
    (left, top): Point,
    room: i32,
    occurs: impl Fn(SentenceKind) -> bool,
) -> i32 {
    let mut x = left;
    let mut y = top;
    for kind in SentenceKind::ALL.into_iter().filter(|kind| occurs(*kind)) {
        let text = format!("{} {}", kind.letter(), kind.name().replace('_', " "));
        if x > left && x + 24 + width(&text) > left + room {
            x = left;
            y += ROW;
        }
        pen.fill((x, y), (x + 13, y + 11), kind.color());
        pen.text(&text, (x + 18, y + 6), Type::TEXT);
        x += 34 + width(&text);
    }
    y + ROW
}
