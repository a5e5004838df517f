//! A report as one HTML page, which fetches nothing and runs only its own scripts.

use std::hash::{Hash, Hasher};

use super::{Part, markdown};
use crate::{
    view::{Report, plot::Figure},
    words::{
        html::{document, nonce},
        safe::escaped,
        table::Table,
    },
};

impl Report {
    /// The report as one HTML page, in the reader's light or dark mode.
    pub fn html(&self) -> String {
        let mut n_figures = 0;
        let nonce = nonce(self);
        let body: String = self.parts.iter().map(|part| self::part(part, &mut n_figures, &nonce)).collect();
        document(&self.title, &body, &nonce)
    }
}

/// Hashes all parts of the report.
impl Hash for Report {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.title.hash(state);
        for part in &self.parts {
            match part {
                Part::Text(text) => text.hash(state),
                Part::Figure { figure, caption } => (figure.svg(), caption).hash(state),
                Part::Facts(tables) => tables.iter().for_each(|table| table.text().hash(state)),
                Part::Explore(explore) => explore.html().hash(state),
            }
        }
    }
}

fn part(part: &Part, n_figures: &mut usize, nonce: &str) -> String {
    match part {
        Part::Text(markdown) => markdown::to_html(markdown),
        Part::Facts(tables) => {
            let tables: String = tables.iter().map(Table::html).collect();
            format!("<section class=\"facts\">{tables}</section>\n")
        }
        Part::Figure { figure, caption } => {
            *n_figures += 1;
            drawn(figure, caption, *n_figures)
        }
        Part::Explore(explore) => format!("<section>\n{}</section>\n", explore.html_with(nonce)),
    }
}

fn drawn(figure: &Figure, caption: &str, number: usize) -> String {
    let svg = figure.inline(number);
    let caption = escaped(caption);
    let space = if caption.is_empty() { "" } else { " " };
    format!(
        "<figure>\n<div class=\"paper\">{svg}</div>\n\
         <figcaption><b>Figure {number}.</b>{space}{caption}</figcaption>\n</figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use crate::{
        trace::synthetic::{Shape, trace, trace_of_words},
        view::Report,
    };

    /// Returns every address that a page could fetch.
    fn addresses(page: &str) -> Vec<&str> {
        let starts = ["href=\"", "src=\"", "url("].iter().flat_map(|name| page.match_indices(name));
        // What begins with # is a part of the page itself.
        let addresses = starts.map(|(at, name)| page[at + name.len()..].split(['"', ')']).next().unwrap());
        addresses.filter(|address| !address.starts_with('#')).collect()
    }

    #[test]
    fn a_page_fetches_nothing_and_says_what_was_run() {
        let trace = trace(&Shape::default());
        let page = Report::new("A report")
            .text("Some *words*.")
            .trace(&trace)
            .figure(trace.overview().unwrap(), "All")
            .html();
        assert!(addresses(&page).iter().all(|address| address.starts_with("data:image/png;base64,")));
        assert_eq!(addresses(&page).len(), page.matches("<image").count());
        for part in [
            "<em>words</em>",
            "synthetic",
            "key blocks of 8",
            "beam",
            "0.9934",
            "Versions",
            env!("CARGO_PKG_VERSION"),
            "<b>Figure 1.</b> All",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn ids_are_unique_even_when_a_figure_stands_twice() {
        let figure = trace(&Shape::default()).attention_map(0, 0).unwrap().figure();
        let page = Report::new("Twice").figure(&figure, "one").figure(&figure, "two").html();
        let ids: Vec<&str> =
            page.match_indices(" id=\"").map(|(at, _)| page[at + 5..].split('"').next().unwrap()).collect();
        let unique: std::collections::HashSet<&str> = ids.iter().copied().collect();
        assert_eq!((ids.len(), unique.len()), (6, 6));
        for labels in page
            .match_indices("aria-labelledby=\"")
            .map(|(at, name)| page[at + name.len()..].split('"').next().unwrap())
        {
            assert!(labels.split(' ').all(|label| unique.contains(label)), "{labels}");
        }
    }

    #[test]
    fn hostile_text_shows_and_runs_nothing() {
        let words =
            ["</svg><script>alert(1)</script>", "\u{0}", "\"'&", "<img src=x onerror=alert(1)>", "]]>"]
                .map(String::from);
        let shape = Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() };
        let map = trace_of_words(&shape, &words).attention_map(0, 0).unwrap();
        let script = "</title><script>alert(2)</script>";
        let page = Report::new(script).text(script).figure(&map, script).html();
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert_eq!(
            page.matches("&lt;/title&gt;&lt;script&gt;alert(2)&lt;/script&gt;").count(),
            4,
            "title, heading, text, caption"
        );
        assert!(page.contains("script-src 'nonce-"));
    }
}
