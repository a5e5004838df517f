//! A prompt being written: its text, and the roles of its pieces.

use std::ops::Range;

/// The role of a piece of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Introduction, haystack and line breaks; their position is not recorded.
    Filling,
    /// Holds the answer to the question.
    Needle,
    /// Looks like a needle, but is not asked for.
    Distractor,
    Question,
    /// A sentence of a chain of thought.
    Thought,
}

/// A piece to be inserted between the haystack's sentences.
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
    /// Appends a piece; its recorded bytes leave out leading white space.
    pub fn push(&mut self, text: &str, role: Role) {
        let start = self.text.len() + text.len() - text.trim_start().len();
        self.text.push_str(text);
        if role != Role::Filling {
            self.marks.push((role, start..self.text.len()));
        }
    }

    /// Appends another draft, with the roles of its pieces.
    pub fn append(&mut self, other: Draft) {
        let before = self.text.len();
        self.text.push_str(&other.text);
        self.marks.extend(
            other.marks.into_iter().map(|(role, range)| (role, before + range.start..before + range.end)),
        );
    }

    /// Appends the sentences of a haystack, all with `role`, and between them the inserts in order of depth.
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

    /// The bytes of every piece with `role`, in the order of the text.
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
