//! A prompt being written: text, and which bytes of it are what.

use std::ops::Range;

/// What a piece of a prompt is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Introduction, haystack, line breaks: not recorded.
    Filling,
    /// Holds what the question asks for.
    Needle,
    /// Looks like a needle, and is not asked for.
    Distractor,
    Question,
    /// A sentence of a chain of thought.
    Thought,
}

/// A piece to be put between the haystack's sentences.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Insert {
    /// Share of the haystack before it, 0 to 1.
    pub depth: f64,
    pub text: String,
    pub role: Role,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Draft {
    pub text: String,
    marks: Vec<(Role, Range<usize>)>,
}

impl Draft {
    /// Appends a piece; the recorded bytes leave out white space before it.
    pub fn push(&mut self, text: &str, role: Role) {
        let start = self.text.len() + text.len() - text.trim_start().len();
        self.text.push_str(text);
        if role != Role::Filling {
            self.marks.push((role, start..self.text.len()));
        }
    }

    /// Appends the sentences of a haystack, all of one role, with the inserts among them in order of depth.
    pub fn scatter(&mut self, haystack: &[String], role: Role, inserts: &[Insert]) {
        let spot =
            |insert: &Insert| (((haystack.len() + 1) as f64 * insert.depth) as usize).min(haystack.len());
        let mut inserts: Vec<&Insert> = inserts.iter().collect();
        inserts.sort_by_key(|i| spot(i));
        let mut written = 0;
        for insert in inserts {
            haystack[written..spot(insert)].iter().for_each(|s| self.push(s, role));
            written = spot(insert);
            self.push(&insert.text, insert.role);
        }
        haystack[written..].iter().for_each(|s| self.push(s, role));
    }

    /// Bytes of every piece of a role, in the text's order.
    pub fn ranges(&self, role: Role) -> Vec<Range<usize>> {
        self.marks.iter().filter(|(r, _)| *r == role).map(|(_, range)| range.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserts_come_at_their_depth_and_in_order() {
        let haystack: Vec<String> = (0..4).map(|i| format!(" {i}.")).collect();
        let insert = |depth, text: &str| Insert { depth, text: text.into(), role: Role::Needle };
        let mut draft = Draft::default();
        draft.scatter(
            &haystack,
            Role::Filling,
            &[insert(1.0, " d"), insert(0.0, " a"), insert(0.5, " b"), insert(0.5, " c")],
        );
        assert_eq!(draft.text, " a 0. 1. b c 2. 3. d");
        let needles: Vec<_> = draft.ranges(Role::Needle).into_iter().map(|r| &draft.text[r]).collect();
        assert_eq!(needles, ["a", "b", "c", "d"]);
    }
}
