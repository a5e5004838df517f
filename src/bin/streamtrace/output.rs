//! What a verb prints and writes: text, JSON, tables, figures.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use streamtrace::{Error, words::numbers::format_bytes};

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

/// Says on standard error where a result was written, and what to do with it next.
pub fn wrote(file: &Path, next: &str) {
    let size =
        std::fs::metadata(file).map(|file| format!(" ({})", format_bytes(file.len()))).unwrap_or_default();
    let next = if next.is_empty() { String::new() } else { format!("\nnext: {next}") };
    eprintln!("wrote {}{size}{next}", file.display());
}

/// A table, aligned in a terminal and in Markdown elsewhere: the header, the rule below it, and the rows.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if io::stdout().is_terminal() { aligned_table(header, rows) } else { markdown_table(header, rows) }
}

/// One row of a table that is printed while its rows are measured; its header is `table(header, &[])`.
pub fn table_row<S: AsRef<str>>(header: &[&str], cells: &[S]) -> String {
    let widths: Vec<usize> = header.iter().map(|name| letters(name)).collect();
    if io::stdout().is_terminal() { aligned_row(cells, &widths) } else { markdown_row(cells) }
}

fn letters(text: &str) -> usize {
    text.chars().count()
}

fn aligned_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widest =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| letters(cell)).max();
    let width = |(column, name): (usize, &&str)| letters(name).max(widest(column).unwrap_or(0));
    let widths: Vec<usize> = header.iter().enumerate().map(width).collect();
    let rule: Vec<String> = widths.iter().map(|&n| "─".repeat(n)).collect();
    let mut lines = vec![aligned_row(header, &widths), aligned_row(&rule, &widths)];
    lines.extend(rows.iter().map(|row| aligned_row(row, &widths)));
    lines.join("\n")
}

fn aligned_row<S: AsRef<str>>(cells: &[S], widths: &[usize]) -> String {
    let cells = cells.iter().enumerate();
    let cells = cells
        .map(|(i, cell)| format!("{:width$}", cell.as_ref(), width = widths.get(i).copied().unwrap_or(0)));
    cells.collect::<Vec<_>>().join("  ").trim_end().into()
}

fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines = vec![markdown_row(header), format!("|{}", "---|".repeat(header.len()))];
    lines.extend(rows.iter().map(|row| markdown_row(row)));
    lines.join("\n")
}

fn markdown_row<S: AsRef<str>>(cells: &[S]) -> String {
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
        assert_eq!(aligned_table(&["n", "name"], &rows), "n  name\n─  ────\n1  x\n2  y");
        assert_eq!(aligned_table(&["n"], &[vec!["10".into()]]), "n\n──\n10");
    }
}
