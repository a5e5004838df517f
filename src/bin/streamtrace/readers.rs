//! `streamtrace read | readers`: what a token attends to, and which heads attend to a text.

use std::{ops::Range, path::PathBuf};

use clap::Args;
use streamtrace::{Error, Span, Trace};

use crate::{
    args::tokens,
    output::{Format, Output, wrote},
};

#[derive(Args)]
pub struct ReadArgs {
    /// The trace to read
    trace: PathBuf,
    /// The token that looks, counted from 0; the last one if left out
    #[arg(long, value_name = "TOKEN")]
    query: Option<usize>,
    /// The layer of the head, counted from 0; the head that looked most clearly if left out
    #[arg(long, requires = "head")]
    layer: Option<usize>,
    /// The head, counted from 0
    #[arg(long, requires = "layer")]
    head: Option<usize>,
    #[command(flatten)]
    output: Output,
}

impl ReadArgs {
    pub fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        let query = self.query.unwrap_or(trace.output().start);
        let reading = trace.reading_of(query, self.layer.zip(self.head))?;
        if let Some(file) = &self.output.out {
            reading.save(file)?;
            wrote(file, "");
        }
        self.output.format.print(&reading, &reading)
    }
}

#[derive(Args)]
pub struct ReadersArgs {
    /// The trace to read
    trace: PathBuf,
    /// Text of the prompt that the heads attend to (its first occurrence)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    span: String,
    /// Tokens whose attention is measured, such as 100..200; the last token if left out
    #[arg(long, value_name = "TOKENS", value_parser = tokens)]
    queries: Option<Range<usize>>,
    #[command(flatten)]
    format: Format,
}

impl ReadersArgs {
    pub fn run(&self) -> Result<(), Error> {
        let trace = Trace::open(&self.trace)?;
        let span = trace.find(&self.span)?;
        let queries = self.queries.clone().map_or(trace.output(), Span::from);
        let readers = trace.readers(span, queries)?;
        self.format.print(&readers, &readers)
    }
}
