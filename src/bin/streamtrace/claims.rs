//! `streamtrace anchors | routes | knock-out`: what a trace says about a text, and whether it is so.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use streamtrace::{
    CausalTest, Error, Intervention, Span, Trace,
    analysis::{AnchorConfig, RouteConfig, RouteMeasure, Routes},
};

use crate::{
    args::{Format, LoadArgs},
    writable,
};

#[derive(Args)]
pub struct AnchorsArgs {
    /// The trace to read
    trace: PathBuf,
    /// Heads of highest kurtosis whose scores are averaged
    #[arg(long, default_value_t = AnchorConfig::default().n_receiver_heads)]
    heads: usize,
    /// Sentences to name
    #[arg(long, default_value_t = AnchorConfig::default().n_anchors)]
    anchors: usize,
    /// Only attention from so many sentences later counts; another number than 4 needs rows of the whole text (trace --focus)
    #[arg(long, default_value_t = AnchorConfig::default().min_distance)]
    distance: usize,
    /// What to write: the chart as .svg or .png, or the text with its anchors highlighted as .html
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

impl AnchorsArgs {
    pub fn run(&self) -> Result<(), Error> {
        self.out.as_deref().map_or(Ok(()), writable)?;
        let config = AnchorConfig {
            n_receiver_heads: self.heads,
            n_anchors: self.anchors,
            min_distance: self.distance,
            ..AnchorConfig::default()
        };
        let anchors = Trace::open(&self.trace)?.thought_anchors_with(&config)?;
        self.out.as_ref().map_or(Ok(()), |out| anchors.save(out))?;
        self.format.print(&anchors, &anchors)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum MeasureArg {
    Written,
    Proximity,
    Rollout,
}

/// Which route
#[derive(Args)]
pub struct Ends {
    /// A text of the prompt, at its first occurrence, from which something is carried
    #[arg(long, value_name = "TEXT")]
    from: String,
    /// A text of the prompt, at its last occurrence, to which it is carried; the last token if left out
    #[arg(long, value_name = "TEXT")]
    to: Option<String>,
    /// Edges to show
    #[arg(long, default_value_t = RouteConfig::default().n_edges)]
    edges: usize,
    /// What makes an edge important: attention mass times what it writes, L1 proximity (of traces made with --proximity), or mass
    /// alone
    #[arg(long, value_enum, default_value = "written")]
    measure: MeasureArg,
}

impl Ends {
    fn routes(&self, trace: &Trace, to: Span) -> Result<Routes, Error> {
        let measure = match self.measure {
            MeasureArg::Written => RouteMeasure::Written,
            MeasureArg::Proximity => RouteMeasure::Proximity,
            MeasureArg::Rollout => RouteMeasure::Rollout,
        };
        let to = self.to.as_ref().map_or(Ok(to), |text| trace.find_last(text))?;
        trace.routes_with(trace.find(&self.from)?, to, RouteConfig { measure, n_edges: self.edges })
    }
}

#[derive(Args)]
pub struct RoutesArgs {
    /// The trace to read
    trace: PathBuf,
    #[command(flatten)]
    ends: Ends,
    /// The graph to write: .svg or .png
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

impl RoutesArgs {
    pub fn run(&self) -> Result<(), Error> {
        self.out.as_deref().map_or(Ok(()), writable)?;
        let trace = Trace::open(&self.trace)?;
        let routes = self.ends.routes(&trace, trace.output())?;
        self.out.as_ref().map_or(Ok(()), |out| routes.save(out))?;
        self.format.print(&routes, &routes)
    }
}

#[derive(Args)]
pub struct KnockOutArgs {
    /// The trace to read, made by the same model
    trace: PathBuf,
    #[command(flatten)]
    ends: Ends,
    /// A text of the prompt, at its last occurrence, whose probability is measured; the next token if left out
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
    /// Random routes of the same size and layers to compare with
    #[arg(long, default_value_t = 20)]
    controls: usize,
    /// Seed of the random routes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The drops to draw: .svg or .png
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    model: LoadArgs,
}

impl KnockOutArgs {
    pub fn run(&self) -> Result<(), Error> {
        self.out.as_deref().map_or(Ok(()), writable)?;
        let trace = Trace::open(&self.trace)?;
        let answer = self.answer.as_ref().map(|text| trace.find_last(text)).transpose()?.unwrap_or_default();
        // A token is predicted by the one before it.
        let rows = if answer.is_empty() { trace.output() } else { answer.predictors() };
        let routes = self.ends.routes(&trace, rows)?;
        let mut interventions: Vec<Intervention> = vec![routes.intervention(), routes.alone(&trace, rows)];
        interventions.extend(routes.controls(&trace, self.controls, self.seed)?);
        let effects = self.model.tracer()?.knock_out(&trace, &interventions, answer)?;
        let (route, alone, controls) = (&effects[0], &effects[1], &effects[2..]);
        let test = CausalTest::of_effects(route, controls, &trace.summary().model.name);
        self.out.as_ref().map_or(Ok(()), |out| test.save(out))?;
        let object =
            json!({ "route": route, "alone": alone, "controls": controls, "median_drop": test.control() });
        self.format.print(object, format_args!("{route}\n{alone}\n{test}"))
    }
}
