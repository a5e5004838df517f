//! The shell of every HTML page that is written: a report, an explored trace, a text with its anchors.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::safe::escaped;

const STYLE: &str = include_str!("page.css");

/// A page, light or dark as the reader's system is, that fetches nothing and runs only scripts that bear `nonce`. `body` is
/// HTML, escaped already.
pub(crate) fn document(title: &str, body: &str, nonce: &str) -> String {
    let title = escaped(title);
    let version = env!("CARGO_PKG_VERSION");
    let policy =
        format!("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"streamtrace {version}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n\
         </html>\n"
    )
}

/// A word that a page's own scripts bear and no text in the page can know: it depends on all of `content`.
pub(crate) fn nonce(content: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
