//! What a token read, as a figure: its attention over the whole prompt on a line, the passages in text, the
//! heads ranked.

use super::{
    canvas::{Canvas, Pen, Point, Type},
    expert_strip,
    figure::Figure,
    labels::{ticks, token, width},
    svg::Run,
    theme::{ALARM, BAR, INK, LINE, MARKS, MUTED, PAPER, kept_color},
};
use crate::{
    analysis::{Passage, Reading},
    error::Error,
    trace::Span,
    words::{
        letters::{cells, is_right_to_left, joined, shortened},
        numbers::{count, head_name, percent, thousands},
    },
};

const LEFT: i32 = 30;
const WIDTH: i32 = 800;
/// Height of the highest bar, and the line below the bars.
const HIGHEST: i32 = 92;
const AXIS: i32 = 172;
/// Height of the strip of experts, and the line of its caption.
const STRIP: i32 = 38;
const TOP_OF_STRIP: i32 = 80;
/// Width of a letter of a typewriter, and height of a line of a passage.
const LETTER: f64 = 7.8;
const LINE_HEIGHT: i32 = 20;
/// The places on the line that are named, and the least share of one that is.
const NAMED: usize = 3;
const LEAST: f64 = 0.03;
/// The number of heads that are shown.
const HEADS: usize = 6;

impl Reading {
    /// Draws the reading.
    pub fn figure(&self) -> Figure {
        let mut canvas = Canvas::default();
        canvas.draw(|pen| {
            pen.text(&self.title(), (20, 24), Type::TITLE);
            pen.text(&self.facts(), (20, 46), Type::NOTE);
            pen.text(self.note.as_deref().unwrap_or(""), (20, 62), Type::NOTE.colored(ALARM));
            self.line(pen);
        });
        if let Some(experts) = &self.experts {
            let subject = thousands(self.query as u64);
            expert_strip::draw(&mut canvas, experts, &subject, (LEFT, TOP_OF_STRIP), WIDTH);
        }
        self.places(&mut canvas);
        let mut y = self.axis() + 26;
        for (at, passage) in self.passages.iter().enumerate() {
            y = self.passage(&mut canvas, passage, at, y);
        }
        y = self.heads(&mut canvas, y + 6);
        let right = (LEFT + WIDTH + 30).max(20 + super::labels::title_width(&self.title()));
        canvas.figure((right, y + 12), &self.title(), &self.description())
    }

    /// The line below the bars.
    fn axis(&self) -> i32 {
        if self.experts.is_some() { AXIS + STRIP } else { AXIS }
    }

    /// Saves the reading as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    /// Says what was read: the strongest place outside the last passage, or in it if there is no other.
    pub(crate) fn title(&self) -> String {
        let subject = match &self.writes {
            Some((next, _)) => format!("The model wrote {}", quoted(next)),
            None => format!("{} at token {}", quoted(&self.text), thousands(self.query as u64)),
        };
        let head = head_name(self.layer, self.head);
        let Some((keys, share)) = self.strongest() else {
            return format!("{subject}; {head} read nothing far");
        };
        let distance = count(self.query.saturating_sub(keys.start), "token");
        let place = match keys.len() {
            1 if share >= 0.5 => format!("read one token, {distance} back"),
            1 if self.text_of(keys).is_empty() => format!("looked {distance} back"),
            1 => format!("looked {distance} back, at {}", quoted(&self.text_of(keys))),
            n => format!("looked at {} {distance} back", count(n, "token")),
        };
        let joint = if self.writes.is_some() { ". Before that, " } else { ": " };
        format!("{subject}{joint}{head} {place}")
    }

    pub(crate) fn facts(&self) -> String {
        format!(
            "{}, {}, layer {}, head {}: attention of token {} · {} of all pairs pruned",
            shortened(&self.model, 40),
            count(self.n_tokens, "token"),
            self.layer,
            self.head,
            thousands(self.query as u64),
            percent(self.pruned),
        )
    }

