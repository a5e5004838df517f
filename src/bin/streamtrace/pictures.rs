//! `streamtrace attention-map | overview | explore | report | edges`: a trace as pictures, pages and tables.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use streamtrace::{Error, Report, Trace, view::plot::Figure, words::text_file::read_text};

use crate::{
    args::tokens,
    open::open,
    output::{print, wrote},
};

#[derive(Args)]
pub struct AttentionMapArgs {
    /// The trace to read
    trace: PathBuf,
    /// The layer, counted from 0
    #[arg(long)]
    layer: usize,
    /// The head, counted from 0
    #[arg(long)]
    head: usize,
    /// Show only these queries, such as 16000..16384
    #[arg(long, value_name = "TOKENS", value_parser = tokens)]
    queries: Option<Range<usize>>,
    /// Show only these keys, such as 100..200
    #[arg(long, value_name = "TOKENS", value_parser = tokens)]
    keys: Option<Range<usize>>,
    /// Mark a text of the prompt (its first occurrence); may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    mark: Vec<String>,
    #[command(flatten)]
    picture: Picture,
}

impl AttentionMapArgs {
    pub fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        let mut map = trace.attention_map(self.layer, self.head)?;
        for text in &self.mark {
            map = map.mark(text, trace.find(text)?)?;
        }
        if let Some(queries) = &self.queries {
            map = map.queries(queries.clone())?;
        }
        if let Some(keys) = &self.keys {
            map = map.keys(keys.clone())?;
        }
        self.picture.save(map.figure())
    }
}

#[derive(Args)]
pub struct OverviewArgs {
    /// The trace to read
    trace: PathBuf,
    /// Frame the heads by which the last token reads a text of the prompt (its first occurrence)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    span: Option<String>,
    #[command(flatten)]
    picture: Picture,
}

impl OverviewArgs {
    pub fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        let figure = match &self.span {
            Some(text) => trace.overview_of(&trace.readers(trace.find(text)?, trace.output())?)?,
            None => trace.overview()?,
        };
        self.picture.save(figure)
    }
}

/// Where a figure goes
#[derive(Args)]
struct Picture {
    /// The picture to write: .svg or .png
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Width of a .png in pixels; twice the figure's width if left out
    #[arg(long, value_name = "PIXELS")]
    width: Option<u32>,
}

impl Picture {
    fn save(&self, figure: Figure) -> Result<(), Error> {
        match self.width {
            Some(pixels) => figure.png_width(pixels).save(&self.out),
            None => figure.save(&self.out),
        }?;
        wrote(&self.out, "");
        Ok(())
    }
}

#[derive(Args)]
pub struct ExploreArgs {
    /// The trace to read
    trace: PathBuf,
    /// The page to write: .html
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Show a second trace of the same prompt beside it
    #[arg(long, value_name = "TRACE")]
    against: Option<PathBuf>,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// Print which share of the kept blocks the page shows, and of their attention, as one JSON object
    #[arg(long)]
    json: bool,
}

impl ExploreArgs {
    pub fn run(&self) -> Result<(), Error> {
        let mut explore = Trace::open(&self.trace)?.explore()?;
        if let Some(other) = &self.against {
            explore = explore.against(&Trace::open(other)?)?;
        }
        let names = [Some(&self.trace), self.against.as_ref()].into_iter().flatten();
        let shown = explore.files(names.map(|file| file.display().to_string())).save(&self.out)?;
        if self.json {
            print(json!(shown))?;
        } else {
            wrote(&self.out, "");
        }
        if self.open { open(&self.out) } else { Ok(()) }
    }
}

#[derive(Args)]
pub struct ReportArgs {
    /// The trace to read
    trace: PathBuf,
    /// The report to write: .html, or .md with its figures beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Title of the report; the trace's file name if left out
    #[arg(long, allow_hyphen_values = true)]
    title: Option<String>,
    /// Markdown file that the report begins with
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Open the report in the browser
    #[arg(long)]
    open: bool,
}

impl ReportArgs {
    pub fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        let report = Report::new(self.title()).text(self.text()?);
        let report = report.figure(trace.reading()?.figure(), "What the last token read.");
        let mut report = report.trace(&trace).explore(&trace.explore()?);
        report = report.figure(trace.overview()?, "What each head of each layer attends to.");
        if trace.summary().fidelity.is_some() {
            report = report.figure(&trace.recall_map()?, "How much of its dense attention each head keeps.");
        }
        report.save(&self.out)?;
        wrote(&self.out, "");
        if self.open { open(&self.out) } else { Ok(()) }
    }

    fn title(&self) -> String {
        let name = self.trace.file_name().unwrap_or_default().to_string_lossy();
        self.title.clone().unwrap_or_else(|| name.into_owned())
    }

    fn text(&self) -> Result<String, Error> {
        let read = |path: &Path| read_text("read", path);
        self.text.as_deref().map_or(Ok(String::new()), read)
    }
}

#[derive(Args)]
pub struct EdgesArgs {
    /// The trace to read
    trace: PathBuf,
    /// The table to write: .csv or .parquet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write one row for each pair of sentences instead of each kept block
    #[arg(long)]
    sentences: bool,
    /// Write one row for each expert that a token took, of a trace made with --experts
    #[arg(long, conflicts_with = "sentences")]
    experts: bool,
}

impl EdgesArgs {
    pub fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        match (self.sentences, self.experts) {
            (true, _) => trace.sentence_edges()?.save(&self.out)?,
            (_, true) => trace.expert_edges()?.save(&self.out)?,
            _ => trace.edges().save(&self.out)?,
        }
        wrote(&self.out, "");
        Ok(())
    }
}
