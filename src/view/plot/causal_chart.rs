//! A causal test as a chart: the claimed effects and those of the controls on one axis.

use super::{
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    labels::{powers_of_ten, title_width, width},
    theme::{LINE, MARKS, MUTED},
};
use crate::{
    analysis::{CausalTest, Unit},
    error::Error,
    words::{
        letters::shortened,
        numbers::{count, plain},
    },
};

const LEFT: i32 = 40;
const WIDTH: i32 = 560;
/// Vertical position of the axis, and the number of dots that fit above each other.
const AXIS: i32 = 196;
const STACK: i32 = 20;
const RADIUS: i32 = 3;

/// The values at the ends of the axis.
type Ends = (f64, f64);

impl CausalTest {
    /// Draws the claimed effects as diamonds, those of the controls as dots.
    pub fn figure(&self) -> Figure {
        let ends = self.ends();
        let mut canvas = Canvas::default();
        canvas.draw(|pen| {
            pen.text(&self.title(), (14, 20), Type::TITLE);
            let measure = format!("{}, {}", shortened(&self.model, 24), shortened(&self.measure, 120));
            pen.text(&measure, (14, 42), Type::NOTE);
            pen.text(&self.facts(), (14, 60), Type::NOTE);
            self.axis(pen, ends);
            self.controls(pen, ends);
            self.claimed(pen, ends);
        });
        let widest = [
            28 + title_width(&self.title()),
            28 + width(&format!("{}, {}", shortened(&self.model, 24), shortened(&self.measure, 120))),
            28 + width(&self.facts()),
        ];
        let right = widest.into_iter().fold(LEFT + WIDTH + 40, i32::max);
        canvas.figure((right, AXIS + 60), &self.title(), &format!("{}: {}.", self.measure, self.facts()))
    }

    /// Saves the chart as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    fn title(&self) -> String {
        format!("{}: without {}", self.verdict(), shortened(&self.claim, 60))
    }

    /// What the controls allow to say.
    fn verdict(&self) -> String {
        let (n, strong) = (self.controls.len(), self.n_as_strong());
        match (n, strong) {
            (0, _) => "Not compared with controls".into(),
            (_, 0) => format!("It matters, none of {} is as strong", count(n, "control")),
            (_, strong) if 20 * strong <= n => {
                format!("It probably matters, {strong} of {n} controls are as strong")
            }
            _ => format!("Not shown to matter, {strong} of {n} controls are as strong"),
        }
    }

    /// The result on one line.
    pub(crate) fn facts(&self) -> String {
        let number = |value: f64| match self.unit {
            Unit::LogKl => format!("KL {}", plain(value.exp())),
            _ => number(value),
        };
        let effect = number(self.effect());
        let effect = match self.claimed.len() {
            n if n > 1 => format!("median of {n} {effect}"),
            _ => effect,
        };
        let controls = count(self.controls.len(), "control");
        let control = number(self.control());
        let note = self.note.as_ref().map_or(String::new(), |note| format!(" · {note}"));
        format!("{effect}; median of {controls} {control}; {} of them as strong{note}", self.n_as_strong())
    }

    /// The smallest and the largest effect, and 0.
    fn ends(&self) -> Ends {
        let claimed = self.claimed.iter().map(|(_, value)| *value);
        let all = self.controls.iter().copied().chain(claimed).filter(|value| value.is_finite());
        let (low, high) = all.fold((0.0, 0.0), |(low, high): Ends, value| (low.min(value), high.max(value)));
        if low < high { (low, high) } else { (low, low + 1.0) }
    }

    /// Draws the axis with round numbers; below those of a log-probability, what becomes of the probability; instead of
    /// logarithms of divergences, powers of ten of divergences.
    fn axis(&self, pen: &Pen, ends: Ends) {
        let powers = if self.unit == Unit::LogKl { powers_of_ten(ends) } else { Vec::new() };
        let is_log = powers.len() > 1;
        let ticks =
            if is_log { powers } else { round(ends).into_iter().map(|value| (value, value)).collect() };
        pen.line((LEFT, AXIS), (LEFT + WIDTH, AXIS), LINE);
        for (value, told) in ticks {
            let at = x(value, ends);
            pen.line((at, AXIS), (at, AXIS + 4), LINE);
            pen.text(&plain(told), (at, AXIS + 13), Type::TEXT.centered());
            if self.unit == Unit::Nats {
                pen.text(&format!("p × {}", plain((-value).exp())), (at, AXIS + 29), Type::NOTE.centered());
            }
        }
        if is_log {
            pen.text("KL in nats", (LEFT + WIDTH, AXIS + 29), Type::NOTE.before());
        }
        pen.area(dot((LEFT + 4, AXIS + 48)), MARKS[0]);
        pen.text("controls", (LEFT + 14, AXIS + 48), Type::NOTE);
        pen.area(diamond((LEFT + 94, AXIS + 48), 7), MARKS[1]);
        pen.text("what was claimed", (LEFT + 104, AXIS + 48), Type::NOTE.colored(MUTED));
    }

    /// Draws diamonds with their names, a line higher where names would overlap.
    fn claimed(&self, pen: &Pen, ends: Ends) {
        let mut named: Vec<Point> = Vec::new();
        for (name, value) in &self.claimed {
            let at = x(*value, ends);
            pen.area(diamond((at, AXIS - 16), 14), MARKS[1]);
            let free =
                |y: &i32| named.iter().all(|&(x, taken)| (x - at).abs() > width(name) + 4 || taken != *y);
            let y = (0..4).map(|line| AXIS - 40 - 13 * line).find(free).unwrap_or(AXIS - 40);
            named.push((at, y));
            pen.text(name, (at, y), Type::TEXT.centered().colored(MARKS[1]));
        }
    }

    /// Draws dots, above each other where they would overlap.
    fn controls(&self, pen: &Pen, ends: Ends) {
        let mut places: Vec<i32> = self.controls.iter().map(|control| x(*control, ends)).collect();
        places.sort_unstable();
        let mut placed: Vec<Point> = Vec::new();
        for at in places {
            let free = |y: &i32| placed.iter().all(|&(x, taken)| (x - at).abs() > 2 * RADIUS || taken != *y);
            let y = (0..STACK)
                .map(|i| AXIS - RADIUS - 1 - 2 * RADIUS * i)
                .find(free)
                .unwrap_or(AXIS - RADIUS - 1);
            placed.push((at, y));
            pen.area(dot((at, y)), MARKS[0]);
        }
    }
}

