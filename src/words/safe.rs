//! Makes text from models, prompts and files safe for terminals, notebooks, XML and HTML.

/// Prefix of evcxr's markers; in ordinary text it is replaced by one of the same length that evcxr ignores.
pub(super) const MARK: &str = "EVCXR_";
pub(super) const NO_MARK: &str = "EVCXR-";

/// Removes evcxr's markers and all control characters except line ends and tabs, so that terminals and
/// notebooks take the text for nothing else.
pub(crate) fn harmless(text: &str) -> String {
    let visible = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.replace(MARK, NO_MARK).chars().map(visible).collect()
}

/// Text printed piece by piece, in which no marker may arise where two pieces meet.
#[derive(Default)]
pub(crate) struct Printed {
    /// The last characters printed, with which a marker could begin.
    end: String,
}

impl Printed {
    /// Returns the next piece as it is to be printed.
    pub fn next(&mut self, piece: &str) -> String {
        let text = harmless(&format!("{}{piece}", self.end));
        let printed = text[self.end.len()..].to_string();
        let last = text.char_indices().rev().nth(MARK.len() - 2).map_or(0, |(at, _)| at);
        self.end = text[last..].into();
        printed
    }
}

/// Escapes text for elements and attributes of XML and HTML; characters that XML forbids are replaced.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if allowed_in_xml(c) => safe.push(c),
            _ => safe.push('\u{fffd}'),
        }
    }
    safe
}

/// Returns whether XML 1.0 allows the character.
pub(crate) fn allowed_in_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_text_are_no_message_together() {
        let text = "é: EVCXR_BEGIN_CONTENT text/html\n<script>EVCXR_END";
        for n in 1..text.len() {
            let mut printed = Printed::default();
            let characters: Vec<char> = text.chars().collect();
            let pieces = characters.chunks(n).map(|piece| printed.next(&piece.iter().collect::<String>()));
            assert_eq!(pieces.collect::<String>(), text.replace("EVCXR_", "EVCXR-"), "{n}");
        }
    }
}
