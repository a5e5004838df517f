//! Where a mark ends a sentence: full stops of many scripts, but not those of abbreviations, initials and numbers.

/// Abbreviations after which a sentence goes on, in lower case and without their last stop.
const ABBREVIATIONS: [&str; 40] = [
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "mt", "rev", "gen", "col", "capt", "lt", "sgt", "hon",
    "pres", "gov", "sen", "rep", "vs", "cf", "e.g", "i.e", "eg", "ie", "viz", "approx", "ca", "fig", "figs",
    "eq", "eqs", "sec", "ch", "vol", "pp", "ed", "eds", "resp",
];

/// Returns the bytes after which a sentence may begin, ascending: after `.`, `?`, `!`, `…` and the stops of
/// Hindi and Arabic, and the quotes and brackets that close behind them, where white space follows; after the
/// full-width stops of Chinese and Japanese, wherever they stand.
pub(super) fn cuts(text: &str) -> Vec<usize> {
    let mut cuts = Vec::new();
    for (at, mark) in text.char_indices() {
        let end = at + mark.len_utf8();
        let close = end + closers(&text[end..]);
        let is_end = match mark {
            '.' => !goes_on(&text[..at], &text[end..]) && before_space(&text[close..]),
            '?' | '!' | '…' | '؟' | '۔' | '।' | '॥' => before_space(&text[close..]),
            '。' | '？' | '！' | '．' => true,
            _ => false,
        };
        cuts.extend(is_end.then_some(close));
    }
    cuts
}

/// The bytes of the quotes, brackets and bold marks that close at the start of a text.
fn closers(text: &str) -> usize {
    text.len()
        - text
            .trim_start_matches(['"', '\'', '”', '’', '»', ')', ']', '}', '」', '』', '）', '】', '*', '_'])
            .len()
}

fn before_space(text: &str) -> bool {
    text.starts_with(char::is_whitespace)
}

/// Whether the stop between two texts belongs to a number of a list, an abbreviation or an initial.
fn goes_on(before: &str, after: &str) -> bool {
    if !after.starts_with([' ', '\u{a0}']) {
        return false;
    }
    let word = before
        .rsplit(|c: char| c.is_whitespace() || matches!(c, '(' | '[' | '"' | '“' | '‘'))
        .next()
        .unwrap_or("");
    let lower = word.to_lowercase();
    numbers_item(before)
        || ABBREVIATIONS.contains(&lower.as_str())
        || is_initial(word)
        || (lower == "no" && is_number(after))
}

/// Whether a word is a single capital, or capitals with stops between them, as in `J.` and `U.S.`.
fn is_initial(word: &str) -> bool {
    let mut letters = word.split('.');
    // A single capital may as well be a name in a formula: "The answer is B."
    word.contains('.')
        && letters.all(|part| part.chars().count() == 1 && part.chars().all(char::is_uppercase))
}

fn is_number(text: &str) -> bool {
    text.trim_start().starts_with(|c: char| c.is_ascii_digit())
}

/// Whether a text ends with a line that holds nothing but a number.
fn numbers_item(text: &str) -> bool {
    let before = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let line = before.trim_end_matches([' ', '\t', '*', '#']);
    before.len() < text.len() && (line.is_empty() || line.ends_with('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text, with a bar where a cut is.
    fn cut(text: &str) -> String {
        let mut marked = text.to_string();
        cuts(text).into_iter().rev().for_each(|at| marked.insert(at, '|'));
        marked
    }

    #[test]
    fn abbreviations_initials_and_numbers_go_on() {
        for whole in [
            "Dr. Smith met the U.S. Army, e.g. in vol. 3 of No. 7, vs. Mrs. Jones (cf. fig. 2)",
            "It costs 3.50 euros at example.com or v1.2.3 here",
            "1. Count them",
            "**2. Add them** up",
        ] {
            assert_eq!(cut(whole), whole);
        }
        assert_eq!(
            cut("Is it so? No. It is option B. We go on"),
            "Is it so?| No.| It is option B.| We go on"
        );
        assert_eq!(cut("There are 7. Then 8"), "There are 7.| Then 8");
    }

    #[test]
    fn what_closes_belongs_to_the_sentence_before() {
        assert_eq!(
            cut("He said \"Stop.\" Then (or so.) he left.** Now"),
            "He said \"Stop.\"| Then (or so.)| he left.**| Now"
        );
        assert_eq!(cut("她说：“好。”然后走了。"), "她说：“好。”|然后走了。|");
        assert_eq!(cut("Wait… no! \u{201c}Yes!\u{201d} Good"), "Wait…| no!| \u{201c}Yes!\u{201d}| Good");
    }

    #[test]
    fn stops_of_many_scripts_end_sentences() {
        assert_eq!(cut("هل هو كذلك؟ نعم۔ هنا"), "هل هو كذلك؟| نعم۔| هنا");
        assert_eq!(cut("यह एक वाक्य है। यह दूसरा है।"), "यह एक वाक्य है।| यह दूसरा है।");
        assert_eq!(cut("这是第一句。这是第二句！第三句？"), "这是第一句。|这是第二句！|第三句？|");
    }
}
