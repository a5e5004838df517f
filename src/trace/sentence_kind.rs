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
    (SentenceKind::FinalAnswerEmission, &["final answer", "the answer is", "\\boxed", "therefore"]),
    (SentenceKind::UncertaintyManagement, &["wait", "hmm", "not sure", "alternatively", "maybe", "actually"]),
    (SentenceKind::SelfChecking, &["check", "verify", "confirm", "yes,"]),
    (
        SentenceKind::PlanGeneration,
        &["plan", "let me", "let's", "i'll", "first,", "next,", "we should", "we can"],
    ),
    (SentenceKind::ProblemSetup, &["i need to", "we need to", "the question", "asked to", "find how"]),
    (SentenceKind::ResultConsolidation, &["so,", "thus", "hence", "in total", "this means", "so we have"]),
    (
        SentenceKind::FactRetrieval,
        &["says that", "given that", "recall", "remember", "by definition", "is defined"],
    ),
];

impl SentenceKind {
    /// Returns a kind by simple rules: the first of a few words that give one away; else a computation if
    /// there is a digit and one of `=`, `+`, `*` or `/`; else filler. A guess that a user's own label should
    /// replace.
    pub fn of(text: &str) -> Self {
        let lower = text.to_lowercase();
        let by_word = WORDS.iter().find(|(_, words)| words.iter().any(|word| lower.contains(word)));
        let computes = lower.contains(['=', '+', '*', '/']) && lower.contains(|c: char| c.is_ascii_digit());
        match by_word {
            // "So 3 + 4 = 7" is a computation, whatever it begins with.
            Some((SentenceKind::ResultConsolidation | SentenceKind::PlanGeneration, _)) | None
                if computes =>
            {
                SentenceKind::ActiveComputation
            }
            Some((kind, _)) => *kind,
            None => SentenceKind::Filler,
        }
    }
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
        ] {
            assert_eq!(SentenceKind::of(text), kind, "{text}");
        }
    }
}
