//! Display of figures and errors in a notebook. All other values are shown as tables (`view::describe`).

use std::fmt;

use super::plot::{AttentionMap, Figure, HeatMap, SideBySide};
use crate::{
    analysis::{CausalTest, HeadRanking, Reading, RetrievalHeads, Routes, SentenceMatrix, ThoughtAnchors},
    error::Error,
    protocol::Effect,
    words::{
        safe::escaped,
        table::{Describe, show, show_as_figure},
    },
};

impl RetrievalHeads {
    /// Draws the scores; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.map().evcxr_display();
    }
}

impl HeatMap {
    /// Draws the map; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.figure().evcxr_display();
    }
}

impl SideBySide {
    /// Draws the maps; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.figure().evcxr_display();
    }
}

impl Figure {
    /// Shows the figure; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        show(self.title(), "image/svg+xml", self.svg());
    }
}

impl AttentionMap {
    /// Shows the map; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        self.figure().evcxr_display();
    }
}

show_as_figure!(CausalTest, Reading, ThoughtAnchors, Routes, SentenceMatrix);

impl ThoughtAnchors {
    /// Shows the text with its anchors highlighted, in a notebook.
    pub fn show_text(&self) {
        show(&self.table().text(), "text/html", &self.html());
    }
}

impl fmt::Display for HeadRanking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table().text())
    }
}

impl Error {
    /// Shows the error; a notebook calls this for the last value of a cell.
    pub fn evcxr_display(&self) {
        let text = format!("Error: {self}");
        show(
            &text,
            "text/html",
            &format!(
                "<div style=\"border-left:4px solid #d0402b;padding-left:8px\">{}</div>",
                escaped(&text)
            ),
        );
    }
}