    /// The strongest place of the first passage.
    fn strongest(&self) -> Option<(Span, f64)> {
        let first = self.passages.first()?.span;
        let inside = self.keys.iter().filter(|(keys, _)| keys.start < first.end && keys.end > first.start);
        inside.copied().max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The text of some tokens of a passage.
    fn text_of(&self, keys: Span) -> String {
        let inside = |p: &&Passage| p.span.range().contains(&keys.start);
        self.passages.iter().find(inside).map_or(String::new(), |passage| {
            let tokens = passage.tokens.iter().skip(keys.start - passage.span.start).take(keys.len());
            tokens.map(|(text, _)| text.as_str()).collect()
        })
    }

    fn x(&self, token: f64) -> i32 {
        LEFT + (token / self.n_tokens.max(1) as f64 * f64::from(WIDTH)).round() as i32
    }

    /// The height of a bar: the highest is that of the strongest place, or of a quarter of the attention.
    fn height(&self, share: f64) -> i32 {
        let most = self.keys.iter().map(|key| key.1).fold(0.25, f64::max);
        (share / most * f64::from(HIGHEST)).round() as i32
    }

    /// Draws the prompt as a line, and on it the strongest share of attention at each pixel.
    fn line(&self, pen: &Pen) {
        pen.line((LEFT, self.axis()), (LEFT + WIDTH, self.axis()), LINE);
        let n_ticks = ticks(Span { start: 0, end: self.n_tokens.max(1) }, 6);
        for tick in n_ticks.into_iter().filter(|&tick| self.x(tick as f64) < LEFT + WIDTH - 130) {
            let x = self.x(tick as f64);
            pen.line((x, self.axis()), (x, self.axis() + 4), LINE);
            pen.text(&thousands(tick as u64), (x, self.axis() + 14), Type::NOTE.centered());
        }
        let last = format!("{}: the last token", thousands(self.n_tokens.saturating_sub(1) as u64));
        pen.text(&last, (LEFT + WIDTH, self.axis() + 14), Type::NOTE.before());
        let mut highest = vec![0.0f64; WIDTH as usize + 1];
        for &(keys, share) in &self.keys {
            let at =
                &mut highest[((self.x(keys.start as f64 + 0.5) - LEFT).max(0) as usize).min(WIDTH as usize)];
            *at = at.max(share);
        }
        for (x, share) in (LEFT..).zip(highest).filter(|(_, share)| *share > 0.0) {
            pen.fill((x - 1, self.axis() - self.height(share)), (x + 1, self.axis()), BAR);
        }
    }

    /// Names the strongest places, from the left, one above the other where they would overlap.
    fn places(&self, canvas: &mut Canvas) {
        let mut named: Vec<(Span, f64)> = self.keys.clone();
        named.sort_by(|a, b| b.1.total_cmp(&a.1));
        named.truncate(NAMED);
        named.retain(|(_, share)| *share >= LEAST);
        named.sort_by_key(|(keys, _)| keys.start);
        let mut taken: Vec<(Point, i32)> = Vec::new();
        for (keys, share) in named {
            let what = match keys.len() {
                1 if !self.text_of(keys).is_empty() => format!(
                    "{} on {}, token {}",
                    percent(share),
                    quoted(&self.text_of(keys)),
                    thousands(keys.start as u64)
                ),
                1 => format!("{} on token {}", percent(share), thousands(keys.start as u64)),
                _ => format!("{} on tokens {keys}", percent(share)),
            };
            let (at, wide) = (self.x(keys.start as f64 + 0.5), width(&what) * 11 / 10);
            let before = at + 8 + wide > LEFT + WIDTH;
            let left = if before { at - 8 - wide } else { at + 8 };
            let free = |y: &i32| {
                taken.iter().all(|&((x, other), w)| (other - y).abs() > 15 || left > x + w || left + wide < x)
            };
            let top = (self.axis() - self.height(share) + 5).min(self.axis() - 9);
            let y = (0..6).map(|step| (top - 16 * step).max(self.axis() - 106)).find(free).unwrap_or(top);
            taken.push(((left, y), wide));
            canvas.draw(|pen| pen.text(&what, (left, y), Type::TEXT.bold().colored(BAR)));
        }
    }

    /// Draws a passage below `top`, each token on the shade of its attention; returns its lower edge.
    fn passage(&self, canvas: &mut Canvas, passage: &Passage, at: usize, top: i32) -> i32 {
        let last = at + 1 == self.passages.len();
        let (from, to) = (self.x(passage.span.start as f64), self.x(passage.span.end as f64).max(LEFT + 2));
        let place = thousands(passage.span.start as u64);
        let caption = if last {
            format!("where it looks from, from token {place} on: {} of its attention", percent(passage.share))
        } else {
            format!(
                "what it read, from token {place} on: {} of its attention; more colour is more",
                percent(passage.share)
            )
        };
        canvas.draw(|pen| {
            if at == 0 && !last {
                let above = self.axis() + 22;
                pen.area(
                    vec![(from, above), (to, above), (LEFT + WIDTH, top + 20), (LEFT, top + 20)],
                    kept_color(0.06),
                );
            }
            pen.text(&caption, (LEFT, top + 28), Type::NOTE);
        });
        let y = top + 42;
        let end = self.tokens(canvas, passage, y);
        if let Some((next, probability)) = self.writes.as_ref().filter(|_| last) {
            let next = token(next);
            let wide = (cells(&next) as f64 * LETTER).ceil() as i32 + 12;
            canvas.draw(|pen| {
                pen.frame((end + 6, y - 3), (end + 6 + wide, y + LINE_HEIGHT + 2), MARKS[0]);
                pen.frame((end + 7, y - 2), (end + 5 + wide, y + LINE_HEIGHT + 1), MARKS[0]);
                let said = format!("next token, {}", percent(*probability));
                pen.text(&said, (end + wide + 14, y + LINE_HEIGHT / 2), Type::TEXT.colored(MARKS[0]));
            });
            canvas.run(&Run {
                text: &next,
                at: (end + 12, y + 14),
                width: wide - 12,
                color: MARKS[0],
                bold: true,
            });
        }
        y + LINE_HEIGHT + 8
    }

    /// Draws the tokens of a passage in a line, from right to left where it is written so; returns its end.
    fn tokens(&self, canvas: &mut Canvas, passage: &Passage, y: i32) -> i32 {
        let visible =
            |text: &str| text.chars().map(|c| if c.is_control() { '⏎' } else { c }).collect::<String>();
        let tokens: Vec<(usize, String, f64)> = (passage.span.start..)
            .zip(&passage.tokens)
            .map(|(at, (text, share))| (at, visible(text), *share))
            .collect();
        let all: usize = tokens.iter().map(|(_, text, _)| cells(text)).sum();
        let leftwards =
            is_right_to_left(&tokens.iter().map(|(_, text, _)| text.as_str()).collect::<String>());
        let place = |cell: usize| LEFT + 8 + (cell as f64 * LETTER).round() as i32;
        let mut cell = 0;
        for (i, (at, text, share)) in tokens.iter().enumerate() {
            let beside = |i: usize| tokens.get(i).map_or("", |(_, text, _)| text);
            let (at, share, wide) = (*at, *share, cells(text));
            let (start, end) = if leftwards { (all - cell - wide, all - cell) } else { (cell, cell + wide) };
            let (left, right) = (place(start), place(end));
            let level = level(share);
            if share >= 0.005 {
                canvas.draw(|pen| pen.fill((left, y), (right, y + LINE_HEIGHT), kept_color(level)));
            }
            let color = if level > 0.45 { PAPER } else { INK };
            let shown = joined(beside(i.wrapping_sub(1)), text, beside(i + 1));
            canvas.run(&Run { text: &shown, at: (left, y + 14), width: right - left, color, bold: false });
            let hint = format!("{}, token {}: {}", quoted(text), thousands(at as u64), percent(share));
            canvas.hint((left, y), (right, y + LINE_HEIGHT), &hint);
            cell += wide;
        }
        place(all)
    }

    /// Draws the heads that read the first passage most, as bars; returns the lower edge.
    fn heads(&self, canvas: &mut Canvas, top: i32) -> i32 {
        let best = &self.heads.heads[..self.heads.heads.len().min(HEADS)];
        let step = WIDTH / HEADS as i32;
        canvas.draw(|pen| {
            let first = if self.passages.len() > 1 { "what it read" } else { "this passage" };
            pen.text(
                &format!("Heads that look at {first}, share of their attention:"),
                (LEFT, top + 10),
                Type::NOTE,
            );
            for (x, head) in (LEFT..).step_by(step as usize).zip(best) {
                let color = if (head.layer, head.head) == (self.layer, self.head) { BAR } else { MUTED };
                let wide = (head.score.clamp(0.0, 1.0) * f64::from(step - 30)).round() as i32;
                pen.fill((x, top + 24), (x + wide.max(1), top + 36), color);
                let name = format!("{} {}", head_name(head.layer, head.head), percent(head.score));
                pen.text(&name, (x, top + 48), Type::TEXT.colored(color));
            }
        });
        top + 58
    }

    /// Describes the figure in words.
    fn description(&self) -> String {
        let passage = |passage: &Passage| {
            let text: String = passage.tokens.iter().map(|(text, _)| text.as_str()).collect();
            format!("{} on tokens {}: {text:?}", percent(passage.share), passage.span)
        };
        let passages: Vec<String> = self.passages.iter().map(passage).collect();
        format!(
            "Attention over the prompt, and the passages in text. {}. {}.",
            self.facts(),
            passages.join("; ")
        )
    }
}

/// The shade of a share of attention: its root, so that a few percent are seen.
fn level(share: f64) -> f64 {
    share.clamp(0.0, 1.0).sqrt()
}

fn quoted(text: &str) -> String {
    format!("“{}”", token(text))
}

#[cfg(test)]
mod tests {
    use crate::trace::{
        ExpertsInfo,
        synthetic::{Shape, trace, trace_of_words},
    };

