//! Thought anchors highlighted in the text, as HTML. Inline styles leave background and text colour to the
//! page, light or dark.

use std::{io::Write, path::Path};

use super::figure::Figure;
use crate::{
    analysis::{Sentence, ThoughtAnchors},
    atomic_file::{ending, save},
    error::Error,
    trace::SentenceKind,
    words::{html::document, letters::shortened, safe::escaped},
};

/// The largest number of characters of an anchor in the list above the text.
const LISTED: usize = 90;

impl ThoughtAnchors {
    /// Returns the highlighted text: the stronger a sentence's colour, the more later sentences attend to it.
    /// Anchors are numbered and listed above the text, which scrolls if it is long.
    pub fn html(&self) -> String {
        let list: String = self.places().map(|(place, j)| self.listed(place, j)).collect();
        let occurs = |kind: &SentenceKind| self.sentences.iter().any(|sentence| sentence.kind == *kind);
        let legend: String = SentenceKind::ALL.into_iter().filter(occurs).map(legend).collect();
        let text: String =
            self.sentences.iter().enumerate().map(|(j, sentence)| self.highlighted(j, sentence)).collect();
        let note = |note: &String| format!("<br><span style=\"opacity:0.7\">Note: {}</span>", escaped(note));
        let notes: String = self.notes.iter().map(note).collect();
        format!(
            "<div style=\"line-height:1.7;max-width:760px\"><p><b>{}</b><br>\
             <span style=\"opacity:0.7\">{}</span>{notes}</p>\
             <ol style=\"margin:0 0 10px\">{list}</ol><p style=\"font-size:85%\">{legend}</p>\
             <p dir=\"auto\" style=\"max-height:560px;overflow:auto\">{text}</p></div>",
            escaped(&self.title()),
            escaped(&self.facts()),
        )
    }

    /// Saves the chart as `.svg` or `.png`, or the highlighted text as `.html`.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        match ending(path, "thought anchors", &["svg", "png", "html"])?.as_str() {
            "html" => save(path, |file| file.write_all(self.page().as_bytes())),
            _ => Figure::save(&self.figure(), path),
        }
    }

    /// The highlighted text as a complete page.
    fn page(&self) -> String {
        document(&self.title(), &self.html(), "")
    }

    fn listed(&self, place: usize, j: usize) -> String {
        let Sentence { text, kind, .. } = &self.sentences[j];
        let chip = chip(*kind, 0.68);
        format!(
            "<li value=\"{}\">{chip} <bdi>{}</bdi> <span style=\"opacity:0.7\">(sentence {j})</span></li>",
            place + 1,
            escaped(&shortened(text, LISTED))
        )
    }

    fn highlighted(&self, j: usize, sentence: &Sentence) -> String {
        let share = self.score(j).map_or(0.0, |score| score / self.most());
        let number = self.anchors.iter().position(|&anchor| anchor == j).map(|place| place + 1);
        let number = number
            .map_or(String::new(), |n| format!("<sup style=\"line-height:0;font-weight:bold\">{n}</sup>"));
        let border = if number.is_empty() { "" } else { ";border-bottom:2px solid" };
        format!(
            "<span title=\"{}, sentence {j}\" style=\"background:{}{border}\">{}{number}</span> ",
            sentence.kind.name().replace('_', " "),
            background(sentence.kind, 0.08 + 0.6 * share.clamp(0.0, 1.0)),
            escaped(&sentence.text),
        )
    }
}

fn background(kind: SentenceKind, strength: f64) -> String {
    let color = kind.color();
    format!("rgba({},{},{},{strength:.2})", color.0, color.1, color.2)
}

/// Returns a kind's letter on its colour.
fn chip(kind: SentenceKind, strength: f64) -> String {
    format!(
        "<span style=\"background:{};padding:0 5px\">{}</span>",
        background(kind, strength),
        kind.letter()
    )
}

fn legend(kind: SentenceKind) -> String {
    format!(
        "<span style=\"white-space:nowrap;margin-right:12px\">{} {}</span> ",
        chip(kind, 0.68),
        kind.name().replace('_', " ")
    )
}

#[cfg(test)]
mod tests {
    use crate::analysis::synthetic::made_up_anchors;

    #[test]
    fn hostile_text_is_escaped() {
        let anchors = made_up_anchors(30, "</span><script>alert('x')</script>\u{0}");
        let html = anchors.html();
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;") && !html.contains('\0'));
        assert_eq!(html.matches("<span").count(), html.matches("</span>").count());
    }

    #[test]
    fn anchors_are_listed_and_numbered_in_the_text() {
        let anchors = made_up_anchors(400, "Some words");
        let html = anchors.html();
        for (place, j) in anchors.anchors.iter().enumerate() {
            assert!(
                html.contains(&format!("(sentence {j})")) && html.contains(&format!(">{}</sup>", place + 1))
            );
        }
        assert_eq!(html.matches("</sup>").count(), anchors.anchors.len());
    }

    #[test]
    fn a_page_says_its_encoding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.HTML");
        made_up_anchors(7, "Grün · 青").save(&path).unwrap();
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page.starts_with("<!DOCTYPE html>")
                && page.contains("charset=\"utf-8\"")
                && page.contains("Grün · 青")
        );
    }
}
