//! A report of text, figures and the facts of a trace, as one HTML page that needs no network, or as Markdown
//! with its figures as SVG files.

mod markdown;
mod page;
mod paper;

use std::{io::Write, path::Path};

use super::{
    Explore,
    plot::{AttentionMap, Figure, HeatMap, SideBySide},
};
use crate::{
    analysis::{RetrievalHeads, Routes, SentenceMatrix, ThoughtAnchors},
    atomic_file::{ending, save},
    error::Error,
    trace::Trace,
    words::{
        numbers::count,
        table::{Describe, Table, show},
    },
};

/// A report: text, figures and traces, one below the other.
///
/// ```
/// # use streamtrace::prelude::*;
/// # let figure = HeatMap {
/// #     title: "recall".into(), facts: String::new(), measure: "share".into(),
/// #     row_name: "layer".into(), rows: vec!["0".into()],
/// #     column_name: "head".into(), columns: vec!["0".into()],
/// #     values: vec![vec![Some(0.5)]],
/// # };
/// # let folder = tempfile::tempdir().unwrap();
/// # std::env::set_current_dir(&folder).unwrap();
/// Report::new("Needle")
///     .text("Head **3·0** reads the needle's name.")
///     .figure(&figure, "Recall of each head")
///     .save("needle.html")?;
/// # assert!(std::fs::read_to_string("needle.html").unwrap().contains("<strong>3·0</strong>"));
/// # Ok::<(), Error>(())
/// ```
///
/// For a paper, `save("needle.md")` writes Markdown for pandoc and `needle-1.svg`. Typst includes the figure
/// with `#figure(image("needle-1.svg"), caption: [...])`, LaTeX with `\usepackage{svg}` and
/// `\includesvg{needle-1}`, or with `\includegraphics{map}` if the [`Figure`] is saved as PNG.
#[derive(Clone)]
pub struct Report {
    title: String,
    parts: Vec<Part>,
}

#[derive(Clone)]
enum Part {
    /// Markdown.
    Text(String),
    Figure {
        figure: Figure,
        caption: String,
    },
    Facts(Vec<Table>),
    Explore(Explore),
}

impl Report {
    pub fn new(title: impl Into<String>) -> Self {
        Report { title: title.into(), parts: Vec::new() }
    }

    /// Adds text in Markdown. HTML in it is shown as text. Links may lead to web pages, mail addresses and
    /// files by relative paths; pictures must be `data:` addresses.
    pub fn text(self, markdown: impl Into<String>) -> Self {
        self.part(Part::Text(markdown.into()))
    }

    /// Adds a figure, or a value that has one, such as a map, anchors or routes. The caption is plain text.
    pub fn figure(self, figure: impl Into<Figure>, caption: impl Into<String>) -> Self {
        self.part(Part::Figure { figure: figure.into(), caption: caption.into() })
    }

    /// Adds the facts of a trace: model, settings, result, cost, fidelity and versions.
    pub fn trace(self, trace: &Trace) -> Self {
        let summary = trace.summary();
        let versions =
            Table::new("Versions").row("trace made by", format!("streamtrace {}", summary.version));
        let versions = versions.row("report made by", format!("streamtrace {}", env!("CARGO_PKG_VERSION")));
        let mut tables = vec![summary.table(), summary.model.table(), summary.config.table()];
        tables.extend(summary.fidelity.as_ref().map(Describe::table));
        tables.push(versions);
        self.part(Part::Facts(tables))
    }

    /// Adds an interactive view of a trace, made by [`Trace::explore`]; Markdown leaves it out.
    pub fn explore(self, explore: &Explore) -> Self {
        self.part(Part::Explore(explore.clone()))
    }

    /// Writes the report as one page, `x.html`, or as Markdown, `x.md`, with its figures in `x-1.svg`,
    /// `x-2.svg`, …
    ///
    /// # Errors
    /// [`Error::Setting`] for another ending, [`Error::File`] when a file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        match ending(path, "a report", &["html", "md"])?.as_str() {
            "md" => self.save_paper(path),
            _ => save(path, |file| file.write_all(self.html().as_bytes())),
        }
    }

    fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// Shows the number of parts and figures; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        let figures = self.parts.iter().filter(|part| matches!(part, Part::Figure { .. })).count();
        let table = Table::new(format!("Report {:?}", self.title));
        let table =
            table.row("holds", format!("{}, {}", count(self.parts.len(), "part"), count(figures, "figure")));
        show(&table.text(), "text/html", &table.html());
    }
}

/// Converts types to figures by their method `figure`.
macro_rules! has_figure {
    ($($drawn:ty),*) => {$(
        impl From<&$drawn> for Figure {
            fn from(value: &$drawn) -> Figure {
                value.figure()
            }
        }
    )*};
}

has_figure!(AttentionMap, HeatMap, Routes, SentenceMatrix, SideBySide, ThoughtAnchors);

impl From<&RetrievalHeads> for Figure {
    fn from(heads: &RetrievalHeads) -> Figure {
        heads.map().figure()
    }
}

impl From<&Figure> for Figure {
    fn from(figure: &Figure) -> Figure {
        figure.clone()
    }
}