    #[test]
    fn readings_of_any_prompt_fit_a_page() {
        for (n_tokens, n_layers, query) in
            [(1, 1, 0), (7, 2, 3), (4096, 2, 4095), (4096, 2, 1000), (1 << 17, 1, (1 << 17) - 1)]
        {
            let shape = Shape {
                n_tokens,
                n_layers,
                top_k: if n_tokens > 5000 { 4 } else { 40 },
                ..Default::default()
            };
            let figure = trace(&shape).reading_of(query, None).unwrap().figure();
            let (width, height) = figure.size();
            assert!(width < 1000 && height < 700 && figure.svg().len() < 200_000, "{figure:?}");
        }
    }

    #[test]
    fn the_picture_says_what_was_read_and_written() {
        let shape = Shape { n_tokens: 4096, n_layers: 2, n_heads: 4, top_k: 40, ..Default::default() };
        let reading = trace(&shape).reading().unwrap();
        let svg = reading.figure().svg().to_string();
        assert!(
            svg.contains("The model wrote") && svg.contains("next token, ") && svg.contains("% on "),
            "{svg}"
        );
        assert!(svg.contains(&format!("L{}H{}", reading.layer, reading.head)));
        let other = trace(&shape).reading_of(2000, Some((0, 1))).unwrap();
        assert!(
            other.figure().svg().contains("at token 2,000") && !other.figure().svg().contains("next token, ")
        );
    }

