//! What one sees of a run under way. A terminal has one line, written over and cleared at the end; a log gets a
//! line now and then, and a notebook one from a run that takes long.

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    protocol::{LayerProgress, Progress},
    words::{letters::shortened, numbers::thousands, safe::harmless},
};

/// The letters of a bar, and of a whole line of a terminal.
const BAR: usize = 24;
const WIDE: usize = 79;
/// Seconds between two lines of a log; the variable `STREAMTRACE_PROGRESS_SECONDS` sets another number.
const LOG_SECONDS: f64 = 10.0;
/// Seconds that a run in a notebook takes before its first line, and seconds between two.
const NOTEBOOK_SECONDS: [f64; 2] = [3.0, 5.0];

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Terminal,
    Log { seconds: f64 },
    Notebook,
}

/// What was shown so far, by all tracers of the process.
struct Shown {
    /// What the run is part of, such as "prompt 7 of 50".
    part_of: String,
    call: Option<Instant>,
    last: Option<Instant>,
    /// Whether the terminal's line is written on.
    open: bool,
}

static SHOWN: Mutex<Shown> =
    Mutex::new(Shown { part_of: String::new(), call: None, last: None, open: false });

/// Says what the next runs are part of, such as "prompt 7 of 50"; progress begins with it. An empty text ends
/// that.
pub fn part_of(what: &str) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.part_of = what.into();
}

/// A call to an engine begins.
pub(super) fn begin() {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner).call = Some(Instant::now());
}

/// A call to an engine ends: the terminal's line is cleared.
pub(super) fn end() {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::take(&mut shown.open) {
        write("\r\x1b[K");
    }
}

/// Shows progress: notes in whole lines, text as it is, layers and loading where and when they are wanted.
pub(super) fn show(progress: Progress) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let clear = if std::mem::take(&mut shown.open) { "\r\x1b[K" } else { "" };
    let text = harmless(&progress.to_string());
    match &progress {
        Progress::Text(_) => write(&format!("{clear}{text}")),
        Progress::Note(_) => write(&format!("{clear}{text}\n")),
        Progress::Layer(_) | Progress::Loading(_) => {
            let (now, place) = (Instant::now(), place());
            let since = |then: Option<Instant>| then.map_or(Duration::MAX, |then| now.duration_since(then));
            let part = if shown.part_of.is_empty() { String::new() } else { format!("{}, ", shown.part_of) };
            if place == Place::Terminal {
                let line = match &progress {
                    Progress::Layer(layer) => format!("{part}{}", with_bar(layer)),
                    _ => format!("{part}{text}"),
                };
                write(&format!("\r\x1b[K{}", shortened(&line, WIDE)));
                shown.open = true;
            } else if is_whole(&progress) && is_wanted(place, since(shown.call), since(shown.last)) {
                write(&format!("{part}{text}\n"));
                shown.last = Some(now);
            }
        }
    }
}

/// Whether progress is of whole layers: a bar moves within one, lines do not.
fn is_whole(progress: &Progress) -> bool {
    !matches!(progress, Progress::Layer(layer) if layer.of_next > 0.0)
}

/// Whether a place wants a line so long after the call began and after the last line.
fn is_wanted(place: Place, since_call: Duration, since_last: Duration) -> bool {
    let [call, last] = match place {
        Place::Terminal => [0.0; 2],
        Place::Log { seconds } => [seconds; 2],
        Place::Notebook => NOTEBOOK_SECONDS,
    };
    since_call.as_secs_f64() >= call && since_last.as_secs_f64() >= last
}

fn place() -> Place {
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        return Place::Notebook;
    }
    let chosen = std::env::var("STREAMTRACE_PROGRESS_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    match chosen {
        Some(seconds) => Place::Log { seconds },
        None if std::io::stderr().is_terminal() => Place::Terminal,
        None => Place::Log { seconds: LOG_SECONDS },
    }
}

/// A stage's name, its bar, and what is left.
fn with_bar(progress: &LayerProgress) -> String {
    let LayerProgress { stage, layer, n_layers, of_next, tokens_per_second, seconds_left } = progress;
    let share = (*layer as f64 + of_next) / (*n_layers).max(1) as f64;
    let done = (BAR as f64 * share.clamp(0.0, 1.0)) as usize;
    let (full, rest) = ("━".repeat(done), "─".repeat(BAR - done));
    let rate = thousands(tokens_per_second.round() as u64);
    format!("{stage} {full}{rest} layer {layer} of {n_layers} · {rate} tokens/s · {seconds_left:.0} s left")
}

/// Writes to standard output in a notebook, which shows whole lines as they come, else to standard error.
fn write(text: &str) {
    let mut out: Box<dyn Write> = match std::env::var_os("EVCXR_IS_RUNTIME") {
        Some(_) => Box::new(std::io::stdout()),
        None => Box::new(std::io::stderr()),
    };
    // A line that cannot be written is no reason to stop.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_say_nothing_in_a_log_and_in_a_notebook() {
        let seconds = Duration::from_secs;
        let log = Place::Log { seconds: LOG_SECONDS };
        for (place, call, last, wanted) in [
            (log, seconds(2), Duration::MAX, false),
            (log, seconds(11), Duration::MAX, true),
            (log, seconds(30), seconds(4), false),
            (Place::Notebook, seconds(2), Duration::MAX, false),
            (Place::Notebook, seconds(4), Duration::MAX, true),
            (Place::Notebook, seconds(4), seconds(4), false),
            (Place::Log { seconds: 0.0 }, seconds(0), seconds(0), true),
        ] {
            assert_eq!(is_wanted(place, call, last), wanted, "{place:?} {call:?} {last:?}");
        }
    }

    #[test]
    fn a_bar_fits_a_terminal() {
        let progress = |layer, n_layers, of_next| LayerProgress {
            stage: "knock out".into(),
            layer,
            n_layers,
            of_next,
            tokens_per_second: 94_403.0,
            seconds_left: 12.3,
        };
        let line = with_bar(&progress(4, 6, 0.0));
        assert_eq!(
            line,
            format!(
                "knock out {}{} layer 4 of 6 · 94,403 tokens/s · 12 s left",
                "━".repeat(16),
                "─".repeat(8)
            )
        );
        assert!(line.chars().count() <= WIDE + 4 && with_bar(&progress(7, 0, 0.0)).contains("layer 7 of 0"));
        assert_eq!(with_bar(&progress(0, 1, 0.5)).matches('━').count(), BAR / 2, "half of the only layer");
    }
}
