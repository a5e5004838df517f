//! Where the lines of a text end a sentence, though no mark does: items of a list, steps, headings, code blocks.

/// Returns the bytes at which a line begins or ends a sentence, ascending.
///
/// A sentence begins with each item of a list, each step and each heading; it ends with a heading's line and
/// with a formula that stands by itself. A code block begins one where it opens and ends one where it closes;
/// what its lines look like does not matter. The line after an item begins a sentence unless it is indented
/// further than the item.
pub(super) fn cuts(text: &str) -> Vec<usize> {
    let (mut cuts, mut start, mut in_code, mut item) = (Vec::new(), 0, false, None);
    for line in text.split_inclusive('\n') {
        let (content, end) = (line.trim(), start + line.len());
        let indent = line.len() - line.trim_start().len();
        let kind = Line::of(content);
        let begins = match kind {
            Line::Fence => !in_code,
            _ if in_code => false,
            Line::Item | Line::Heading => true,
            _ => !content.is_empty() && item.is_some_and(|item| indent <= item),
        };
        let ends = match kind {
            Line::Fence => in_code,
            Line::Heading | Line::FormulaEnd => !in_code,
            _ => false,
        };
        cuts.extend(begins.then_some(start));
        cuts.extend(ends.then_some(end));
        in_code ^= kind == Line::Fence;
        item = match kind {
            Line::Item if !in_code => Some(indent),
            _ => item.filter(|_| !begins && !in_code && !content.is_empty()),
        };
        start = end;
    }
    cuts
}

/// Returns the bytes of code blocks, and of formulas that stand by themselves: no mark in them ends a sentence.
pub(super) fn verbatim(text: &str) -> Vec<std::ops::Range<usize>> {
    /// A formula that is longer was not closed.
    const LONGEST: usize = 4000;
    let (mut blocks, mut start, mut open) = (Vec::new(), 0, None);
    for line in text.split_inclusive('\n') {
        if Line::of(line.trim()) == Line::Fence {
            match open.take() {
                Some(from) => blocks.push(from..start + line.len()),
                None => open = Some(start),
            }
        }
        start += line.len();
    }
    for (opens, closes) in [("\\[", "\\]"), ("$$", "$$")] {
        let mut at = 0;
        while let Some(from) = text[at..].find(opens).map(|found| at + found) {
            let inside = from + opens.len();
            let to = text[inside..].find(closes).filter(|len| *len < LONGEST);
            at = to.map_or(inside, |len| inside + len + closes.len());
            blocks.extend(to.map(|_| from..at));
        }
    }
    blocks
}

/// What a line begins or ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Item,
    Heading,
    /// Opens or closes a code block.
    Fence,
    FormulaEnd,
    Other,
}

impl Line {
    /// Tells by a line without the white space around it.
    fn of(content: &str) -> Self {
        let is_fence = |fence: &str| content.strip_prefix(fence).is_some_and(|rest| !rest.contains(fence));
        if is_fence("```") || is_fence("~~~") {
            Line::Fence
        } else if content.trim_start_matches('#').starts_with(' ') && content.starts_with('#') {
            Line::Heading
        } else if is_item(content) {
            Line::Item
        } else if content.ends_with("\\]") || content == "$$" {
            Line::FormulaEnd
        } else {
            Line::Other
        }
    }
}

/// Returns whether a line begins with the mark of a list's item, `-` or `2.`, or the number of a step.
fn is_item(content: &str) -> bool {
    let bullet = ["- ", "* ", "+ ", "• ", "– "].iter().any(|mark| content.starts_with(mark));
    let plain = content.trim_start_matches('*');
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
    let number = digits(plain);
    let numbered =
        (1..4).contains(&number) && [". ", ") "].iter().any(|end| plain[number..].starts_with(end));
    let step = plain.strip_prefix("Step ").is_some_and(|rest| digits(rest) > 0);
    bullet || numbered || step
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines, with a bar where a cut is.
    fn cut(text: &str) -> String {
        let mut marked = text.to_string();
        let mut at = cuts(text);
        assert!(at.is_sorted());
        at.dedup();
        at.iter().rev().for_each(|&cut| marked.insert(cut, '|'));
        marked
    }

    #[test]
    fn items_and_steps_begin_sentences() {
        assert_eq!(cut("Steps:\n1. Add\n2) Take\n- one"), "Steps:\n|1. Add\n|2) Take\n|- one");
        assert_eq!(cut("**Step 1:** add\n**2. Take**\n"), "|**Step 1:** add\n|**2. Take**\n");
        // Neither a number with a fraction, nor emphasis, nor a year is an item.
        let plain = "3.5 is\n**bold** and\n-1 is\n1999. It was\nStep by step";
        assert_eq!(cut(plain), plain);
    }

    #[test]
    fn an_item_goes_on_in_lines_that_are_indented_further() {
        assert_eq!(cut("- one\n  more\nSo it is.\nAnd on"), "|- one\n  more\n|So it is.\nAnd on");
        assert_eq!(cut("  - one\n\nText\ntext"), "|  - one\n\nText\ntext");
    }

    #[test]
    fn a_code_block_is_cut_around_and_not_by_the_look_of_its_lines() {
        assert_eq!(
            cut("Code:\n```python\n# note\n- 1\n```\nOutput\n"),
            "Code:\n|```python\n# note\n- 1\n```\n|Output\n"
        );
        assert_eq!(cut("- item\n  ```\n  x\n  ```\nEnd"), "|- item\n|  ```\n  x\n  ```\n|End");
        assert_eq!(cut("```inline``` code\nnext"), "```inline``` code\nnext");
        assert_eq!(cut("```\nnever closed\n# a\n"), "|```\nnever closed\n# a\n");
    }

    #[test]
    fn headings_and_formulas_end_with_their_line() {
        assert_eq!(cut("Text\n## Plan\nText\n#hash"), "Text\n|## Plan\n|Text\n#hash");
        assert_eq!(cut("So\n\\[\nx = 1\n\\]\nand\n\n"), "So\n\\[\nx = 1\n\\]\n|and\n\n");
        assert_eq!(
            (cut(""), cut("\n"), cut("#"), cut("1.")),
            ("".into(), "\n".into(), "#".into(), "1.".into())
        );
    }
}
