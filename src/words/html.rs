//! The shell of every HTML page: a report, an explored trace, a text with its anchors.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::safe::escaped;

const STYLE: &str = include_str!("page.css");

/// Returns a page in the reader's light or dark mode. It fetches nothing and runs only scripts with `nonce`,
/// none if that is empty.
/// `body` is HTML, already escaped.
pub(crate) fn document(title: &str, body: &str, nonce: &str) -> String {
    let title = escaped(title);
    let version = env!("CARGO_PKG_VERSION");
    let scripts = if nonce.is_empty() { String::new() } else { format!("; script-src 'nonce-{nonce}'") };
    let policy = format!("default-src 'none'; img-src data:; style-src 'unsafe-inline'{scripts}");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"streamtrace {version}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Returns the nonce of a page's own scripts: a hash of all of `content`, which no text in the page can
/// contain.
pub(crate) fn nonce(content: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
