//! Routes as a graph: layers from bottom to top, positions from left to right, edges as wide as their flow.

use plotters::style::RGBColor;

use super::{
    broken_axis::BrokenAxis,
    canvas::{Canvas, Pen, Point, Type},
    figure::Figure,
    labels::{count, percent, shortened, thousands, width},
    theme::{INK, LINE, MARKS, MUTED},
};
use crate::{
    analysis::{RouteEdge, RouteMeasure, Routes},
    trace::Span,
};

const LEFT: i32 = 64;
const TOP: i32 = 84;
const WIDTH: i32 = 560;
/// Room right of the graph for the flow of each layer.
const BARS: i32 = 96;
/// Most edges that are drawn, and that are named.
const MAX_DRAWN: usize = 60;
const MAX_NAMED: usize = 14;
/// Width of the strongest edge.
const WIDEST: f64 = 13.0;
const FROM: RGBColor = MARKS[1];
const TO: RGBColor = MARKS[0];
const EDGE: RGBColor = MARKS[3];

/// A graph of layers between its places on the page.
struct Graph<'a> {
    routes: &'a Routes,
    edges: &'a [RouteEdge],
    axis: BrokenAxis,
    /// Pixels between the states before and after a layer.
    step: i32,
}

impl Routes {
    /// Draws the strongest edges, at most 60, and the flow of each layer beside them.
    pub fn figure(&self) -> Figure {
        let edges = &self.edges[..self.edges.len().min(MAX_DRAWN)];
        let spans: Vec<Span> = edges.iter().flat_map(|e| [e.queries, e.keys]).chain([self.from, self.to]).collect();
        let step = (540 / self.by_layer.len().max(1)).clamp(12, 62) as i32;
        let graph = Graph { routes: self, edges, axis: BrokenAxis::new(&spans, LEFT, WIDTH), step };
        let mut canvas = Canvas::default();
        canvas.draw(|pen| graph.draw(pen));
        let size = ((LEFT + WIDTH + BARS + 30).max(14 + width(&self.facts())), graph.y(0) + 66);
        canvas.figure(size, &self.title(), &self.description())
    }

    /// Saves the graph as `.svg` or `.png`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<(), crate::Error> {
        self.figure().save(path)
    }

    fn title(&self) -> String {
        format!("{} · routes from tokens {} to {}", shortened(&self.model, 24), self.from, self.to)
    }

    pub(crate) fn facts(&self) -> String {
        let measure = match self.config.measure {
            RouteMeasure::Written => "mass × ‖W_O v‖",
            RouteMeasure::Rollout => "rollout",
        };
        let shown = self.edges.len().min(MAX_DRAWN);
        let edges = format!("{} of {}", thousands(shown as u64), count(self.n_edges, "edge"));
        format!("{measure} · {edges} · {} of the flow through attention not shown", percent(self.hidden))
    }

    fn description(&self) -> String {
        let edge = |e: &RouteEdge| format!("layer {} head {} from tokens {} to {}", e.layer, e.head, e.keys, e.queries);
        let strongest: Vec<String> = self.edges.iter().take(5).map(edge).collect();
        format!(
            "Layers from bottom to top, token positions from left to right, edges as wide as their flow. {}. Strongest: {}.",
            self.facts(),
            strongest.join("; ")
        )
    }
}

