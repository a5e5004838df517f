//! The function of a sentence in a chain of thought.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of Bogdan et al. 2025, and filler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceKind {
    ProblemSetup,
    PlanGeneration,
    FactRetrieval,
    ActiveComputation,
    ResultConsolidation,
    UncertaintyManagement,
    SelfChecking,
    FinalAnswerEmission,
    /// Says nothing that a later sentence needs.
    Filler,
}

impl SentenceKind {
    /// Every kind, in the published order, filler last.
    pub const ALL: [SentenceKind; 9] = [
        SentenceKind::ProblemSetup,
        SentenceKind::PlanGeneration,
        SentenceKind::FactRetrieval,
        SentenceKind::ActiveComputation,
        SentenceKind::ResultConsolidation,
        SentenceKind::UncertaintyManagement,
        SentenceKind::SelfChecking,
        SentenceKind::FinalAnswerEmission,
        SentenceKind::Filler,
    ];

    /// Returns the published name, as in `fact_retrieval`.
    pub fn name(self) -> &'static str {
        match self {
            SentenceKind::ProblemSetup => "problem_setup",
            SentenceKind::PlanGeneration => "plan_generation",
            SentenceKind::FactRetrieval => "fact_retrieval",
            SentenceKind::ActiveComputation => "active_computation",
            SentenceKind::ResultConsolidation => "result_consolidation",
            SentenceKind::UncertaintyManagement => "uncertainty_management",
            SentenceKind::SelfChecking => "self_checking",
            SentenceKind::FinalAnswerEmission => "final_answer_emission",
            SentenceKind::Filler => "filler",
        }
    }
}

impl fmt::Display for SentenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Words that give a kind away, in lower case; the first kind with one of its words in a sentence is taken.
const WORDS: [(SentenceKind, &[&str]); 7] = [
    (
        SentenceKind::FinalAnswerEmission,
        &["final answer", "the answer is", "\\boxed", "therefore", "in conclusion"],
    ),
    (
        SentenceKind::UncertaintyManagement,
        &["wait", "hmm", "not sure", "unsure", "alternatively", "maybe", "perhaps", "actually"],
    ),
    (SentenceKind::SelfChecking, &["check", "double-check", "verify", "confirm", "yes,"]),
    (
        SentenceKind::PlanGeneration,
        &[
            "plan",
            "let me",
            "let's",
            "i'll",
            "first,",
            "next,",
            "we should",
            "we can",
            "steps",
            "step by step",
            "break it down",
            "break this down",
        ],
    ),
    (
        SentenceKind::ProblemSetup,
        &["i need to", "we need to", "the question", "the problem", "asked to", "find how", "we are given"],
    ),
    (
        SentenceKind::ResultConsolidation,
        &[
            "so,",
            "thus",
            "hence",
            "in total",
            "this means",
            "so we have",
            "we get",
            "which gives",
            "the result",
        ],
    ),
    (
        SentenceKind::FactRetrieval,
        &["says that", "given that", "recall", "remember", "by definition", "is defined"],
    ),
];

/// Words with which a step begins that says what will be done, in lower case.
const STEPS: [&str; 24] = [
    "add",
    "apply",
    "calculate",
    "compare",
    "compute",
    "convert",
    "count",
    "define",
    "determine",
    "divide",
    "evaluate",
    "express",
    "find",
    "identify",
    "list",
    "multiply",
    "simplify",
    "solve",
    "start",
    "substitute",
    "subtract",
    "sum",
    "use",
    "write",
];

/// Signs of a computation; a fraction alone is a number.
const OPERATORS: [&str; 8] = ["=", "+", "*", "×", "÷", " / ", "\\times", "\\cdot"];

/// Words that stand for a quantity, beside digits.
const QUANTITIES: [&str; 8] = ["half", "twice", "double", "triple", "quarter", "dozen", "percent", "each"];

