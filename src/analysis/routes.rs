//! The attention that carries something from one place of a prompt to another, layer by layer.

use std::{cmp::Ordering, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use super::flow::{Flow, LayerEdges, RouteEdge, RouteMeasure};
use crate::{
    error::Error,
    protocol::{Edges, Intervention},
    trace::{Span, Trace},
};

/// The largest number of tokens whose texts routes hold.
const MOST_TEXTS: usize = 4096;

/// How the importance of an edge is measured, and how many edges to show.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    pub measure: RouteMeasure,
    /// Number of the strongest edges to keep, each from a key block to a query block in one head.
    pub n_edges: usize,
}

impl Default for RouteConfig {
    fn default() -> Self {
        RouteConfig { measure: RouteMeasure::Written, n_edges: 60 }
    }
}

/// The default number of edges by that measure.
impl From<RouteMeasure> for RouteConfig {
    fn from(measure: RouteMeasure) -> Self {
        RouteConfig { measure, ..RouteConfig::default() }
    }
}

/// The strongest edges between two places of a prompt.
///
/// The flow of an edge is the reach from `from` to its keys × its importance × the reach from its queries to
/// `to`, over kept blocks alone; it is a claim until it is tested ([`Routes::intervention`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    pub from: Span,
    pub to: Span,
    pub from_text: String,
    pub to_text: String,
    pub config: RouteConfig,
    /// Strongest first.
    pub edges: Vec<RouteEdge>,
    /// Flow that arrives: the share of `to` that is made of `from`.
    pub total: f64,
    /// Edges with any flow, shown or not.
    pub n_edges: usize,
    /// Share of the flow through attention that the edges do not show, over all layers.
    pub hidden: f64,
    /// Flow through the attention of each layer, as a share of the total; the rest stays in the residual
    /// stream. `[n_layers]`
    pub by_layer: Vec<f64>,
    /// Flow through the attention of each head, likewise. `[n_layers][n_heads]`
    pub by_head: Vec<Vec<f64>>,
    pub model: String,
    pub n_tokens: usize,
    /// That the prompt is longer than the model was made for, or than its windows, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The next token, if `to` ends with the prompt.
    #[serde(default)]
    pub writes: Option<String>,
    /// The texts of the tokens at the ends and at the edges, in order.
    #[serde(default)]
    pub texts: Vec<(usize, String)>,
}

impl Trace {
    /// Returns the strongest attention from one place of the prompt to a later one, through all layers.
    ///
    /// # Errors
    /// [`Error::Missing`] for a span that is empty or ends past the prompt, [`Error::Setting`] when `from`
    /// comes after `to`, [`Error::Trace`] for a file of version 1, which lacks what attention writes.
    pub fn routes(&self, from: impl Into<Span>, to: impl Into<Span>) -> Result<Routes, Error> {
        self.routes_with(from, to, RouteConfig::default())
    }

    /// Returns the same by another measure or with other settings.
    ///
    /// # Errors
    /// As [`Trace::routes`]; [`Error::Missing`] for [`RouteMeasure::Proximity`] of a trace that did not
    /// record it.
    pub fn routes_with(
        &self,
        from: impl Into<Span>,
        to: impl Into<Span>,
        config: impl Into<RouteConfig>,
    ) -> Result<Routes, Error> {
        let (from, to, config) = (from.into(), to.into(), config.into());
        self.check_ends(from, to)?;
        let flow = Flow::new(self, from, to, config.measure)?;
        let total = flow.total();
        let (mut edges, mut n_edges, mut by_head) =
            (Vec::new(), 0, vec![vec![0.0; self.n_heads()]; self.n_layers()]);
        for (layer, by_head) in by_head.iter_mut().enumerate() {
            flow.for_each_edge(&LayerEdges::read(self, layer, config.measure)?, |edge| {
                n_edges += 1;
                by_head[edge.head] += edge.flow / total;
                edges.push(RouteEdge { flow: edge.flow / total, ..edge });
                if edges.len() >= 2 * config.n_edges + 1024 {
                    keep_strongest(&mut edges, config.n_edges);
                }
            });
        }
        let by_layer: Vec<f64> = by_head.iter().map(|heads| heads.iter().sum()).collect();
        keep_strongest(&mut edges, config.n_edges);
        edges.sort_by(stronger);
        let (shown, all): (f64, f64) = (edges.iter().map(|edge| edge.flow).sum(), by_layer.iter().sum());
        let hidden = if all > 0.0 { (1.0 - shown / all).max(0.0) } else { 0.0 };
        let (model, n_tokens) = (self.summary().model.name.clone(), self.n_tokens());
        let (from_text, to_text) = (self.span_text(from)?.into(), self.span_text(to)?.into());
        let spans = edges.iter().flat_map(|edge| [edge.keys, edge.queries]).chain([from, to]);
        let texts = self.texts_of(spans)?;
        Ok(Routes {
            from,
            to,
            from_text,
            to_text,
            config,
            edges,
            total,
            n_edges,
            hidden,
            by_layer,
            by_head,
            model,
            n_tokens,
            texts,
            note: self.summary().length_note(),
            writes: (to.end == n_tokens).then(|| self.summary().next_token.text.clone()),
        })
    }

