//! Text of figures: ticks, tokens, and the line of facts below a title.

use crate::{
    error::Error,
    trace::{Span, Summary, Trace},
    words::numbers::{count, percent, shortened, thousands},
};

/// Formats a power of 10 as a percentage: "100 %", "0.01 %".
pub(super) fn decade_percent(exponent: i32) -> String {
    let decimals = (-exponent - 2).max(0) as usize;
    format!("{:.decimals$} %", 10f64.powi(exponent + 2))
}

/// Formats a power of 10 as a number: "10,000", "0.01".
pub(super) fn decade(exponent: i32) -> String {
    match u32::try_from(exponent) {
        Ok(exponent) => thousands(10u64.saturating_pow(exponent)),
        Err(_) => format!("{:.*}", exponent.unsigned_abs() as usize, 10f64.powi(exponent)),
    }
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
            ' ' => '·',
            '\n' => '⏎',
            '\t' => '⇥',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    shortened(&visible, 12)
}

/// Estimates the width of a text of the usual size in a wide font, in pixels.
pub(super) fn width(text: &str) -> i32 {
    (text.chars().count() as f64 * 6.6).ceil() as i32
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

/// The facts below the title of a trace's figure: length, and whether the model was made for it, blocks, budget, share pruned, and recall if it is
/// known.
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
    facts.extend(recall.map(|recall| match recall < LOW_RECALL {
        true => format!("recall {recall:.3}: most of what it looks at is pruned"),
        false => format!("recall {recall:.3}"),
    }));
    facts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_are_written_out() {
        assert_eq!([0, -2, -4, -6].map(decade_percent), ["100 %", "1 %", "0.01 %", "0.0001 %"]);
        assert_eq!([4, 0, -2].map(decade), ["10,000", "1", "0.01"]);
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
    fn tokens_stay_on_one_line() {
        assert_eq!(token(" is\n"), "·is⏎");
        assert_eq!(token("\u{0}\u{1b}[0m"), "\u{fffd}\u{fffd}[0m");
        assert_eq!(token("internationalization"), "internation…");
    }
}