impl Graph<'_> {
    /// Where the state before a layer lies; after the last, that of all of them.
    fn y(&self, level: usize) -> i32 {
        TOP + self.step * (self.routes.by_layer.len() - level) as i32
    }

    fn draw(&self, pen: &Pen) {
        pen.text(&self.routes.title(), (14, 20), Type::TITLE);
        pen.text(&self.routes.facts(), (14, 39), Type::NOTE);
        self.levels(pen);
        self.residual(pen);
        for edge in self.edges.iter().rev() {
            self.edge(pen, edge);
        }
        self.names(pen);
        self.ends(pen);
        self.axis.draw(pen, self.y(0) + 14);
        self.flow_by_layer(pen);
    }

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

    /// Dashed lines where what is on its way waits in the residual stream.
    fn residual(&self, pen: &Pen) {
        let overlap = |a: Span, b: Span| a.start < b.end && b.start < a.end;
        for edge in self.edges {
            // From where it came to the key: the place itself, or an earlier edge to a block that holds it.
            let arrives =
                self.edges.iter().filter(|e| e.layer < edge.layer && overlap(e.queries, edge.keys)).map(|e| e.layer + 1);
            let start = if overlap(self.routes.from, edge.keys) { Some(0) } else { arrives.max() };
            if let Some(start) = start {
                self.dashes(pen, self.axis.middle(edge.keys), start, edge.layer);
            }
            let leaves = self.edges.iter().any(|e| e.layer > edge.layer && overlap(e.keys, edge.queries));
            if overlap(edge.queries, self.routes.to) && !leaves {
                self.dashes(pen, self.axis.middle(edge.queries), edge.layer + 1, self.routes.by_layer.len());
            }
        }
    }

    fn dashes(&self, pen: &Pen, x: i32, from: usize, to: usize) {
        for y in (self.y(to)..self.y(from)).step_by(7) {
            pen.line((x, y), (x, (y + 4).min(self.y(from))), MUTED);
        }
    }

    fn width(&self, edge: &RouteEdge) -> f64 {
        let most = self.edges.first().map_or(1.0, |edge| edge.flow);
        (WIDEST * edge.flow / most.max(f64::MIN_POSITIVE)).max(0.8)
    }

    /// A ribbon from the key below to the query above, its ends upright.
    fn edge(&self, pen: &Pen, edge: &RouteEdge) {
        let (low, high) = (self.y(edge.layer), self.y(edge.layer + 1));
        let (from, to) = (f64::from(self.axis.middle(edge.keys)), f64::from(self.axis.middle(edge.queries)));
        let half = self.width(edge) / 2.0;
        let at = |i: i32, side: f64| -> Point {
            let t = f64::from(i) / 16.0;
            let x = from + (to - from) * t * t * (3.0 - 2.0 * t);
            ((x + side * half).round() as i32, (f64::from(low) + f64::from(high - low) * t).round() as i32)
        };
        let outline = (0..=16).map(|i| at(i, -1.0)).chain((0..=16).rev().map(|i| at(i, 1.0))).collect();
        pen.translucent_area(outline, EDGE);
    }

    /// L·H at the strongest edges, where there is room.
    fn names(&self, pen: &Pen) {
        let mut taken: Vec<Point> = Vec::new();
        for edge in self.edges.iter().take(3 * MAX_NAMED) {
            let x = (self.axis.middle(edge.keys) + self.axis.middle(edge.queries)) / 2;
            let at = (x, (self.y(edge.layer) + self.y(edge.layer + 1)) / 2);
            let free = |other: &Point| (other.0 - at.0).abs() > 26 || (other.1 - at.1).abs() > 11;
            if taken.len() < MAX_NAMED && taken.iter().all(free) {
                pen.text(&format!("{}·{}", edge.layer, edge.head), at, Type::TEXT.centered().colored(INK));
                taken.push(at);
            }
        }
    }

    /// Where the route starts, at the bottom, and where it leads, at the top.
    fn ends(&self, pen: &Pen) {
        let n_layers = self.routes.by_layer.len();
        for (span, y, below, color, name) in
            [(self.routes.from, self.y(0), 3, FROM, "from"), (self.routes.to, self.y(n_layers), -8, TO, "to")]
        {
            let (left, right) = (self.axis.x(span.start as f64), self.axis.x(span.end as f64));
            pen.fill((left, y + below), (right.max(left + 3), y + below + 5), color);
            if below < 0 {
                pen.text(name, ((left + right) / 2, y - 17), Type::TEXT.centered().colored(color));
            } else {
                pen.text(name, ((left - 5).max(24), y + 6), Type::TEXT.before().colored(color));
            }
        }
    }

    /// Bars of the share of each layer's flow that goes through attention.
    fn flow_by_layer(&self, pen: &Pen) {
        let left = LEFT + WIDTH + 22;
        pen.text("through attention", (left, TOP - 17), Type::NOTE);
        for (layer, share) in self.routes.by_layer.iter().enumerate() {
            let middle = self.y(layer) - self.step / 2;
            let half = (self.step / 3).clamp(2, 7);
            let end = left + (share.clamp(0.0, 1.0) * 52.0).round() as i32;
            pen.fill((left, middle - half), (left + 52, middle + half), super::theme::PRUNED);
            pen.fill((left, middle - half), (end, middle + half), EDGE);
            if self.step >= 14 {
                pen.text(&format!("{:.0} %", 100.0 * share), (left + 58, middle), Type::SMALL);
            }
        }
    }
}
