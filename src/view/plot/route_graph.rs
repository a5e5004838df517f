//! Routes as a graph: layers from bottom to top, tokens from left to right, edges as wide as their flow.

use plotters::style::RGBColor;

use super::{
    broken_axis::BrokenAxis,
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    heat_map::HeatMap,
    labels::{title_width, token, width},
    route_bundles::{Bundle, bundles, leading},
    theme::{LINE, MARKS, MUTED, PRUNED},
};
use crate::{
    analysis::{RouteEdge, RouteMeasure, Routes},
    error::Error,
    trace::Span,
    words::{
        letters::shortened,
        numbers::{count, head_name, percent, thousands},
    },
};

const LEFT: i32 = 64;
const TOP: i32 = 84;
const WIDTH: i32 = 560;
/// Width of the column right of the graph that shows the flow of each layer.
const BARS: i32 = 96;
/// The largest number of edges that are drawn, and of edges that are named.
const MAX_DRAWN: usize = 60;
const MAX_NAMED: usize = 14;
/// Width of the strongest edge.
const WIDEST: f64 = 13.0;
const FROM: RGBColor = MARKS[1];
const TO: RGBColor = MARKS[0];
const EDGE: RGBColor = MARKS[3];

/// The layout of a graph.
struct Graph<'a> {
    routes: &'a Routes,
    /// Strongest first.
    bundles: Vec<Bundle>,
    axis: BrokenAxis,
    /// Height of a layer, in pixels.
    step: i32,
}

impl Routes {
    /// Draws the strongest edges, at most 60, and beside them the flow through each layer's attention.
    pub fn figure(&self) -> Figure {
        let edges = &self.edges[..self.edges.len().min(MAX_DRAWN)];
        let spans: Vec<Span> =
            edges.iter().flat_map(|e| [e.queries, e.keys]).chain([self.from, self.to]).collect();
        let step = (540 / self.by_layer.len().max(1)).clamp(12, 62) as i32;
        let graph = Graph {
            routes: self,
            bundles: bundles(edges, &leading(self)),
            axis: BrokenAxis::new(&spans, LEFT, WIDTH),
            step,
        };
        let mut canvas = Canvas::default();
        graph.draw(&mut canvas);
        let size = (
            (LEFT + WIDTH + BARS + 30).max(24 + width(&self.facts())).max(24 + title_width(&self.title())),
            graph.y(0) + 131,
        );
        canvas.figure(size, &self.title(), &self.description())
    }

    /// A map of the flow through each layer and head, as a share of all the flow that arrives.
    pub fn head_map(&self) -> HeatMap {
        let named = leading(self)
            .into_iter()
            .map(|(layer, head, share)| format!("{} {:.0} %", head_name(layer, head), 100.0 * share));
        let named: Vec<String> = named.collect();
        let by = if named.is_empty() {
            "by many heads, none with 5 %".into()
        } else {
            format!("by {}", named.join(", "))
        };
        let title = format!("The flow to {} goes {by}", self.end());
        HeatMap::by_layer_and_head(title, self.facts(), "share of the flow from start to end", &self.by_head)
    }

    /// Saves the graph as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<(), Error> {
        self.figure().save(path)
    }

    fn title(&self) -> String {
        let carries = leading(self).first().map_or(String::new(), |&(layer, head, share)| {
            format!(": {} carries {:.0} %", head_name(layer, head), 100.0 * share)
        });
        format!("How {} reached {}{carries}", quoted(&self.from_text, 34), self.end())
    }

    /// Names the end of the route: the next token, if it is that.
    fn end(&self) -> String {
        match &self.writes {
            Some(next) => format!("the next token {}", quoted(next, 20)),
            None => quoted(&self.to_text, 20),
        }
    }

    pub(crate) fn facts(&self) -> String {
        let measure = match self.config.measure {
            RouteMeasure::Written => "mass × ‖W_O v‖",
            RouteMeasure::Proximity => "L1 proximity",
            RouteMeasure::Rollout => "rollout",
        };
        let shown = self.edges.len().min(MAX_DRAWN);
        let edges = format!("the {} strongest of {}", thousands(shown as u64), count(self.n_edges, "edge"));
        let (model, shown) = (shortened(&self.model, 24), percent(1.0 - self.hidden));
        format!("{model}, {measure} · {edges} between blocks carry {shown} of the flow through attention")
    }

    fn description(&self) -> String {
        let edge = |e: &RouteEdge| {
            format!("layer {} head {} from tokens {} to {}", e.layer, e.head, e.keys, e.queries)
        };
        let strongest: Vec<String> = self.edges.iter().take(5).map(edge).collect();
        format!(
            "Layers from bottom to top, token positions from left to right, edges as wide as their flow. \
             {}. Strongest: {}.",
            self.facts(),
            strongest.join("; ")
        )
    }
}

