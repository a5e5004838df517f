//! A model's JSON files, as programs and editors write them.

use std::path::Path;

use serde_json::Value;

use super::pointer;
use crate::{error::Error, words::text_file::read_text};

/// Numbers that Python writes and JSON does not know.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads a JSON file; it may begin with a byte order mark. NaN and Infinity become texts of that name, so that a
/// field that nobody needs may have them, and another one names what it found.
///
/// # Errors
/// [`Error::File`] when the file cannot be read, [`Error::Model`] when it is no JSON.
pub fn read(path: &Path) -> Result<Value, Error> {
    let text = read_text("read", path)?;
    pointer::check(path, text.as_bytes())?;
    let parsed = serde_json::from_str(&text).or_else(|why| {
        // Files are JSON nearly always: only others are read a second time.
        serde_json::from_str(&with_numbers_as_texts(&text)).map_err(|_| why)
    });
    parsed.map_err(|why| {
        Error::model(
            path.display(),
            "JSON",
            why,
            "the file is damaged or cut off: mend that line, or download it again",
        )
    })
}

/// Puts NaN and Infinity outside of texts into quotes.
fn with_numbers_as_texts(json: &str) -> String {
    let mut quoted = String::with_capacity(json.len() + 16);
    let (mut rest, mut is_text) = (json, false);
    while let Some(c) = rest.chars().next() {
        let number = NO_NUMBERS.into_iter().find(|number| !is_text && rest.starts_with(number));
        let n = match (number, c) {
            (Some(number), _) => number.len(),
            (None, '\\') if is_text => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => c.len_utf8(),
        };
        is_text ^= c == '"';
        let piece = &rest[..n];
        match number {
            Some(_) => quoted.extend(["\"", piece, "\""]),
            None => quoted.push_str(piece),
        }
        rest = &rest[n..];
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_outside_of_texts_are_quoted() {
        for (json, quoted) in [
            (r#"{"a": NaN, "b": [-Infinity,Infinity]}"#, r#"{"a": "NaN", "b": ["-Infinity","Infinity"]}"#),
            (r#"{"NaN": "a \" NaN \\", "b": NaN}"#, r#"{"NaN": "a \" NaN \\", "b": "NaN"}"#),
            ("\"é\\", "\"é\\"),
        ] {
            assert_eq!(with_numbers_as_texts(json), quoted);
        }
    }
}
