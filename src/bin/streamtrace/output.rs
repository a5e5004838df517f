//! What a verb prints and writes: text, JSON, Markdown tables, figures.

use std::{
    fmt::Display,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use streamtrace::Error;

/// How a result is printed
#[derive(Args)]
pub struct Format {
    /// Print one JSON object, for programs
    #[arg(long)]
    pub json: bool,
}

impl Format {
    /// Prints the object with `--json`, else the text.
    pub fn print(&self, object: impl Serialize, text: impl Display) -> Result<(), Error> {
        if self.json { print(json!(object)) } else { print(text) }
    }
}

/// A result that can be drawn, too
#[derive(Args)]
pub struct Output {
    /// Draw the result into this file: .svg or .png
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub format: Format,
}

/// Fails when `file` cannot be written: before a run that may take long.
pub fn check_writable(file: Option<&Path>) -> Result<(), Error> {
    let Some(file) = file else {
        return Ok(());
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map(drop).map_err(Error::io("write", file))
}

/// Prints `text` and a line end.
pub fn print(text: impl Display) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // The reader closed the pipe (`| head`): not an error.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::io("write", Path::new("standard output"))),
    }
}

/// A Markdown table: the header, the rule below it, and the rows.
pub fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines = vec![markdown_row(header), format!("|{}", "---|".repeat(header.len()))];
    lines.extend(rows.iter().map(|row| markdown_row(row)));
    lines.join("\n")
}

/// One row of a Markdown table, for a table that is printed while its rows are measured.
pub fn markdown_row<S: AsRef<str>>(cells: &[S]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_header_a_rule_and_rows() {
        let rows = [vec!["1".to_string(), "x".into()], vec!["2".into(), "y".into()]];
        assert_eq!(markdown_table(&["n", "name"], &rows), "| n | name |\n|---|---|\n| 1 | x |\n| 2 | y |");
        assert_eq!(markdown_table(&["n"], &[]), "| n |\n|---|");
    }
}
