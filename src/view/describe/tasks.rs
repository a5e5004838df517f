//! Tables of prompts and word problems.

use std::ops::Range;

use crate::{
    tasks::{ChainSentence, ChatFrame, Prompt, ReasoningPrompt, RulerConfig, Task, WordProblem},
    words::{
        numbers::count,
        table::{Describe, Table, show_as_table},
    },
};

show_as_table!(ChainSentence, ChatFrame, Prompt, ReasoningPrompt, RulerConfig, Task, WordProblem);

/// The largest number of needles in a table.
const SHOWN: usize = 4;

impl Describe for Prompt {
    fn table(&self) -> Table {
        Table::new(format!("{}, {}, seed {}", self.task, count(self.n_tokens, "token"), self.seed))
            .row("question", piece(&self.text, &self.question))
            .row("answer", self.answer.trim())
            .row("needles", pieces(&self.text, &self.needles))
            .maybe("depth", self.depth)
            .maybe(
                "distractors",
                (!self.distractors.is_empty()).then(|| count(self.distractors.len(), "needle")),
            )
            .row("bundled model", trained(self.task))
    }
}

impl Describe for RulerConfig {
    fn table(&self) -> Table {
        Table::new(format!("{}, up to {}, seed {}", self.task, count(self.n_tokens, "token"), self.seed))
            .maybe("depth", self.depth)
            .maybe("essay", self.essay.as_ref().map(|essay| count(essay.len(), "byte")))
            .maybe("chat", self.chat.as_ref().map(|_| "in a chat template"))
    }
}

impl Describe for ChatFrame {
    fn table(&self) -> Table {
        Table::new("Chat template around a message")
            .row("before", format!("{:?}", self.before))
            .row("after", format!("{:?}", self.after))
    }
}

impl Describe for Task {
    fn table(&self) -> Table {
        Table::new(self.name()).row("bundled model", trained(*self))
    }
}

impl Describe for ChainSentence {
    fn table(&self) -> Table {
        Table::new(self.text.trim()).row("kind", self.kind).row("needs", needs(self))
    }
}

impl Describe for WordProblem {
    fn table(&self) -> Table {
        let title =
            format!("Word problem about {}: {}", count(self.facts.len(), "person"), self.question.trim());
        let table = Table::new(title.replace("persons", "people")).row("facts", self.facts.concat().trim());
        let said = |sentence: &ChainSentence| {
            format!("{} ({}; needs {})", sentence.text.trim(), sentence.kind, needs(sentence))
        };
        let table = self
            .chain
            .iter()
            .enumerate()
            .fold(table, |table, (i, sentence)| table.row(&i.to_string(), said(sentence)));
        table.row("answer", self.answer.trim())
    }
}

impl Describe for ReasoningPrompt {
    fn table(&self) -> Table {
        Table::new(format!("Word problem in {}", count(self.n_tokens, "token")))
            .row("question", piece(&self.text, &self.question))
            .row("facts", pieces(&self.text, &self.facts))
            .row("chain", count(self.chain.len(), "sentence"))
            .row("answer", self.answer.trim())
    }
}

fn trained(task: Task) -> &'static str {
    if task.in_training() { "trained for it" } else { "not trained for it" }
}

fn needs(sentence: &ChainSentence) -> String {
    let needs: Vec<String> = sentence.depends_on.iter().map(usize::to_string).collect();
    if needs.is_empty() { "nothing".into() } else { needs.join(", ") }
}

/// Returns the text of a range, which may be wrong in a prompt made by hand.
fn piece<'a>(text: &'a str, range: &Range<usize>) -> &'a str {
    text.get(range.clone()).unwrap_or("(outside the text)")
}

fn pieces(text: &str, ranges: &[Range<usize>]) -> String {
    let shown: Vec<&str> = ranges.iter().take(SHOWN).map(|range| piece(text, range)).collect();
    match ranges.len().saturating_sub(SHOWN) {
        0 => shown.join(" "),
        more => format!("{} … and {more} more", shown.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_says_what_is_asked_and_where_it_stands() {
        let prompt =
            RulerConfig { task: Task::NiahMultikey2, n_tokens: 4000, depth: Some(0.5), ..Default::default() };
        let prompt = prompt.prompt(&mut |text| Ok(text.len() / 4)).unwrap();
        let text = prompt.table().text();
        for part in [
            "niah_multikey_2, 3,9",
            "seed 0",
            "What is the special magic number for",
            "is: ",
            "0.5",
            " needles",
            "trained for it",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let broken =
            Prompt { needles: vec![5..usize::MAX, 9..9], question: usize::MAX - 1..usize::MAX, ..prompt };
        assert!(broken.table().text().contains("(outside the text)"));
    }

    #[test]
    fn a_problem_shows_its_chain_and_what_each_sentence_needs() {
        let problem = WordProblem::generate(5, 1).unwrap();
        let text = problem.table().text();
        assert!(text.starts_with("Word problem about 5 people: How many "), "{text}");
        assert!(
            text.contains("(plan_generation; needs 0)") && text.contains("(problem_setup; needs nothing)"),
            "{text}"
        );
        let prompt = problem.prompt(2000, &mut |text| Ok(text.len() / 4)).unwrap();
        assert!(prompt.table().text().contains(&count(problem.chain.len(), "sentence")));
    }
}
