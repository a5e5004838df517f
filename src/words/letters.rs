//! Letters as people see them: one may be several characters, twice as wide as another, or be read from right to
//! left.

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
    fn letters_have_their_width_and_direction() {
        assert_eq!((cells("ab"), cells("今天"), cells("e\u{301}"), cells("\n")), (2, 4, 1, 1));
        assert_eq!(
            ["سلام 7", "שלום", "peace", "", "1, 2"].map(is_right_to_left),
            [true, true, false, false, false]
        );
    }
}