/// At most six round numbers between the ends: multiples of 1, 2 or 5 times a power of ten.
fn round((low, high): Ends) -> Vec<f64> {
    let mut steps = (-12..308).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)));
    let Some(step) = steps.find(|step| (high - low) / step <= 5.0) else { return vec![low, high] };
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    // A decimal that prints as it was meant.
    let number =
        |i: i64| if i == 0 { 0.0 } else { format!("{:.12}", i as f64 * step).parse().unwrap_or(0.0) };
    (first..=last).map(number).collect()
}

fn x(value: f64, (low, high): Ends) -> i32 {
    LEFT + (((value - low) / (high - low)).clamp(0.0, 1.0) * f64::from(WIDTH)).round() as i32
}

/// Returns the outline of a dot: an octagon.
fn dot((x, y): Point) -> Vec<Point> {
    let far = RADIUS;
    let near = (RADIUS + 1) / 2;
    let upper = [(-far, -near), (-near, -far), (near, -far), (far, -near)];
    let lower = [(far, near), (near, far), (-near, far), (-far, near)];
    upper.into_iter().chain(lower).map(|(dx, dy)| (x + dx, y + dy)).collect()
}

/// Returns the outline of a diamond.
fn diamond((x, y): Point, height: i32) -> Vec<Point> {
    [(0, -height), (height * 4 / 7, 0), (0, height), (-height * 4 / 7, 0)]
        .map(|(dx, dy)| (x + dx, y + dy))
        .into()
}

/// Formats a number with two decimals, or fewer digits if it is very small or very large.
fn number(value: f64) -> String {
    match value.abs() {
        5e-3..1e6 => format!("{value:.2}"),
        _ => plain(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(claimed: &[f64], controls: Vec<f64>) -> CausalTest {
        CausalTest {
            claim: "<route>".into(),
            measure: "drop, in nats".into(),
            unit: Unit::Nats,
            claimed: claimed.iter().map(|value| ("route".into(), *value)).collect(),
            controls,
            model: "synthetic".into(),
            note: None,
        }
    }

    #[test]
    fn every_effect_is_drawn_inside_the_figure() {
        let wild = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -1e308];
        for controls in [vec![], vec![0.0; 30], vec![-3.0, 0.1, 50.0], vec![f64::MIN_POSITIVE; 2], wild] {
            let n = controls.len();
            let figure = test(&[31.5, 31.4, 2.0], controls).figure();
            // One dot and one diamond more stand in the legend.
            assert_eq!(figure.svg().matches("<polygon").count(), n + 5, "{n}");
            assert!(figure.size().0 < 900 && figure.svg().contains("&lt;route&gt;"));
        }
    }

    #[test]
    fn the_larger_lies_to_the_right() {
        let ends = test(&[31.5], vec![-2.0, 4.0]).ends();
        assert_eq!((ends, x(-2.0, ends), x(31.5, ends)), ((-2.0, 31.5), LEFT, LEFT + WIDTH));
        assert_eq!(test(&[], vec![]).ends(), (0.0, 1.0));
    }

    #[test]
    fn numbers_on_the_axis_are_round_and_the_title_is_the_verdict() {
        assert_eq!(round((-2.0, 31.5)), [0.0, 10.0, 20.0, 30.0]);
        assert_eq!(round((0.0, 0.0007)), [0.0, 0.0002, 0.0004, 0.0006]);
        assert!(round((-1e300, 1e300)).len() <= 6 && round((0.0, 1.0)).contains(&0.6));
        let few = test(&[5.5], vec![0.0, 2.0]).figure();
        assert!(few.svg().contains("p × 0.018"), "{}", few.svg());
        let verdict = |strong: usize, n: usize| {
            test(&[1.0], (0..n).map(|i| if i < strong { 2.0 } else { 0.0 }).collect()).verdict()
        };
        for (strong, n, said) in
            [(0, 20, "It matters"), (1, 20, "It probably"), (8, 20, "Not shown"), (0, 0, "Not compared")]
        {
            assert!(verdict(strong, n).starts_with(said), "{strong} of {n}");
        }
    }
}
