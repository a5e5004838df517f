//! `streamtrace thought-anchors | routes | test-routes`: claims that a trace makes about a text, and a test
//! of them.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use streamtrace::{
    CausalTest, Error, Intervention, Span, Trace,
    analysis::{AnchorConfig, RouteConfig, RouteMeasure, Routes},
};

use crate::{
    args::LoadArgs,
    output::{Format, Output, check_writable, wrote},
};

#[derive(Args)]
pub struct AnchorsArgs {
    /// The trace to read
    trace: PathBuf,
    /// Number of heads whose scores are averaged: those of the highest kurtosis
    #[arg(
        long,
        alias = "heads",
        value_name = "HEADS",
        default_value_t = AnchorConfig::default().n_receiver_heads
    )]
    n_receiver_heads: usize,
    /// Number of anchors to name
    #[arg(
        long,
        alias = "anchors",
        value_name = "SENTENCES",
        default_value_t = AnchorConfig::default().n_anchors
    )]
    n_anchors: usize,
    /// Count only attention from at least this many sentences later; values other than 4 need a trace whose
    /// --focus covers the whole text
    #[arg(
        long,
        alias = "distance",
        value_name = "SENTENCES",
        default_value_t = AnchorConfig::default().min_distance
    )]
    min_distance: usize,
    /// Look at the sentences from this text on (its first occurrence), not at the chain of thought: the model's
    /// last turn, or what it thinks there; without turns, the whole prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    from: Option<String>,
    /// Look at the sentences up to this text (its last occurrence), not at the chain of thought
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    to: Option<String>,
    /// Cut sentences by the rule that Bogdan et al. 2025 published; needs a trace whose --focus covers the text
    #[arg(long, conflicts_with_all = ["from", "to"])]
    published_sentences: bool,
    /// Write the chart as .svg or .png, or the text with its anchors highlighted as .html
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

impl AnchorsArgs {
    pub fn run(&self) -> Result<(), Error> {
        check_writable(self.out.as_deref())?;
        let trace = Trace::open(&self.trace)?;
        let config = AnchorConfig {
            over: self.over(&trace)?,
            n_receiver_heads: self.n_receiver_heads,
            n_anchors: self.n_anchors,
            min_distance: self.min_distance,
            sentences: if self.published_sentences { Some(trace.published_sentences()?) } else { None },
            ..AnchorConfig::default()
        };
        let anchors = trace.thought_anchors_with(&config)?;
        if let Some(out) = &self.out {
            anchors.save(out)?;
            wrote(out, "");
        }
        self.format.print(&anchors, &anchors)
    }

    /// Returns the tokens from `--from` to `--to`; `None` without either.
    fn over(&self, trace: &Trace) -> Result<Option<Span>, Error> {
        let start = self.from.as_ref().map(|text| trace.find(text)).transpose()?;
        let end = self.to.as_ref().map(|text| trace.find_last(text)).transpose()?;
        if start.is_none() && end.is_none() {
            return Ok(None);
        }
        let (start, end) =
            (start.map_or(0, |span| span.start), end.map_or(trace.n_tokens(), |span| span.end));
        if start < end {
            return Ok(Some(Span { start, end }));
        }
        let expected = format!("a --to that ends after --from begins, at token {start}");
        let fix = "swap them, or choose texts that occur in that order";
        Err(Error::setting("the stretch to look at", expected, format!("its end at token {end}"), fix))
    }
}

/// The two ends of a route, and how its edges are ranked
#[derive(Args)]
pub struct Ends {
    /// Text of the prompt where the route starts (its first occurrence)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    from: String,
    /// Text of the prompt where the route ends (its last occurrence); the last token if left out, for
    /// test-routes the tokens that predict --answer
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    to: Option<String>,
    /// Number of edges to keep: the most important ones
    #[arg(long, alias = "edges", value_name = "EDGES", default_value_t = RouteConfig::default().n_edges)]
    n_edges: usize,
    /// How the importance of an edge is measured
    #[arg(long, value_enum, default_value_t = RouteMeasure::Written)]
    measure: RouteMeasure,
}

impl Ends {
    /// The routes to `--to`, or else to `output`.
    fn routes(&self, trace: &Trace, output: Span) -> Result<Routes, Error> {
        let from = trace.find(&self.from)?;
        let to = match &self.to {
            Some(text) => trace.find_last(text)?,
            None => output,
        };
        trace.routes_with(from, to, RouteConfig { measure: self.measure, n_edges: self.n_edges })
    }
}

#[derive(Args)]
pub struct RoutesArgs {
    /// The trace to read
    trace: PathBuf,
    #[command(flatten)]
    ends: Ends,
    #[command(flatten)]
    output: Output,
}

impl RoutesArgs {
    pub fn run(&self) -> Result<(), Error> {
        check_writable(self.output.out.as_deref())?;
        let trace = Trace::open(&self.trace)?;
        let routes = self.ends.routes(&trace, trace.output())?;
        if let Some(out) = &self.output.out {
            routes.save(out)?;
            wrote(out, "");
        }
        self.output.format.print(&routes, &routes)
    }
}

#[derive(Args)]
pub struct TestRoutesArgs {
    /// The trace to read; --model must be the model that made it
    trace: PathBuf,
    #[command(flatten)]
    ends: Ends,
    /// Text of the prompt whose probability is measured (its last occurrence); the next token if left out
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    answer: Option<String>,
    /// Number of random routes to compare with, each through the same layers and with as many edges
    #[arg(long, alias = "controls", value_name = "ROUTES", default_value_t = 20)]
    n_random: usize,
    /// Seed of the random routes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    model: LoadArgs,
}

impl TestRoutesArgs {
    pub fn run(&self) -> Result<(), Error> {
        check_writable(self.output.out.as_deref())?;
        let trace = Trace::open(&self.trace)?;
        let answer = self.answer.as_ref().map(|text| trace.find_last(text)).transpose()?;
        // A token is predicted by the one before it.
        let rows = answer.map_or(trace.output(), |answer| answer.predictors());
        let routes = self.ends.routes(&trace, rows)?;
        let mut interventions: Vec<Intervention> = vec![routes.intervention(), routes.alone(&trace, rows)];
        interventions.extend(routes.controls(&trace, self.n_random, self.seed)?);
        let tracer = self.model.tracer()?;
        let effects = tracer.knock_out(&trace, &interventions, answer)?;
        let [route, alone, controls @ ..] = &effects[..] else {
            unreachable!("an effect for each of at least two interventions");
        };
        let test = CausalTest::of_effects(route, controls, &trace.summary().model.name);
        let test = CausalTest { note: trace.summary().length_note(), ..test };
        if let Some(out) = &self.output.out {
            test.save(out)?;
            wrote(out, "");
        }
        let median_drop = test.control();
        let object =
            json!({ "route": route, "alone": alone, "controls": controls, "median_drop": median_drop });
        self.output.format.print(object, format_args!("{route}\n{alone}\n{test}"))
    }
}
