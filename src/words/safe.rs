//! Text from models, prompts and files, made safe for where it is shown: terminals, notebooks, XML and HTML.

/// Prefix of evcxr's markers; in ordinary text it is replaced by one of the same length that evcxr ignores.
pub(super) const MARK: &str = "EVCXR_";
pub(super) const NO_MARK: &str = "EVCXR-";

/// Text that terminals and notebooks take for text alone: without control characters but line ends and tabs, and without marks.
pub(crate) fn harmless(text: &str) -> String {
    let visible = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.replace(MARK, NO_MARK).chars().map(visible).collect()
}

/// Text that is printed piece by piece, in which no mark may arise where two pieces meet.
#[derive(Default)]
pub(crate) struct Printed {
    /// The last characters, of which a mark could be made.
    end: String,
}

impl Printed {
    /// The next piece as it is to be printed.
    pub fn next(&mut self, piece: &str) -> String {
        let text = harmless(&format!("{}{piece}", self.end));
        let printed = text[self.end.len()..].to_string();
        let last = text.char_indices().rev().nth(MARK.len() - 2).map_or(0, |(at, _)| at);
        self.end = text[last..].into();
        printed
    }
}

/// Text as XML and HTML need it, in elements and attributes alike; characters that XML forbids are replaced.
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

/// Whether XML 1.0 allows the character, escaped or not.
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
            let (mut printed, mut pieces) = (Printed::default(), Vec::new());
            pieces.extend(
                text.chars()
                    .collect::<Vec<_>>()
                    .chunks(n)
                    .map(|piece| printed.next(&piece.iter().collect::<String>())),
            );
            assert_eq!(pieces.concat(), text.replace("EVCXR_", "EVCXR-"), "{n}");
        }
    }
}