    #[test]
    fn a_strip_tells_which_experts_are_shared() {
        let experts = Some(ExpertsInfo { n_experts: 12, per_token: 4 });
        let shape = Shape { n_tokens: 4096, n_layers: 3, top_k: 40, experts, ..Default::default() };
        let (with, without) = (trace(&shape), trace(&Shape { experts: None, ..shape.clone() }));
        let [with, without] = [with, without].map(|trace| trace.reading().unwrap().figure());
        let (shown, plain) = (with.svg().to_string(), without.svg().to_string());
        assert_eq!(with.size(), (without.size().0, without.size().1 + super::STRIP as u32));
        for layer in 0..3 {
            assert!(shown.contains(&format!("layer {layer}: experts ")), "{shown}");
        }
        assert!(shown.contains(" in common") && !plain.contains("xperts"));
    }

    #[test]
    fn hostile_text_is_escaped_and_arabic_runs_from_right_to_left() {
        let words = ["</svg><script>", "\u{0}\u{1b}", "\u{ffff}", "\"'&", "]]>"].map(String::from);
        let shape = Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() };
        let svg = trace_of_words(&shape, &words).reading().unwrap().figure().svg().to_string();
        assert!(!svg.contains("<script") && svg.chars().all(|c| c == '\n' || (c >= ' ' && c != '\u{ffff}')));
        let words = ["سلام", " عليكم", " كل", " يوم", " هنا"].map(String::from);
        let svg = trace_of_words(&shape, &words).reading().unwrap().figure().svg().to_string();
        let x = |word: &str| {
            let line = svg.lines().find(|line| line.contains(word) && line.contains("monospace")).unwrap();
            line.split_once("x=\"").unwrap().1.split('"').next().unwrap().parse::<i32>().unwrap()
        };
        assert!(x("سلام") > x("عليكم") && x("يوم") > x("هنا"));
    }
}