impl SentenceKind {
    /// Returns a kind by simple rules, a guess that a user's own label should replace.
    ///
    /// The first of a few words that give one away decides; else a computation has a digit and an operator, or
    /// is a code block; a step of a list that begins with a verb such as "calculate" is a plan; a question and
    /// a variable's definition set up the problem; a sentence with a quantity states a fact; others are filler.
    pub fn of(text: &str) -> Self {
        let lower = text.to_lowercase();
        // "**Calculate**" and "- a * b" are no products.
        let plain = lower.replace("**", "");
        let step = without_mark(&plain);
        let has_digit = plain.contains(|c: char| c.is_ascii_digit());
        let computes =
            has_digit && OPERATORS.iter().any(|operator| step.contains(operator)) || text.contains("```");
        let by_word = WORDS.iter().find(|(_, words)| words.iter().any(|word| has_word(&lower, word)));
        match by_word {
            // "So 3 + 4 = 7" is a computation, whatever it begins with.
            Some((SentenceKind::ResultConsolidation | SentenceKind::PlanGeneration, _)) | None
                if computes =>
            {
                SentenceKind::ActiveComputation
            }
            Some((kind, _)) => *kind,
            None => Self::without_words(step, has_digit),
        }
    }

    /// Returns the kind of a sentence without a computation and a word that gives a kind away.
    fn without_words(step: &str, has_digit: bool) -> Self {
        if STEPS.iter().any(|verb| step.strip_prefix(verb).is_some_and(|rest| rest.starts_with(' '))) {
            SentenceKind::PlanGeneration
        } else if step.ends_with('?') || step.starts_with("let ") {
            SentenceKind::ProblemSetup
        } else if has_digit || QUANTITIES.iter().any(|word| has_word(step, word)) {
            SentenceKind::FactRetrieval
        } else {
            SentenceKind::Filler
        }
    }
}

/// Returns a sentence without the mark of a list's item, a heading or a step before it, such as `2.` or `Step 2:`.
fn without_mark(text: &str) -> &str {
    let text = text.trim_start_matches(['-', '*', '•', '#', ' ']);
    let number = text.strip_prefix("step ").unwrap_or(text);
    let rest = number.trim_start_matches(|c: char| c.is_ascii_digit());
    match rest.strip_prefix(['.', ')', ':']) {
        Some(after) if rest.len() < number.len() && after.starts_with(' ') => after.trim_start(),
        _ => text,
    }
}

/// Returns whether a text holds a word, or words, and not as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !(is_part(before) || is_part(word.chars().next_back()) && is_part(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_simple() {
        for (text, kind) in [
            ("So 3 + 4 = 7.", SentenceKind::ActiveComputation),
            ("Wait, that is wrong.", SentenceKind::UncertaintyManagement),
            ("The grass is green.", SentenceKind::Filler),
            ("The final answer is 7.", SentenceKind::FinalAnswerEmission),
            ("We await the checks of a wayward plane.", SentenceKind::Filler),
        ] {
            assert_eq!(SentenceKind::of(text), kind, "{text}");
        }
    }

    /// Sentences that Qwen2.5-Coder-0.5B wrote.
    #[test]
    fn lines_of_a_real_chain_are_no_filler() {
        for (text, kind) in [
            (
                "To solve this problem, we need to break it down into several steps:",
                SentenceKind::PlanGeneration,
            ),
            ("2. Determine the number of loaves left after Monday.", SentenceKind::PlanGeneration),
            ("1. **Calculate the number of loaves sold on Monday:**", SentenceKind::PlanGeneration),
            ("### Step 2: Sum the revenues of both days", SentenceKind::PlanGeneration),
            ("- The bakery bakes 120 loaves of bread every morning.", SentenceKind::FactRetrieval),
            ("- On Tuesday, it sold half of the remaining loaves.", SentenceKind::FactRetrieval),
            (
                "- On Monday, it sold \\(\\frac{3}{4}\\) of its loaves before noon.",
                SentenceKind::FactRetrieval,
            ),
            ("- Let \\(x\\) be the number of loaves sold before noon.", SentenceKind::ProblemSetup),
            (
                "- Solving for \\(x\\), we get \\(x = \\frac{5}{4} \\times 120 = 150\\).",
                SentenceKind::ActiveComputation,
            ),
            ("- So, the number of loaves sold on Monday is \\(150\\).", SentenceKind::ResultConsolidation),
            ("How much money does the bakery make?", SentenceKind::ProblemSetup),
            ("```python\nprint(1)\n```", SentenceKind::ActiveComputation),
        ] {
            assert_eq!(SentenceKind::of(text), kind, "{text}");
        }
    }
}
