//! Text of figures: ticks, tokens, and the line of facts below a title.

use unicode_width::UnicodeWidthChar;

use super::theme::{TEXT_SIZE, TITLE_SIZE};
use crate::{
    error::Error,
    trace::{Span, Summary, Trace},
    words::{
        letters::shortened,
        numbers::{count, percent, thousands},
    },
};

/// Formats a power of 10 as a percentage: "100 %", "0.01 %".
pub(super) fn decade_percent(exponent: i32) -> String {
    let decimals = (-exponent - 2).max(0) as usize;
    format!("{:.decimals$} %", 10f64.powi(exponent + 2))
}

/// Returns at most `max` round token positions inside a span: multiples of 1, 2 or 5 times a power of ten.
pub(super) fn ticks(span: Span, max: usize) -> Vec<usize> {
    let steps = (0..).flat_map(|e| [1, 2, 5].map(|m| m * 10usize.pow(e)));
    let count = |step: usize| (span.end - 1) / step + 1 - span.start.div_ceil(step);
    let step = steps.take(57).find(|&step| count(step) <= max.max(1)).unwrap_or(usize::MAX);
    (span.start.div_ceil(step)..=(span.end - 1) / step).map(|i| i * step).collect()
}

/// Formats a token's text on one short line: spaces and line ends become visible, long texts are cut.
pub(super) fn token(text: &str) -> String {
    let visible: String = text
        .chars()
        .map(|c| match c {
            ' ' => '␣',
            '\n' => '⏎',
            '\t' => '⇥',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    shortened(&visible, 12)
}

/// Widths of the characters from space to tilde in Helvetica, in thousandths of the font's size, from Adobe's
/// metrics of its core fonts.
const HELVETICA: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556,
    556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278,
    500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469,
    556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500,
    278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];
/// How much wider than Helvetica the fonts are that stand in for it, such as DejaVu Sans.
const WIDER: f64 = 1.17;

/// Estimates the width of a text of the usual size, in pixels, in a wide font.
pub(super) fn width(text: &str) -> i32 {
    sized_width(text, TEXT_SIZE)
}

/// Estimates the width of a text of a title's size and weight, in pixels.
pub(super) fn title_width(text: &str) -> i32 {
    sized_width(text, TITLE_SIZE) * 108 / 100
}

fn sized_width(text: &str, size: u32) -> i32 {
    let thousandths = |c: char| match (c as usize).checked_sub(' ' as usize).and_then(|at| HELVETICA.get(at))
    {
        Some(&width) => f64::from(width) * WIDER,
        // Letters of East Asia and emoji take twice the place of others, marks on letters none.
        None => 600.0 * c.width().unwrap_or(1) as f64 * if c.width() == Some(2) { 0.9 } else { WIDER },
    };
    (text.chars().map(thousandths).sum::<f64>() * f64::from(size) / 1000.0).ceil() as i32
}

/// Breaks a text into lines no wider than `room` pixels; a single word may be wider.
pub(super) fn lines(text: &str, room: i32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + width(word) + width(" ") <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// Recall of a head below which its picture shows less than half of what it looks at.
pub(super) const LOW_RECALL: f64 = 0.5;

/// Returns a trace's recall: measured against dense attention, else as the run told it.
pub(super) fn told_recall(summary: &Summary) -> Option<f64> {
    summary.fidelity.as_ref().map(|f| f.recall).or(summary.recall.map(|told| told.mean))
}

/// Returns the recall of a head: measured against dense attention, else as the run told it.
pub(super) fn recall_of(trace: &Trace, layer: usize, head: usize) -> Result<Option<f64>, Error> {
    let measured =
        trace.summary().fidelity.as_ref().and_then(|f| f.recall_by_head.get(layer)?.get(head).copied());
    let told = trace.recall(layer)?.and_then(|recall| recall.get(head).copied());
    Ok(measured.or(told.map(f64::from)))
}

/// The facts below the title of a trace's figure: length, and whether the model was made for it and its layers see all
/// of it, blocks, budget, share pruned, and recall if it is known.
pub(super) fn facts(summary: &Summary, top_k: usize, pruned: f64, recall: Option<f64>) -> String {
    let config = &summary.config;
    let n_tokens = count(summary.n_tokens, "token");
    let mut facts = vec![
        match summary.model.exceeded_by(summary.n_tokens) {
            Some(length) => format!("{n_tokens}, the model was made for {}", thousands(length as u64)),
            None => n_tokens,
        },
        format!("query blocks of {}, key blocks of {}", config.block_size_q, config.block_size_k),
        format!("k = {}", thousands(top_k as u64)),
        format!("{} pruned", percent(pruned)),
    ];
    facts.extend(summary.model.windows_note(summary.n_tokens));
    facts.extend(recall.map(|recall| match recall < LOW_RECALL {
        true => format!("recall {recall:.3}: most of what it looks at is pruned"),
        false => format!("recall {recall:.3}"),
    }));
    facts.join(" · ")
}

/// Returns at most seven powers of ten whose natural logarithms lie between two numbers: each logarithm, and the power.
pub(super) fn powers_of_ten((low, high): (f64, f64)) -> Vec<(f64, f64)> {
    let ten = std::f64::consts::LN_10;
    // No number has other exponents.
    let (first, last) = ((low / ten).max(-330.0).ceil() as i32, (high / ten).min(330.0).floor() as i32);
    let step = ((last - first).max(0) / 7 + 1) as usize;
    (first..=last).step_by(step).map(|exponent| (f64::from(exponent) * ten, 10f64.powi(exponent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_are_written_out() {
        assert_eq!([0, -2, -4, -6].map(decade_percent), ["100 %", "1 %", "0.01 %", "0.0001 %"]);
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(Span { start: 0, end: 16384 }, 6), [0, 5000, 10000, 15000]);
        assert_eq!(ticks(Span { start: 7, end: 8 }, 6), [7]);
        assert_eq!(ticks(Span { start: 0, end: 1 }, 1), [0]);
        for span in [3..900, 999_990..1_048_576, 17..18, 0..2] {
            let ticks = ticks(span.clone().into(), 6);
            assert!(ticks.len() <= 6 && ticks.iter().all(|t| span.contains(t)), "{span:?} {ticks:?}");
        }
    }

    #[test]
    fn widths_are_those_of_the_letters() {
        assert!(width("iiii") < width("mmmm") / 2 && width("") == 0);
        assert_eq!(width("e\u{301}"), width("e"), "a mark on a letter takes no place");
        assert!((15 * 12..15 * 14).contains(&width("今天天气真好我们一起去公园散步")));
        assert!(title_width("Recall") > width("Recall"));
    }

    #[test]
    fn tokens_stay_on_one_line() {
        assert_eq!(token(" is\n"), "␣is⏎");
        assert_eq!(token("\u{0}\u{1b}[0m"), "\u{fffd}\u{fffd}[0m");
        assert_eq!(token("internationalization"), "internation…");
    }

    #[test]
    fn powers_of_ten_lie_between_the_ends() {
        let told =
            |low: f64, high: f64| powers_of_ten((low, high)).into_iter().map(|(_, x)| x).collect::<Vec<_>>();
        assert_eq!(told(1e-3f64.ln() - 0.1, 2.5f64.ln()), [1e-3, 1e-2, 1e-1, 1.0]);
        assert!(told(0.1, 0.2).is_empty());
        assert_eq!(told(0.0, 0.0), [1.0]);
        assert!(told(-40.0, 40.0).len() <= 7 && told(-1e300, 1e300).len() <= 7);
    }
}
