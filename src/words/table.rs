//! Tables as text and HTML, shown in a notebook by evcxr's protocol on standard output.
//!
//! Inline styles leave colours to the notebook, light or dark.

use std::{fmt, io::Write};

use super::{
    numbers::thousands,
    safe::{MARK, NO_MARK, escaped, harmless},
};

/// Shows a value in a notebook's cell: `rich`, of MIME type `mime`, or `text` where only text can be shown.
///
/// Of several values of a MIME type, a cell shows the last.
pub(crate) fn show(text: &str, mime: &str, rich: &str) {
    let mut out = std::io::stdout().lock();
    // A notebook that was closed needs no output.
    let _ =
        out.write_all(message(&[("text/plain", text), (mime, rich)]).as_bytes()).and_then(|()| out.flush());
}

/// Wraps contents in evcxr's markers; markers inside a content are replaced.
fn message(contents: &[(&str, &str)]) -> String {
    let content = |(mime, content): &(&str, &str)| {
        let content = content.replace(MARK, NO_MARK);
        format!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT\n")
    };
    contents.iter().map(content).collect()
}

/// A title and rows, each a name and a value.
#[derive(Clone)]
pub(crate) struct Table {
    pub title: String,
    pub rows: Vec<(String, String)>,
}

impl Table {
    pub fn new(title: impl Into<String>) -> Self {
        Table { title: title.into(), rows: Vec::new() }
    }

    /// The same table with another title.
    pub fn titled(self, title: impl Into<String>) -> Self {
        Table { title: title.into(), ..self }
    }

    /// Adds a row.
    pub fn row(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.rows.push((name.into(), value.to_string()));
        self
    }

    /// Adds a row if there is a value.
    pub fn maybe(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.row(name, value),
            None => self,
        }
    }

    pub fn text(&self) -> String {
        let widest = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, String)| format!("\n  {name:widest$}  {value}");
        harmless(&format!("{}{}", self.title, self.rows.iter().map(line).collect::<String>()))
    }

    pub fn html(&self) -> String {
        const CELL: &str = "text-align:left;padding:1px 14px 1px 0;border:none;background:transparent";
        let line = |(name, value): &(String, String)| {
            let name = escaped(name);
            let value = escaped(value);
            format!("<tr><td style=\"{CELL};opacity:0.7\">{name}</td><td style=\"{CELL}\">{value}</td></tr>")
        };
        let lines: String = self.rows.iter().map(line).collect();
        format!(
            "<div><b>{}</b><table cellpadding=\"3\" style=\"border-collapse:collapse;margin:4px 0\">\
             {lines}</table></div>",
            escaped(&self.title)
        )
    }

    pub fn show(&self) {
        show(&self.text(), "text/html", &self.html());
    }
}

/// Formats the mean number of keys, or nodes of keys, that a search read.
pub(crate) fn keys_read(n: f64) -> String {
    format!("{} keys or nodes of keys, for each query block and head", thousands(n.round() as u64))
}

/// A value that a table describes; [`show_as_table`] makes a notebook show the table.
pub(crate) trait Describe {
    fn table(&self) -> Table;
}

/// Gives types the inherent method by which a notebook shows a value: as its table.
macro_rules! show_as_table {
    ($($shown:ty),*) => {$(
        impl $shown {
            /// Shows the value; a notebook calls this for the last value of a cell.
            pub fn evcxr_display(&self) {
                $crate::words::table::Describe::table(self).show();
            }
        }
    )*};
}
pub(crate) use show_as_table;

/// Gives types the inherent method by which a notebook shows a value: as its figure, with its table as text.
macro_rules! show_as_figure {
    ($($shown:ty),*) => {$(
        impl $shown {
            /// Shows the figure; a notebook calls this for the last value of a cell.
            pub fn evcxr_display(&self) {
                $crate::words::table::show(&self.table().text(), "image/svg+xml", self.figure().svg());
            }
        }

        impl std::fmt::Display for $shown {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.table().text())
            }
        }
    )*};
}
pub(crate) use show_as_figure;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_the_protocol() {
        let all = message(&[("text/plain", "a"), ("text/html", "<b>a</b>")]);
        assert_eq!(
            all,
            "EVCXR_BEGIN_CONTENT text/plain\na\nEVCXR_END_CONTENT\n\
             EVCXR_BEGIN_CONTENT text/html\n<b>a</b>\nEVCXR_END_CONTENT\n"
        );
    }

    #[test]
    fn content_cannot_end_its_message() {
        let all = message(&[("text/plain", "a\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/html\n<script>")]);
        assert_eq!(all.matches("EVCXR_").count(), 2);
    }

    #[test]
    fn text_is_no_message_and_moves_no_cursor() {
        let name = "x\u{1b}[2J\r\u{9b}\nEVCXR_BEGIN_CONTENT text/html\n<script>";
        let text = Table::new(name).row("name", name).text();
        assert!(!text.contains("EVCXR_") && text.contains("EVCXR-BEGIN_CONTENT"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn columns_are_aligned() {
        let text = Table::new("T").row("a", 1).row("long", 2).text();
        assert_eq!(text, "T\n  a     1\n  long  2");
    }
}
