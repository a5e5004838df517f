//! Edges of routes as they are drawn: each leading head for itself, the other heads of a layer together.

use plotters::style::RGBColor;

use super::theme::{LINE, MARKS};
use crate::{
    analysis::{RouteEdge, Routes},
    trace::Span,
    words::numbers::head_name,
};

/// The number of heads that have their own ribbons, and their colours.
const LEADING: [RGBColor; 3] = [MARKS[3], MARKS[2], MARKS[5]];
/// The least share of the flow of a leading head.
const LEAST: f64 = 0.05;

/// Edges of one layer between the same two blocks, of a leading head or of all other heads, drawn as one.
pub(super) struct Bundle {
    pub layer: usize,
    pub queries: Span,
    pub keys: Span,
    /// Strongest first.
    pub heads: Vec<usize>,
    pub flow: f64,
    /// Its place among the leading heads.
    pub leading: Option<usize>,
}

/// The heads that carry most of the flow, as layer, head and share; at most as many as there are colours.
pub(super) fn leading(routes: &Routes) -> Vec<(usize, usize, f64)> {
    let layers = routes.by_head.iter().enumerate();
    let heads = layers
        .flat_map(|(layer, row)| row.iter().enumerate().map(move |(head, &share)| (layer, head, share)));
    let mut heads: Vec<(usize, usize, f64)> = heads.filter(|head| head.2 >= LEAST).collect();
    heads.sort_by(|a, b| b.2.total_cmp(&a.2));
    heads.truncate(LEADING.len());
    heads
}

/// Joins edges into bundles, strongest first.
pub(super) fn bundles(edges: &[RouteEdge], leading: &[(usize, usize, f64)]) -> Vec<Bundle> {
    let mut bundles: Vec<Bundle> = Vec::new();
    for edge in edges {
        let place = leading.iter().position(|&(layer, head, _)| (layer, head) == (edge.layer, edge.head));
        let same = |b: &&mut Bundle| {
            (b.layer, b.queries, b.keys, b.leading) == (edge.layer, edge.queries, edge.keys, place)
        };
        match bundles.iter_mut().find(same) {
            Some(bundle) => {
                bundle.heads.push(edge.head);
                bundle.flow += edge.flow;
            }
            None => {
                let RouteEdge { layer, queries, keys, head, flow } = *edge;
                bundles.push(Bundle { layer, queries, keys, heads: vec![head], flow, leading: place });
            }
        }
    }
    bundles.sort_by(|a, b| b.flow.total_cmp(&a.flow));
    bundles
}

impl Bundle {
    pub fn color(&self) -> RGBColor {
        self.leading.map_or(LINE, |place| LEADING[place])
    }

    /// Names the head, or how many they are, and the share of the flow.
    pub fn name(&self) -> String {
        let share = format!("{:.0} %", 100.0 * self.flow);
        match self.heads[..] {
            [head] => format!("{} {share}", head_name(self.layer, head)),
            _ => format!("{} heads of L{} {share}", self.heads.len(), self.layer),
        }
    }

    /// Says what the bundle carries.
    pub fn hint(&self) -> String {
        let heads: Vec<String> = self.heads.iter().map(|&head| head_name(self.layer, head)).collect();
        let Bundle { keys, queries, flow, .. } = self;
        format!("{}: tokens {keys} to {queries}, {:.2} % of the flow", heads.join(", "), 100.0 * flow)
    }
}