/// Quotes a text; one of blanks alone shows them.
fn quoted(text: &str, max: usize) -> String {
    let shown = if text.trim().is_empty() { token(text) } else { text.trim().into() };
    format!("“{}”", shortened(&shown, max))
}

fn overlap(a: Span, b: Span) -> bool {
    a.start < b.end && b.start < a.end
}

impl Graph<'_> {
    /// Vertical position of the residual stream before layer `level`; with `level` the number of layers,
    /// after the last.
    fn y(&self, level: usize) -> i32 {
        TOP + self.step * self.routes.by_layer.len().saturating_sub(level) as i32
    }

    fn draw(&self, canvas: &mut Canvas) {
        canvas.draw(|pen| {
            pen.text(&self.routes.title(), (14, 20), Type::TITLE);
            pen.text(&self.routes.facts(), (14, 39), Type::NOTE);
            self.levels(pen);
        });
        self.residual(canvas);
        for bundle in self.bundles.iter().rev() {
            let start = (self.axis.middle(bundle.keys), self.y(bundle.layer));
            let end = (self.arrival(bundle), self.y(bundle.layer + 1));
            canvas.curve(start, end, self.width(bundle), bundle.color(), &bundle.hint());
        }
        canvas.draw(|pen| {
            self.names(pen);
            self.ends(pen);
            self.axis.draw(pen, self.y(0) + 34, &self.routes.texts);
            self.flow_by_layer(pen);
        });
    }

    /// Draws a line between layers, and the layers' numbers.
    fn levels(&self, pen: &Pen) {
        let n_layers = self.routes.by_layer.len();
        let every = (16 / self.step + 1) as usize;
        for level in 0..=n_layers {
            pen.faint_line((LEFT, self.y(level)), (LEFT + WIDTH, self.y(level)), LINE);
        }
        for layer in (0..n_layers).step_by(every) {
            pen.text(&layer.to_string(), (LEFT - 10, self.y(layer) - self.step / 2), Type::TEXT.before());
        }
        pen.text("layer", (20, (self.y(0) + self.y(n_layers)) / 2), Type::NOTE.upwards().centered());
    }

    /// Returns where a bundle ends within its query block: at the end of the route, at the block that the
    /// strongest later edge leaves from, or in the middle.
    fn arrival(&self, bundle: &Bundle) -> i32 {
        let queries = bundle.queries;
        let to = self.routes.to;
        if overlap(queries, to) {
            let both = Span { start: queries.start.max(to.start), end: queries.end.min(to.end) };
            return self.axis.middle(both);
        }
        let next = self.bundles.iter().find(|b| b.layer > bundle.layer && overlap(b.keys, queries));
        self.axis.middle(next.map_or(queries, |next| next.keys))
    }

    /// Draws dashed lines where a route stays in the residual stream between two edges.
    fn residual(&self, canvas: &mut Canvas) {
        let n_layers = self.routes.by_layer.len();
        let mut lines = Vec::new();
        for bundle in &self.bundles {
            // A line starts at the route's start, or after the latest earlier edge to a block that overlaps
            // the keys.
            let earlier =
                self.bundles.iter().filter(|b| b.layer < bundle.layer && overlap(b.queries, bundle.keys));
            let start = if overlap(self.routes.from, bundle.keys) {
                Some(0)
            } else {
                earlier.map(|b| b.layer + 1).max()
            };
            lines.extend(start.map(|start| (self.axis.middle(bundle.keys), start, bundle.layer)));
            if overlap(bundle.queries, self.routes.to) {
                lines.push((self.arrival(bundle), bundle.layer + 1, n_layers));
            }
        }
        lines.sort_unstable();
        // Of lines with the same position and start, the longest stays.
        lines.dedup_by(|next, kept| {
            (next.0, next.1) == (kept.0, kept.1) && {
                kept.2 = kept.2.max(next.2);
                true
            }
        });
        for (x, start, end) in lines.into_iter().filter(|(_, start, end)| end > start) {
            canvas.dashes((x, self.y(start)), (x, self.y(end)), MUTED);
        }
    }

    fn width(&self, bundle: &Bundle) -> f64 {
        let most = self.bundles.first().map_or(1.0, |strongest| strongest.flow);
        (WIDEST * bundle.flow / most.max(f64::MIN_POSITIVE)).max(0.9)
    }

    /// Writes layer and heads at the strongest edges, where there is room.
    fn names(&self, pen: &Pen) {
        let mut taken: Vec<(Point, i32)> = Vec::new();
        for bundle in self.bundles.iter().take(3 * MAX_NAMED) {
            let name = bundle.name();
            let x = (self.axis.middle(bundle.keys) + self.arrival(bundle)) / 2;
            let half = width(&name) / 2 + 3;
            let x = x + self.width(bundle) as i32 / 2 + 3 + half;
            let y = (self.y(bundle.layer) + self.y(bundle.layer + 1)) / 2 + 13;
            let at = (x.clamp(LEFT + half, LEFT + WIDTH - half), y);
            let free = |(other, wide): &(Point, i32)| {
                (other.0 - at.0).abs() > half + wide || (other.1 - at.1).abs() > 11
            };
            if taken.len() < MAX_NAMED && taken.iter().all(free) {
                let color = if bundle.leading.is_some() { bundle.color() } else { MUTED };
                pen.text(&name, at, Type::TEXT.centered().colored(color));
                taken.push((at, half));
            }
        }
    }

    /// Draws the start of the route at the bottom and its end at the top, each with its text.
    fn ends(&self, pen: &Pen) {
        let Routes { from, from_text, to, to_text, .. } = self.routes;
        let top = self.y(self.routes.by_layer.len());
        let bottom = self.y(0);
        self.end(pen, *to, to_text, (top - 8, top - 17), TO);
        self.end(pen, *from, from_text, (bottom + 3, bottom + 17), FROM);
    }

    /// Draws one end of the route: a bar whose upper edge is at `bar`, and the text at `line`.
    fn end(&self, pen: &Pen, span: Span, text: &str, (bar, line): (i32, i32), color: RGBColor) {
        let left = self.axis.x(span.start as f64);
        let right = self.axis.x(span.end as f64).max(left + 3);
        pen.fill((left, bar), (right, bar + 5), color);
        let text = quoted(text, 44);
        let middle = ((left + right) / 2).clamp(LEFT + width(&text) / 2, LEFT + WIDTH - width(&text) / 2);
        pen.text(&text, (middle, line), Type::TEXT.centered().colored(color));
    }

    /// Draws, for each layer, the share of its flow that goes through attention.
    fn flow_by_layer(&self, pen: &Pen) {
        let left = LEFT + WIDTH + 22;
        pen.text("through attention", (left, TOP - 17), Type::NOTE);
        for (layer, share) in self.routes.by_layer.iter().enumerate() {
            let middle = self.y(layer) - self.step / 2;
            let half = (self.step / 3).clamp(2, 7);
            let end = left + (share.clamp(0.0, 1.0) * 52.0).round() as i32;
            pen.fill((left, middle - half), (left + 52, middle + half), PRUNED);
            pen.fill((left, middle - half), (end, middle + half), EDGE);
            if self.step >= 14 {
                pen.text(&format!("{:.0} %", 100.0 * share), (left + 58, middle), Type::SMALL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        analysis::RouteEdge,
        trace::{
            Span,
            synthetic::{Shape, trace, trace_of_words},
        },
    };

    #[test]
    fn routes_of_any_model_fit_a_page() {
        for (n_layers, n_tokens) in [(1, 300), (6, 16_384), (48, 3000)] {
            let trace = trace(&Shape { n_tokens, n_layers, ..Default::default() });
            let routes = trace.routes(n_tokens / 10..n_tokens / 10 + 9, trace.output()).unwrap();
            let figure = routes.figure();
            assert!(
                figure.size().0 < 900 && figure.size().1 < 900 && figure.svg().len() < 100_000,
                "{:?}",
                figure.size()
            );
            assert!(figure.svg().matches("<path").count() <= 60 && !figure.svg().contains("style="));
            assert!(
                figure.svg().contains(&format!(
                    "of {} edges",
                    crate::words::numbers::thousands(routes.n_edges as u64)
                ))
            );
        }
    }

    /// A file may hold any values.
    #[test]
    fn what_makes_no_sense_stays_in_the_graph() {
        let trace = trace(&Shape { n_tokens: 300, ..Default::default() });
        let mut routes = trace.routes(30..39, trace.output()).unwrap();
        let nowhere = Span { start: usize::MAX - 1, end: usize::MAX };
        let backwards = Span { start: 20, end: 3 };
        for (edge, wild) in routes.edges.iter_mut().zip([f64::NAN, f64::INFINITY, -1.0]) {
            *edge = RouteEdge { layer: 99, flow: wild, queries: nowhere, keys: backwards, ..*edge };
        }
        routes.to = backwards;
        routes.by_layer[0] = f64::NAN;
        routes.by_head = vec![vec![], vec![f64::NAN; 3]];
        assert!(
            routes.figure().svg().starts_with("<svg") && routes.head_map().figure().svg().starts_with("<svg")
        );
        routes.from = nowhere;
        routes.by_layer.clear();
        assert!(routes.figure().svg().starts_with("<svg"));
    }

    #[test]
    fn hostile_text_is_escaped() {
        let words = ["</svg><script>", "\u{0}\u{1b}", "\u{ffff}", "\"'&", "]]>"].map(String::from);
        let trace = trace_of_words(
            &Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() },
            &words,
        );
        let figure = trace.routes(0..2, trace.output()).unwrap().figure();
        assert!(!figure.svg().contains("<script") && figure.svg().contains("&lt;/svg&gt;"));
    }
}