    /// Returns the text of each token of some spans, in order; the first of several tokens of a letter has it.
    fn texts_of(&self, spans: impl Iterator<Item = Span>) -> Result<Vec<(usize, String)>, Error> {
        let tokens: BTreeSet<usize> = spans.flat_map(|span| span.range()).collect();
        let mut texts = Vec::new();
        for token in tokens.into_iter().take(MOST_TEXTS) {
            let with = self.span_text(token.saturating_sub(1)..token + 1)?;
            let before = self.span_text(token.saturating_sub(1)..token)?;
            texts.push((token, with.get(before.len()..).unwrap_or_default().to_string()));
        }
        Ok(texts)
    }

    fn check_ends(&self, from: Span, to: Span) -> Result<(), Error> {
        self.checked("span that the route starts from", from)?;
        self.checked("span that the route leads to", to)?;
        if from.start >= to.end {
            return Err(Error::setting(
                "route",
                "a place from which attention can lead to a later one",
                format!("a way from tokens {from} to tokens {to}"),
                "exchange the two",
            ));
        }
        Ok(())
    }
}

fn stronger(a: &RouteEdge, b: &RouteEdge) -> Ordering {
    let place = |e: &RouteEdge| (e.layer, e.head, e.queries.start, e.keys.start);
    b.flow.total_cmp(&a.flow).then(place(a).cmp(&place(b)))
}

fn keep_strongest(edges: &mut Vec<RouteEdge>, n: usize) {
    if edges.len() > n && n > 0 {
        edges.select_nth_unstable_by(n - 1, stronger);
    }
    edges.truncate(n);
}

impl RouteEdge {
    fn edges(&self) -> Edges {
        Edges { layer: Some(self.layer), head: Some(self.head), queries: self.queries, keys: self.keys }
    }
}

impl Routes {
    /// Returns the number of shown edges that `other` shows too.
    pub fn n_shared(&self, other: &Routes) -> usize {
        let place = |e: &RouteEdge| (e.layer, e.head, e.queries, e.keys);
        self.edges.iter().filter(|edge| other.edges.iter().any(|other| place(other) == place(edge))).count()
    }

    /// Returns the intervention that knocks the shown edges out.
    pub fn intervention(&self) -> Intervention {
        Intervention {
            name: "route".into(),
            hide: self.edges.iter().map(RouteEdge::edges).collect(),
            keep: Vec::new(),
        }
    }

    /// Returns `n` random routes to compare with: for each edge another of the same layer and query block,
    /// kept and not shown. The same `seed` gives the same routes; where a query block has no other edge, the
    /// route has one edge less.
    ///
    /// # Errors
    /// [`Error::Trace`] when the file is damaged.
    pub fn controls(&self, trace: &Trace, n: usize, seed: u64) -> Result<Vec<Intervention>, Error> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut controls: Vec<Intervention> = (0..n)
            .map(|i| Intervention { name: format!("control {i}"), ..Intervention::default() })
            .collect();
        let mut places: Vec<(usize, Span)> =
            self.edges.iter().map(|edge| (edge.layer, edge.queries)).collect();
        places.sort_by_key(|(layer, queries)| (*layer, queries.start));
        for place in places.chunk_by(|a, b| a == b) {
            let (layer, queries) = place[0];
            let others = self.others(trace, layer, queries)?;
            for control in &mut controls {
                let chosen = random.choose_multiple(others.iter(), place.len());
                control.hide.extend(chosen.into_iter().cloned());
            }
        }
        controls.retain(|control| !control.hide.is_empty());
        Ok(controls)
    }

    /// Returns the kept edges of a query block in a layer that are not shown.
    fn others(&self, trace: &Trace, layer: usize, queries: Span) -> Result<Vec<Edges>, Error> {
        let (mask, shown) = (trace.mask(layer)?, self.intervention().hide);
        let query_block = queries.start / mask.blocks.block_size_q;
        let kept =
            |head: usize| mask.kept(head, query_block).iter().map(move |&block| (head, block as usize));
        let edge = |(head, block): (usize, usize)| Edges {
            layer: Some(layer),
            head: Some(head),
            queries,
            keys: mask.blocks.keys(block).into(),
        };
        Ok((0..mask.n_heads()).flat_map(kept).map(edge).filter(|edge| !shown.contains(edge)).collect())
    }

    /// Returns the intervention that leaves to the query blocks of a span only the shown edges and the blocks
    /// that are always kept: sinks, and the last ones.
    pub fn alone(&self, trace: &Trace, span: impl Into<Span>) -> Intervention {
        let (span, config, n_tokens) = (span.into(), &trace.summary().config, trace.n_tokens());
        let (bq, bk) = (config.block_size_q, config.block_size_k);
        let blocks = span.start / bq..span.end.div_ceil(bq);
        let queries = Span { start: blocks.start * bq, end: (blocks.end * bq).min(n_tokens) };
        let all = |queries: Span, keys: Span| Edges { layer: None, head: None, queries, keys };
        let local = |block: usize| {
            let queries = Span { start: block * bq, end: ((block + 1) * bq).min(n_tokens) };
            let first = queries.end.div_ceil(bk).saturating_sub(config.effective_local_blocks());
            all(queries, Span { start: first * bk, end: queries.end })
        };
        let mut keep: Vec<Edges> = self.edges.iter().map(RouteEdge::edges).chain(blocks.map(local)).collect();
        if config.sink_blocks > 0 {
            keep.push(all(queries, Span { start: 0, end: config.sink_blocks * bk }));
        }
        Intervention {
            name: "route alone".into(),
            hide: vec![all(queries, Span { start: 0, end: n_tokens })],
            keep,
        }
    }
}
