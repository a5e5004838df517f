//! What a sentence of a chain of thought does.

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

    /// The published name, as in `fact_retrieval`.
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
