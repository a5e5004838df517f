//! `streamtrace readers`: which heads attend to a text.

use std::{ops::Range, path::PathBuf};

use clap::Args;
use streamtrace::{Error, Span, Trace};

use crate::{args::tokens, output::Format};

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
