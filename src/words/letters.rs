//! Letters as people see them: one may be several characters, twice as wide as another, or be read from right to
//! left.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthChar;

/// Shortens a text to at most `max` letters as people see them, the last an ellipsis if it was cut; control
/// characters become spaces.
pub fn shortened(text: &str, max: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.graphemes(true).count() <= max {
        return text;
    }
    text.graphemes(true).take(max.saturating_sub(1)).chain(["…"]).collect()
}

/// Returns how many letters of a typewriter a text takes: letters of East Asia and emoji take two, marks on
/// letters none, and control characters, which are shown, one.
pub fn cells(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(1)).sum()
}

/// Returns whether most letters of a text belong to scripts that are written from right to left.
pub fn is_right_to_left(text: &str) -> bool {
    let leftwards =
        |c: char| matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}');
    let letters = text.chars().filter(|c| c.is_alphabetic());
    let (left, all) = letters.fold((0, 0), |(left, all), c| (left + usize::from(leftwards(c)), all + 1));
    2 * left > all
}

/// Puts marks around a text from right to left, so that its blanks, stops and words of other scripts stand where its
/// readers look for them, also on a line from left to right.
pub fn directed(text: &str) -> Cow<'_, str> {
    if is_right_to_left(text) { format!("\u{2067}{text}\u{2069}").into() } else { text.into() }
}

/// Returns a piece of a text with marks where its letters join those before and after it, as Arabic ones do, so that
/// they keep their form when the pieces are drawn apart.
pub fn joined(before: &str, text: &str, after: &str) -> String {
    let joins = |c: Option<char>| {
        matches!(
            c,
            Some(
                '\u{620}'..='\u{63f}' | '\u{641}'..='\u{64a}' | '\u{671}'..='\u{6d3}' | '\u{750}'..='\u{77f}',
            )
        )
    };
    let mark = |at: bool| if at { "\u{200d}" } else { "" };
    let [start, end] = [
        joins(before.chars().last()) && joins(text.chars().next()),
        joins(text.chars().last()) && joins(after.chars().next()),
    ];
    format!("{}{text}{}", mark(start), mark(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_several_characters_is_not_cut() {
        let family = "👨\u{200d}👩\u{200d}👧";
        assert_eq!(shortened(&family.repeat(3), 2), format!("{family}…"));
        assert_eq!(shortened("e\u{301}e\u{301}", 2), "e\u{301}e\u{301}");
        assert_eq!((shortened("a\nb", 9), shortened("abc", 0)), ("a b".into(), "…".into()));
    }

    #[test]
    fn pieces_of_arabic_keep_the_forms_of_their_letters() {
        let join = "\u{200d}";
        assert_eq!(joined("الس", "ماء", " زر"), format!("{join}ماء"));
        assert_eq!(joined("", "الس", "ماء"), format!("الس{join}"));
        for (before, text, after) in [("ab", "cd", "ef"), ("של", "ום", ""), ("م", " م", " م"), ("", "", "")]
        {
            assert_eq!(joined(before, text, after), text);
        }
    }

    #[test]
    fn texts_from_right_to_left_are_marked() {
        assert_eq!(directed("␣שלום"), "\u{2067}␣שלום\u{2069}");
        assert_eq!(cells(&directed("שלום")), 4, "marks take no place");
        assert_eq!(["a", "L3H0", "", "?"].map(directed), ["a", "L3H0", "", "?"]);
    }

    #[test]
    fn letters_have_their_width_and_direction() {
        assert_eq!((cells("ab"), cells("今天"), cells("e\u{301}"), cells("\n")), (2, 4, 1, 1));
        assert_eq!(
            ["سلام 7", "שלום", "peace", "", "1, 2"].map(is_right_to_left),
            [true, true, false, false, false]
        );
    }
}
